"""Gradient flow: how far gradients reach in time, Jacobians, Lyapunov spectra, gates, and what mends them."""

from nextstate.dynamics.flossing import flossing_loss
from nextstate.dynamics.gates import Gate, gates
from nextstate.dynamics.gradients import Probed, Reach, gradient_norms, reach
from nextstate.dynamics.inspection import inspect
from nextstate.dynamics.lyapunov import Spectrum, lyapunov
from nextstate.dynamics.mean_field import MeanField, mean_field
from nextstate.dynamics.observe import observed
from nextstate.dynamics.products import jacobians, lagged_singular_values
from nextstate.dynamics.report import Part, Report

__all__ = [
    "Gate",
    "MeanField",
    "Part",
    "Probed",
    "Reach",
    "Report",
    "Spectrum",
    "flossing_loss",
    "gates",
    "gradient_norms",
    "inspect",
    "jacobians",
    "lagged_singular_values",
    "lyapunov",
    "mean_field",
    "observed",
    "reach",
]
