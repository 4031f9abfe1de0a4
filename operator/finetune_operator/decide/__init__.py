"""Pure: the world in, a decision out."""
