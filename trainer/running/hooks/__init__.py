"""Everything periodic, each a `SessionRunHook`."""
