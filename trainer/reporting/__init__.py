"""What a run writes for people and tools."""
