"""Formats of others: which of their tensors each of our parameters becomes."""
