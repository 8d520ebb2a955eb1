"""Conditions of any modality, made into what networks take; dropout and guidance.
Rooms above may use every name without a `_`."""
