"""Sums of local Gaussian deformations in NORMALISED space: the paper's representation of a displacement.

The steps of a sequence are SUMMED, f_t = f_{t-1} + l_t (equation 7): they are not composed, and the original moving image
is resampled with f_t each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.transform.displacement import DisplacementField
from r2n2.transform.enlarging import CoarseLattice
from r2n2.transform.warp import normalised_lattice

__all__ = [
    "FOLDING_STEEPNESS",
    "GaussianSequence",
    "gaussian_displacement",
    "gaussian_on_lattice",
    "gaussian_weights",
    "linear_displacement",
    "orientation_of_axes",
    "precision_matrix",
    "principal_axes",
    "squared_steepness",
]

FOLDING_STEEPNESS = math.exp(0.5)
"""Steepness |S^-1/2 v| from which on a Gaussian folds alone: its smallest Jacobian determinant is 1 - |S^-1/2 v| exp(-1/2)."""

_AT_ONCE = 2**15  # places in a volume at which all Gaussians are held
_POINTS_A_SIGMA = 3.0  # through which splines are drawn


def principal_axes(orientation: Tensor) -> Tensor:
    """Directions of a Gaussian's principal axes.

    Parameters
    ----------
    orientation
        (..., 1) for 2D: angle in radians from x towards y. (..., 3) for 3D: rotation vector in array order (z, y, x), so
        that a 2D angle a is the 3D rotation (a, 0, 0).

    Returns
    -------
    Tensor
        (..., ndim, ndim); row k is the unit vector, in array order, of axis k + 1. Unrotated they are x, y (and z).
    """
    if orientation.shape[-1] == 1:
        cos, sin = torch.cos(orientation[..., 0]), torch.sin(orientation[..., 0])
        return torch.stack((torch.stack((sin, cos), -1), torch.stack((cos, -sin), -1)), -2)
    z, y, x = orientation.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(skew).mT.flip(-1)


def orientation_of_axes(axes: Tensor) -> Tensor:
    """Orientation whose principal axes are these, up to their sign: the inverse of ``principal_axes``.

    Parameters
    ----------
    axes
        (..., ndim, ndim), row k the unit vector of axis k + 1 in array order.

    Returns
    -------
    Tensor
        (..., 1) angle in [0, pi), or (..., 3) rotation vector of length at most pi.
    """
    if axes.shape[-1] == 2:
        return (torch.atan2(axes[..., 0, 0], axes[..., 0, 1]) % math.pi).unsqueeze(-1)
    rotation = axes.flip(-1).mT
    # A mirrored frame has the same Gaussian: turn the third axis round.
    sign = torch.linalg.det(rotation).sign()
    rotation = torch.cat((rotation[..., :2], rotation[..., 2:] * sign[..., None, None]), -1)
    # Quaternion by the largest of its four components (Shepperd), stable for every angle.
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack((1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz), -1)
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    rows = torch.stack(
        [
            torch.stack((squares[..., 0], a, b, c), -1),
            torch.stack((a, squares[..., 1], d, e), -1),
            torch.stack((b, d, squares[..., 2], f), -1),
            torch.stack((c, e, f, squares[..., 3]), -1),
        ],
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = torch.nn.functional.normalize(rows.gather(-2, best).squeeze(-2), dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    vector = torch.where(sine > 0, quaternion[..., 1:] * (angle / sine.clamp_min(1e-12)), torch.zeros_like(quaternion[..., 1:]))
    return vector.flip(-1)


def precision_matrix(sigmas: Tensor, orientation: Tensor) -> Tensor:
    """Inverse covariance S^-1 of equations (8)-(9), (..., ndim, ndim) in array order.

    Parameters
    ----------
    sigmas
        (..., ndim) standard deviations along principal axes 1, 2(, 3). The paper leaves open whether they are squared in
        equation (9); they are, as in its authors' code.
    orientation
        As in ``principal_axes``.
    """
    axes = principal_axes(orientation)
    return (axes.mT / sigmas.square().unsqueeze(-2)) @ axes


def squared_steepness(amplitudes: Tensor, precision: Tensor) -> Tensor:
    """V' S^-1 v (...) of amplitudes (..., ndim) and inverse covariances (..., ndim, ndim); its root is the steepness |S^-1/2 v|."""
    return torch.einsum("...i,...ij,...j->...", amplitudes, precision, amplitudes)


def gaussian_weights(positions: Tensor, centres: Tensor, precision: Tensor) -> Tensor:
    """Height exp(-1/2 (x-c)' S^-1 (x-c)) of every Gaussian at every position (equation 8 without v).

    Parameters
    ----------
    positions
        (ndim, P) or (B, ndim, P) NORMALISED.
    centres, precision
        (B, T, ndim) and (B, T, ndim, ndim).

    Returns
    -------
    Tensor
        (B, T, P).
    """
    positions = positions if positions.ndim == 3 else positions[None]
    ndim = centres.shape[-1]
    offset = [positions[:, None, i] - centres[..., i, None] for i in range(ndim)]
    distance = sum(precision[..., i, i, None] * offset[i].square() for i in range(ndim))
    for i in range(ndim):
        for j in range(i):
            distance = distance + 2 * precision[..., i, j, None] * offset[i] * offset[j]
    assert isinstance(distance, Tensor)
    return torch.exp(-0.5 * distance)


def gaussian_on_lattice(lattice: Tensor, centres: Tensor, precision: Tensor) -> Tensor:
    """Height of one Gaussian a pair on a whole lattice: ``gaussian_weights`` where positions are those of ``normalised_lattice``.

    Each coordinate of such a lattice changes along its own axis alone, so most of the exponent is a sum of rows and columns.

    Parameters
    ----------
    lattice
        (ndim, *shape) NORMALISED.
    centres, precision
        (B, ndim) and (B, ndim, ndim).

    Returns
    -------
    Tensor
        (B, *shape).
    """
    ndim = len(lattice)
    offset = []
    for i in range(ndim):
        axis = lattice[i][tuple(slice(None) if k == i else 0 for k in range(ndim))]
        offset.append((axis - centres[:, i, None]).view(-1, *(len(axis) if k == i else 1 for k in range(ndim))))
    entries = precision.view(*precision.shape, *[1] * ndim)
    exponent = sum(-0.5 * entries[:, i, i] * offset[i].square() for i in range(ndim))
    assert isinstance(exponent, Tensor)
    for i in range(ndim):
        for j in range(i):
            exponent = exponent.addcmul_(entries[:, i, j] * offset[i], offset[j], value=-1)
    return exponent.exp_()


def gaussian_displacement(positions: Tensor, centres: Tensor, precision: Tensor, amplitudes: Tensor) -> Tensor:
    """Sum over T of v exp(-1/2 (x-c)' S^-1 (x-c)) (equations 7 and 8), (B, ndim, P)."""
    return amplitudes.mT @ gaussian_weights(positions, centres, precision)


def linear_displacement(linear: Tensor, positions: Tensor) -> Tensor:
    """A x + b at positions (ndim, *shape), (B, ndim, *shape), of linear parts [A | b] (B, ndim, ndim + 1); all NORMALISED."""
    moved = linear[:, :, :-1] @ positions.flatten(1) + linear[:, :, -1:]
    return moved.unflatten(2, positions.shape[1:])


@dataclass(frozen=True, eq=False)
class GaussianSequence:
    """T local Gaussian deformations of one frame, whose SUM is its displacement, after a motion of the frame as a whole if any.

    Parameters
    ----------
    centres
        (T, ndim) NORMALISED, array order.
    sigmas
        (T, ndim) standard deviations along the principal axes, NORMALISED.
    orientation
        (T, 1) angle or (T, 3) rotation vector, see ``principal_axes``. A rotation here is the same rotation in mm, as
        NORMALISED space is isotropic.
    amplitudes
        (T, ndim) displacement at the centre, NORMALISED, array order.
    grid
        The frame's lattice, whose NORMALISED space all of the above is in.
    linear
        (ndim, ndim + 1) [A | b], NORMALISED, array order: A x + b is added to the Gaussians everywhere, whichever of them are
        selected. None for none.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite or a sigma is not positive.
    """

    centres: Tensor
    sigmas: Tensor
    orientation: Tensor
    amplitudes: Tensor
    grid: Grid
    linear: Tensor | None = None

    def __post_init__(self) -> None:
        count, ndim = len(self.centres), self.grid.ndim
        expected = {"centres": ndim, "sigmas": ndim, "orientation": 1 if ndim == 2 else 3, "amplitudes": ndim}
        for name, width in expected.items():
            value: Tensor = getattr(self, name)
            if tuple(value.shape) != (count, width):
                raise ValueError(f"GaussianSequence: {name} must have shape ({count}, {width}), got {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"GaussianSequence: {name} holds a number that is not finite")
        if not bool((self.sigmas > 0).all()):
            raise ValueError("GaussianSequence: every sigma must be positive")
        if self.linear is not None and tuple(self.linear.shape) != (ndim, ndim + 1):
            raise ValueError(f"GaussianSequence: linear must have shape ({ndim}, {ndim + 1}), got {tuple(self.linear.shape)}")
        if self.linear is not None and not bool(torch.isfinite(self.linear).all()):
            raise ValueError("GaussianSequence: linear holds a number that is not finite")

    def __len__(self) -> int:
        return len(self.centres)

    @classmethod
    def identity(cls, grid: Grid) -> GaussianSequence:
        """No deformation: a sequence of no steps."""
        width = 1 if grid.ndim == 2 else 3
        none = torch.zeros(0, grid.ndim)
        return cls(none, none, torch.zeros(0, width), none, grid)

    def select(self, steps: slice | Tensor) -> GaussianSequence:
        """Some of the steps: a slice, indices, or a (T,) bool mask that switches the others off."""
        return replace(
            self,
            centres=self.centres[steps],
            sigmas=self.sigmas[steps],
            orientation=self.orientation[steps],
            amplitudes=self.amplitudes[steps],
        )

    def displacement_at(self, positions: Tensor) -> Tensor:
        """Displacement (P, ndim) at positions (P, ndim), both NORMALISED; exact, not interpolated."""
        if self.grid.ndim == 3 and len(positions) > _AT_ONCE:
            return torch.cat([self.displacement_at(part) for part in positions.split(_AT_ONCE)])
        return self._evaluate(positions.mT).mT

    def linear_field(self) -> DisplacementField:
        """The displacement of the linear part alone, on the grid."""
        return self.displacement_field(upto=0)

    def displacement_field(self, upto: int | None = None) -> DisplacementField:
        """The sum of the first ``upto`` steps (all by default) on the grid; of volumes as by ``on_points``."""
        part = self if upto is None else self.select(slice(0, upto))
        if self.grid.ndim == 3:
            points, values = part.on_points()
            return DisplacementField(points.enlarged(values[None])[0], self.grid, Space.NORMALISED)
        return DisplacementField(part.on_lattice(normalised_lattice(self.grid, self.centres)), self.grid, Space.NORMALISED)

    def on_points(self) -> tuple[CoarseLattice, Tensor]:
        """The displacement (ndim, *counts) on so few points that cubic splines through them hold it to 3e-4 of every amplitude.

        The narrowest Gaussian decides how far they lie apart, so a small volume may need one at every voxel, where all is exact.
        """
        needed = torch.ones(self.grid.ndim)
        if len(self):
            # Along an axis a Gaussian changes within its width with the other coordinates kept.
            narrowest = precision_matrix(self.sigmas, self.orientation).diagonal(dim1=1, dim2=2).amax(0).rsqrt()
            needed = torch.ceil(
                2 * _POINTS_A_SIGMA * self.centres.new_tensor(self.grid.half_extent_mm) / self.grid.unit_mm / narrowest
            )
        points = CoarseLattice.build(self.grid, [int(count) + 1 for count in needed.tolist()], self.centres)
        return points, self.on_lattice(points.lattice())

    def on_lattice(self, lattice: Tensor) -> Tensor:
        """The sum (ndim, *shape) at the positions of a ``normalised_lattice``, or of one that is as regular."""
        precision = precision_matrix(self.sigmas, self.orientation)
        field = torch.zeros_like(lattice)
        if self.linear is not None:
            field = linear_displacement(self.linear[None].to(lattice), lattice)[0]
        # One after another, so that memory holds one Gaussian and not all on every pixel.
        for k in range(len(self)):
            height = gaussian_on_lattice(lattice, self.centres[k : k + 1], precision[k : k + 1])
            field = field.addcmul_(self.amplitudes[k].view(-1, *[1] * self.grid.ndim), height)
        return field

    def partial_sums(self) -> Tensor:
        """Displacement on the grid after 0, 1, ... T steps, (T + 1, ndim, *grid.shape) NORMALISED: f_0 to f_T of equation (7)."""
        lattice = normalised_lattice(self.grid, self.centres).flatten(1)
        precision = precision_matrix(self.sigmas, self.orientation)
        weights = gaussian_weights(lattice, self.centres[None], precision[None])[0]
        sums = (self.amplitudes[:, :, None] * weights[:, None]).cumsum(0)
        begun = torch.zeros_like(lattice)[None]
        if self.linear is not None:
            begun = linear_displacement(self.linear[None].to(lattice), lattice)
        return torch.cat((begun, begun + sums)).unflatten(2, self.grid.shape)

    def _evaluate(self, positions: Tensor) -> Tensor:
        dtype = positions.dtype
        precision = precision_matrix(self.sigmas, self.orientation).to(dtype)
        found = gaussian_displacement(positions, self.centres.to(dtype)[None], precision[None], self.amplitudes.to(dtype)[None])[0]
        return found if self.linear is None else found + linear_displacement(self.linear[None].to(positions), positions)[0]

    def centres_mm(self) -> Tensor:
        """(T, ndim) WORLD positions."""
        return self.grid.convert_points(self.centres, Space.NORMALISED, Space.WORLD)

    def sigmas_mm(self) -> Tensor:
        """(T, ndim) standard deviations in mm."""
        return self.sigmas * self.grid.unit_mm

    def amplitudes_mm(self) -> Tensor:
        """(T, ndim) WORLD vectors at the centres in mm."""
        return self.grid.convert_vectors(self.amplitudes, Space.NORMALISED, Space.WORLD)

    def angles_deg(self) -> Tensor:
        """(T,) angle of principal axis 1 in WORLD space from x towards y, in [0, 180) degrees; 2D only."""
        if self.grid.ndim != 2:
            raise ValueError("GaussianSequence.angles_deg: only a 2D Gaussian has one angle; use orientation")
        first = self.grid.convert_vectors(principal_axes(self.orientation)[:, 0], Space.NORMALISED, Space.WORLD)
        return torch.rad2deg(torch.atan2(first[:, 0], first[:, 1])) % 180

    def single_step_folds(self) -> Tensor:
        """(T,) whether a step alone folds, its steepness being ``FOLDING_STEEPNESS`` or more."""
        squared = squared_steepness(self.amplitudes, precision_matrix(self.sigmas, self.orientation))
        return squared >= FOLDING_STEEPNESS**2
