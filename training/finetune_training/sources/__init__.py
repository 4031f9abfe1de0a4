"""Files as people have them → rows of three kinds, and what of them nothing uses."""
