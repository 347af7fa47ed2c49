"""Sessions, threads and signals."""
