"""How are shards written, indexed, cached and read?"""
