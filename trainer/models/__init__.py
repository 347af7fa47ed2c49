"""Images -> logits: one `inference` function that training, evaluation and export share."""
