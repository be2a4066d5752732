"""Displacements and what is done with them: three representations, one warp, and the algebra of transforms."""

from r2n2.transform.bspline import BSplineField, bspline_basis, bspline_displacement, refine_control_points
from r2n2.transform.displacement import (
    DisplacementField,
    Inverse,
    Transform,
    cell_determinants,
    compose,
    folding_percent,
    inverse,
    jacobian_determinant,
    map_points,
    sampled,
    warp_image,
)
from r2n2.transform.enlarging import CoarseLattice
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
from r2n2.transform.rows import RowField, lattice_rows, row_blocks
from r2n2.transform.warp import (
    Warped,
    mask_of,
    normalised_axes,
    normalised_lattice,
    resample,
    sample_masked,
    sample_normalised,
    warp,
)

__all__ = [
    "BSplineField",
    "CoarseLattice",
    "DisplacementField",
    "GaussianSequence",
    "Inverse",
    "JacobianBound",
    "RowField",
    "Transform",
    "Warped",
    "bspline_basis",
    "bspline_displacement",
    "cell_determinants",
    "compose",
    "folding_percent",
    "gaussian_displacement",
    "gaussian_jacobian_bound",
    "gaussian_weights",
    "inverse",
    "jacobian_bound",
    "jacobian_determinant",
    "lattice_rows",
    "linear_displacement",
    "map_points",
    "mask_of",
    "normalised_axes",
    "normalised_lattice",
    "orientation_of_axes",
    "precision_matrix",
    "principal_axes",
    "refine_control_points",
    "resample",
    "row_blocks",
    "sample_masked",
    "sample_normalised",
    "sampled",
    "warp",
    "warp_image",
]
