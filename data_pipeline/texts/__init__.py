"""How does a text become ids?"""
