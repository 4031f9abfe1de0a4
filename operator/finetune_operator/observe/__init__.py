"""What there is, newest first, as values."""
