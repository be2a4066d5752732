"""The proof of no folding that belongs to each kind of transform."""

from __future__ import annotations

import math

from r2n2.transform.bspline import BSplineField
from r2n2.transform.displacement import DisplacementField, Transform
from r2n2.transform.gaussians import GaussianSequence
from r2n2.transform.jacobian_bound import JacobianBound, gaussian_jacobian_bound
from r2n2.transform.spline_bound import bspline_jacobian_bound, field_jacobian_bound

__all__ = ["jacobian_bound"]


def jacobian_bound(
    transform: Transform, *, tolerance: float = 0.005, enough: float = math.inf, everywhere: bool = False
) -> JacobianBound:
    """Lower bound of the determinant of the Jacobian of x -> x + f(x), between pixels too.

    Parameters
    ----------
    transform
        Gaussians, cubic B-splines or a dense field, which is linear between its pixels.
    tolerance
        ``proven`` is at most so much below the smallest value found.
    enough
        Places where the determinant is at least this large are not looked at more closely.
    everywhere
        Of Gaussians: over the whole space and not the frame alone. A positive bound then says that no two points are mapped to
        the same place. Splines are bounded over the frame, beyond which they are constant.

    Raises
    ------
    TypeError
        If it is another kind of transform.
    """
    if isinstance(transform, GaussianSequence):
        linear = None if transform.linear is None else transform.linear[:, :-1]
        return gaussian_jacobian_bound(transform, tolerance=tolerance, enough=enough, everywhere=everywhere, linear=linear)
    if isinstance(transform, BSplineField):
        return bspline_jacobian_bound(transform, tolerance=tolerance, enough=enough)
    if isinstance(transform, DisplacementField):
        return field_jacobian_bound(transform, tolerance=tolerance, enough=enough)
    raise TypeError(
        f"transform: there is a proof for GaussianSequence, BSplineField and DisplacementField, got {type(transform).__name__}"
    )
