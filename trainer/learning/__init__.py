"""Logits -> losses -> gradients -> updates."""
