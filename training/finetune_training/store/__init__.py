"""URIs → objects: one library for all schemes."""
