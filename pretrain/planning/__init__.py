"""How much memory and traffic will a run need?"""
