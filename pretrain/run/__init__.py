"""How does a run go from its config to its last step? The loop, the step, the log."""
