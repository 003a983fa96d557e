"""What do the evaluating commands share?"""
