"""Chat templates: the one that trains, its arguments, and what it does with what it is given."""
