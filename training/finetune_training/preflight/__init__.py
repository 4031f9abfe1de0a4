"""What is looked at before Ray starts: model, tokenizer, job, the temporary folder."""
