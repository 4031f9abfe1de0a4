"""What the operator may know of a run: what is asked for, and how it can fail."""
