"""Models of an energy, or of its gradient: what is drawn lies where it is low."""

from genhub_ebm.ebm import EBM
from genhub_ebm.eqm import EqM

__all__ = ["EBM", "EqM"]
