"""Data: raw sources to WebDataset shards, and shards to deterministic batches.

Imports nothing of the network or of a run.
"""
