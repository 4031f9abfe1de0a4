"""What happens in a run, as values and as words."""
