"""Which settings does a run have, and how does a command read them?"""
