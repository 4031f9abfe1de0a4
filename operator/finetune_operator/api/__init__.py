"""What a FineTuneJob is, and all that is generated from it."""
