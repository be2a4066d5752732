"""Displacements and what is done with them: three representations, one warp, and the algebra of transforms."""

from r2n2.transform.bspline import BSplineField, bspline_basis, bspline_displacement, refine_control_points
from r2n2.transform.displacement import (
    DisplacementField,
    Inverse,
    Transform,
    compose,
    folding_percent,
    inverse,
    jacobian_determinant,
    map_points,
    sampled,
    warp_image,
)
from r2n2.transform.folding_proof import jacobian_bound
from r2n2.transform.gaussians import (
    GaussianSequence,
    gaussian_displacement,
    gaussian_weights,
    linear_displacement,
    orientation_of_axes,
    precision_matrix,
    principal_axes,
)
from r2n2.transform.jacobian_bound import JacobianBound, gaussian_jacobian_bound
from r2n2.transform.warp import Warped, mask_of, normalised_lattice, resample, sample_masked, sample_normalised, warp

__all__ = [
    "BSplineField",
    "DisplacementField",
    "GaussianSequence",
    "Inverse",
    "JacobianBound",
    "Transform",
    "Warped",
    "bspline_basis",
    "bspline_displacement",
    "compose",
    "folding_percent",
    "gaussian_displacement",
    "gaussian_jacobian_bound",
    "gaussian_weights",
    "inverse",
    "jacobian_bound",
    "jacobian_determinant",
    "linear_displacement",
    "map_points",
    "mask_of",
    "normalised_lattice",
    "orientation_of_axes",
    "precision_matrix",
    "principal_axes",
    "refine_control_points",
    "resample",
    "sample_masked",
    "sample_normalised",
    "sampled",
    "warp",
    "warp_image",
]
