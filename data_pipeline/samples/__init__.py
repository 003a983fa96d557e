"""What is a sample before it is in a shard?"""
