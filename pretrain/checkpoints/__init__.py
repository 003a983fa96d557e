"""How is the state of a run saved, found and loaded?"""
