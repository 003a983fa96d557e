"""What can be seen of a run while it goes on? Figures of each step, for TensorBoard and others, and norms by part."""
