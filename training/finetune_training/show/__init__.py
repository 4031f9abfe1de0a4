"""A run for people: the terminal, the report, the model card."""
