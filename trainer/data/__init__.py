"""Bytes -> numpy -> TFRecord shards."""
