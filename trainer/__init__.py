"""Trains image models in TensorFlow graph mode: one tower per GPU, fed by queues."""

__version__ = "0.1.0"
