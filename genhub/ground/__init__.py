"""Foundations of everything else: parsing, files that appear whole, digests, weights, randomness, processes, the console. No
model, data set or recipe is known here. Rooms above may use every name without a `_`; `disk` alone writes a file."""
