"""Data that a function of the user's gives."""
