"""What both packages know of a run: what is asked for, what it says of itself, how it can fail, and the names of all that."""
