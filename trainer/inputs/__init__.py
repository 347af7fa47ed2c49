"""TFRecord shards -> batches, in four ways."""
