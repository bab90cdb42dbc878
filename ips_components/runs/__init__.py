"""Coupled runs from Python and Jupyter: start one, watch it, and open what it left behind."""

from ips_components.runs.handle import Run, run
from ips_components.runs.result import RunResult

__all__ = ["Run", "RunResult", "run"]
