"""How do processes share the work of a command, and what is reported if one of them dies?"""
