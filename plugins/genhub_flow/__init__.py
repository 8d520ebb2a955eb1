"""Flow matching and its one-step form, mean flows, and the solvers that follow a flow."""

from genhub_flow.flow import Flow
from genhub_flow.meanflow import MeanFlow

__all__ = ["Flow", "MeanFlow"]
