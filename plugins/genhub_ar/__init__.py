"""Autoregression: a transformer that draws an element number by number, or code by code."""

from genhub_ar.ar import AR

__all__ = ["AR"]
