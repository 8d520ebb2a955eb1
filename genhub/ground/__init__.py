"""Foundations of everything else: parsing, files that appear whole, digests, weights, randomness, processes, the console.
No model, data set or recipe is known here.
"""
