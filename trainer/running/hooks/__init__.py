"""Everything periodic, each a `SessionRunHook`.

A hook with a method `due(step) -> bool` is only run at the steps for which it says yes; at steps where none is due the
loop takes a shorter way. Hooks without it, as TensorFlow's own, are run at every step.
"""
