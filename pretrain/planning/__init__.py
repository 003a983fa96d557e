"""How much memory, traffic and time will a run need?"""
