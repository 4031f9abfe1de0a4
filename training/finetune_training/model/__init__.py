"""The base model in, artifacts out."""
