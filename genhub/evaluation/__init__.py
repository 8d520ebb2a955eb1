"""Numbers that can be compared: one protocol for every family of models, stored with every number.

metrics.py      how far generated images are from real ones, as functions of features
extractors.py   images to features, by networks that others trained
probe.py        images to features and labels, by a small network trained on the data set itself; works offline
cache.py        what is computed of real images once
protocol.py     what a number depends on, the weights among it, and the file that it is stored in
evaluate.py     draws the images once, and hands them to every metric
during.py       does so while a run trains
"""
