"""Lifelong: continual learning, model editing and memory banks, without losing the old."""
