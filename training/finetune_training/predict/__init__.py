"""Prompts in, completions out: one at a time or whole files."""
