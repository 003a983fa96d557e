"""How is each layout of raw data read?"""
