"""Rows → tokens → packed shards, made once and read by index."""
