"""Keys in, decide, act, again."""
