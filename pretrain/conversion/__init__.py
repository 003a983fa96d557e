"""How do weights move between our runs and the formats of others?"""
