"""How do texts become token ids?"""
