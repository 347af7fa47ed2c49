"""Sessions, threads, stalls, the loop and its hooks."""
