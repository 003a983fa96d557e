"""What happens if something goes wrong, or somebody stops the run?"""
