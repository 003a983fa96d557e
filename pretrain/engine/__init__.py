"""How do memory and communication work? DeepSpeed, its config, the optimizer."""
