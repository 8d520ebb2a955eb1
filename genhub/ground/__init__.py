"""What everything else stands on: parsing, files that appear whole, digests, weights, randomness, processes, the console.
No model, data set or recipe is known here.
"""
