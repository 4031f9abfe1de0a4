"""A run for its cluster: `status.run` of the FineTuneJob."""
