"""Probes: exams that measure what a model or a store remembers."""
