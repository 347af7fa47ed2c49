"""Every setting of a run, from its flag to its checked value."""
