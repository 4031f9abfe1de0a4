"""What outlives the ranks: saved, published, found again and loaded, also by another number of ranks."""
