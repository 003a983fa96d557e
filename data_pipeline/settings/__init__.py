"""Which values may a setting have, and how are they read from a command line?"""
