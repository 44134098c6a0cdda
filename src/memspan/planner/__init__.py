"""Planner: predicts bytes and chooses systems under a budget."""
