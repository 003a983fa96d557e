"""How well does a trained network predict hidden words and patches of held-out samples?"""
