"""Modalities: what a column can be, one file each, and the modules by which networks are given one.
Rooms above may use every name without a `_`."""
