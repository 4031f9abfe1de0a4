"""Effects become requests, and nothing else does."""
