"""How do shards become the batches of a run?"""
