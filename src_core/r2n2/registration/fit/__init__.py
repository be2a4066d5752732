"""Registration without training: Gaussians fitted to each pair by damped Gauss-Newton steps."""

from r2n2.registration.fit.growing import GrowingFit
from r2n2.registration.fit.method import FitMethod, Round, plan_rounds

__all__ = ["FitMethod", "GrowingFit", "Round", "plan_rounds"]
