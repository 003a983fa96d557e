"""The data: raw sources to WebDataset shards, shards to deterministic batches.

Knows nothing of the network or of a run.
"""
