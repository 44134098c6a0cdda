"""A small-window reasoner trained by reward, with its knowledge in an external bank (Han et al. 2025, arXiv 2502.19402).

A position paper without code: this is the smallest system that follows it. Nothing here shows general reasoning.
"""
