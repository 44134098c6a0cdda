"""Weights: compress, share and page the parameters; compact nets."""
