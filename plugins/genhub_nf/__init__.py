"""Normalizing flows: invertible maps between data and noise, with exact densities."""

from genhub_nf.realnvp import RealNVP
from genhub_nf.tarflow import TarFlow

__all__ = ["RealNVP", "TarFlow"]
