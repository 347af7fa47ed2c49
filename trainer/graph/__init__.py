"""All parts into one step, the graph of a training, and that of an evaluation."""
