"""Images -> logits: functions of models, and one building that training, evaluation and export share."""
