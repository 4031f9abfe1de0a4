"""What will be trained, looked at before it is: sources, rows as the model sees them, checks."""
