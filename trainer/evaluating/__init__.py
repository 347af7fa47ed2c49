"""Exact evaluation, and what is done with its figures."""
