"""Whether a registration that looks finished is right: signs that it is not, measured on both frames, smoothed and at few pixels.

A method always finds something: where a frame lies out of its reach, or shows its tissue in another contrast, it raises the
similarity with a displacement that means nothing. The limits below were chosen on simulated frames; the concept page on doubt
has their table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.preprocessing import blur, blur_measured
from r2n2.registration.intensity_relation import explained_by_a_curve, explained_by_a_line
from r2n2.registration.measures import left_where_longest
from r2n2.similarity import correlation
from r2n2.transform import normalised_lattice, resample, warp

__all__ = ["reasons_for_doubt"]

_MOST_PIXELS_A_SIDE = {2: 128, 3: 64}
# Standard deviations in NORMALISED units: noise is below the first, a piece of anatomy about as large as the second.
_NOISE, _PIECE = 0.024, 0.08
# Local variances count from this share of the image's variance on.
_FLAT = 1e-3
_CORRESPONDING = 0.5

_MOST_ASTRAY = 0.05
_LEAST_SIMILARITY = 0.85
_REVERSED = -0.3
_MOST_CONTRAST = 0.012
_FARTHEST = 0.25
_MOST_LEFT = 0.12
# Under another measure than ssd: a displacement this long, NORMALISED, must explain edges; a share of their difference may be left.
_NOTABLE, _MOST_OF_EDGES = 0.015, (0.36, 0.25)
_LEAST_AGREEMENT = {"lncc": 0.85, "mind": 0.9, "ngf": 0.75, "curve": 0.9}
# Where a radius says how uncertain positions are, noise, which lowers the agreement of edges, is known to be noise.
_LEAST_BESIDE_RADIUS = {"ngf": 0.6}


def reasons_for_doubt(
    fixed: Tensor,
    moving: Tensor,
    fixed_valid: Tensor,
    moving_valid: Tensor,
    displacement: Tensor,
    grid: Grid,
    initial: Tensor | None = None,
    *,
    measure: str = "ssd",
    agreement: float = 1.0,
    beside_radius: bool = False,
) -> tuple[str, ...]:
    """Why a displacement is to be looked at before it is used, each reason the end of "because ..."; none where all looks well.

    Parameters
    ----------
    fixed, moving, fixed_valid, moving_valid
        (1, *grid.shape) float and bool; False where a pixel is not measured or a mask leaves it out.
    displacement
        (1, ndim, *grid.shape) NORMALISED, from the fixed into the moving frame.
    grid
        Lattice of all.
    initial
        (1, ndim, *grid.shape) NORMALISED: the part of the displacement that was found of the frame as a whole, by comparing all
        of it; it is no far motion and lets no tissue leave.
    measure, agreement
        What the frames were compared by, and how alike they are in its sense under the displacement. Under another measure than
        ssd intensities may differ, and what they say is no reason for doubt.
    beside_radius
        Whether a radius of uncertainty that is calibrated for the measure is asked, too.
    """
    most = _MOST_PIXELS_A_SIDE[grid.ndim]
    coarse = grid.resized(tuple(min(n, most) for n in grid.shape))

    def smooth(image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        sigmas = _pixels(_NOISE, grid, 1.0)
        measured = resample(valid[None].to(image.dtype), grid, coarse).image
        # Half of the most that is measured anywhere: of a thin mask something is left.
        measured = measured > 0.5 * measured.amax()
        return resample(blur_measured(image[None], valid[None], sigmas), grid, coarse).image, measured

    (a, a_valid), (b, b_valid) = smooth(fixed, fixed_valid), smooth(moving, moving_valid)
    vectors = resample(displacement.to(a.dtype), grid, coarse).image
    inside = warp(b, vectors, coarse).valid
    warped, measured = warp(b, vectors, coarse, mask=b_valid)
    both = measured & a_valid
    found = _of_intensities(a, b, warped, a_valid & b_valid, both, coarse) if measure == "ssd" else []
    whole = torch.zeros_like(vectors) if initial is None else resample(initial.to(a.dtype), grid, coarse).image
    stays = a_valid if initial is None else a_valid & warp(b, whole, coarse).valid
    # Where the frame as a whole has left, nothing holds the Gaussians, and nothing is asked.
    lengths = (vectors - whole).norm(dim=1, keepdim=True)
    farthest = float(lengths[stays].max()) if bool(stays.any()) else float(lengths.max())
    if measure != "ssd":
        images = (fixed, moving, fixed_valid, moving_valid)
        least = _LEAST_BESIDE_RADIUS.get(measure) if beside_radius else None
        if not agreement >= (_LEAST_AGREEMENT[measure] if least is None else least):
            found.append(f"the frames stay unlike (agreement {agreement:.2f} by {measure})")
        elif farthest > _NOTABLE and all(
            left > most for left, most in zip(left_where_longest(*images, displacement, grid), _MOST_OF_EDGES, strict=True)
        ):
            found.append("edges hardly agree better where the displacement is longest")
    if farthest > _FARTHEST:
        found.append(f"something moves by {50 * farthest:.0f} % of the frame's longer side, farther than is found reliably")
    left = _left(a, (inside | _just_beyond(vectors, grid, coarse)) & stays, stays)
    if left > _MOST_LEFT:
        found.append(f"{100 * left:.0f} % of what the reference shows has left the frame")
    return tuple(found)


def _of_intensities(a: Tensor, b: Tensor, warped: Tensor, before: Tensor, after: Tensor, grid: Grid) -> list[str]:
    """Reasons that hold where tissue keeps its brightness: of smooth frames, valid before and after."""
    found = []
    if float(correlation(a, b, before)) < _REVERSED:
        found.append("what is bright in the one is dark in the other")
    alike = float(correlation(a, warped, after))
    if not alike >= _LEAST_SIMILARITY:
        found.append(f"the frames stay unlike (similarity {alike:.2f} without noise)")
    astray = _astray(a, warped, after, grid)
    if astray > _MOST_ASTRAY:
        found.append(f"{100 * astray:.0f} % of what the frames show has no counterpart")
    elif _another_contrast(a[after], warped[after]) > _MOST_CONTRAST:
        found.append("the contrast between tissues changes")
    return found


def _pixels(width: float, grid: Grid, least: float) -> tuple[float, ...]:
    """A width in NORMALISED units as pixels along each axis, at least so many where frames are small."""
    return tuple(max(width * grid.unit_mm / s, least) for s in grid.spacing)


def _astray(fixed: Tensor, warped: Tensor, valid: Tensor, grid: Grid) -> float:
    """Share of the structure of either image whose surroundings do not correlate with those of the other."""
    sigmas = _pixels(_PIECE, grid, 2.5)
    weight = valid.to(fixed.dtype)
    reached = blur(weight, sigmas).clamp_min(1e-6)

    def local(values: Tensor) -> Tensor:
        return blur(values * weight, sigmas) / reached

    # Centred first, or the variances of bright images would be differences of large numbers.
    a, b = (_standardised(image, valid) for image in (fixed, warped))
    mean_a, mean_b = local(a), local(b)
    variance_a, variance_b = ((local(v.square()) - m.square()).clamp_min(0) for v, m in ((a, mean_a), (b, mean_b)))
    alike = (local(a * b) - mean_a * mean_b) / ((variance_a + _FLAT) * (variance_b + _FLAT)).sqrt()
    structure = torch.maximum(variance_a, variance_b).clamp_max(1) * weight
    return float((structure * (alike < _CORRESPONDING)).sum() / structure.sum().clamp_min(1e-6))


def _standardised(image: Tensor, valid: Tensor) -> Tensor:
    values = image[valid]
    if not len(values):
        return torch.zeros_like(image)
    centred = image - values.mean()
    return centred / values.std(correction=0).clamp_min(torch.finfo(image.dtype).tiny)


def _another_contrast(a: Tensor, b: Tensor) -> float:
    """By how much a curve explains more of the one intensity (N,) by the other than a straight line does."""
    curve = explained_by_a_curve(a, b)
    return 0.0 if curve is None else curve - explained_by_a_line(a, b)


def _just_beyond(vectors: Tensor, grid: Grid, coarse: Grid) -> Tensor:
    """Where a volume's displacement (1, 3, *coarse.shape) leads at most a slice out of it, (1, 1, ...) bool; nowhere in 2D.

    All tissue of the outermost slices of a slab leaves with a motion of half a slice, and the others still hold it.
    """
    if grid.ndim == 2:
        return torch.zeros_like(vectors[:, :1], dtype=torch.bool)
    places = normalised_lattice(coarse, vectors) + vectors
    limits = [(extent + step) / grid.unit_mm for extent, step in zip(grid.half_extent_mm, grid.spacing, strict=True)]
    return (places.abs() <= vectors.new_tensor(limits).view(1, 3, 1, 1, 1)).all(1, keepdim=True)


def _left(fixed: Tensor, inside: Tensor, valid: Tensor) -> float:
    """Share of the structure of the reference that the displacement looks for outside of the moving frame."""
    axes = tuple(range(2, fixed.ndim))
    slope = torch.cat(torch.gradient(fixed, dim=axes), 1).norm(dim=1, keepdim=True) * valid
    return float((slope * ~inside).sum() / slope.sum().clamp_min(1e-30))
