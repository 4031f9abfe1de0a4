"""The command `finetune`: arguments in, exit codes out."""
