"""Motions of the whole frame are found exactly, carried by every transform and file, and never taken where there are none."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import registration_factory as make
import SimpleITK
import torch
from torch import Tensor

from r2n2.config import BSplineConfig, FitConfig, InitialName, NetworkConfig, RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.io.fields import write_field
from r2n2.network import R2N2
from r2n2.registration import BSplineMethod, FitMethod, Pairs
from r2n2.registration.doubt import reasons_for_doubt
from r2n2.registration.fit.folding import _shortfall, folding_equations, folding_penalty
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.initial import Initialised, find_initial
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.registration.translation_search import correlate_translations
from r2n2.registration.uncertainty import FrameUncertainty, uncertainty_estimator
from r2n2.registration.uncertainty.features import features_of
from r2n2.results.sequence_file import initial_table, read_sequences, sequence_archive
from r2n2.transform import (
    GaussianSequence,
    inverse,
    jacobian_bound,
    jacobian_determinant,
    map_points,
    normalised_lattice,
    sample_normalised,
    warp_image,
)

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = make.GRID
MARGIN = 0.3
FIT = FitMethod(make.FAST_FIT, gaussians=4)


def _turned(degrees: float) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos - 1, sin], [-sin, cos - 1]])


def _linear(matrix: Tensor | None = None, shift_px: tuple[float, ...] = (0.0, 0.0), grid: Grid = GRID) -> Tensor:
    """[A | b] whose shift is given in pixels of the grid."""
    shift = torch.tensor([p * s / grid.unit_mm for p, s in zip(shift_px, grid.spacing, strict=True)])
    return torch.cat((torch.zeros(grid.ndim, grid.ndim) if matrix is None else matrix, shift[:, None]), 1)


def _moved(linear: Tensor, grid: Grid = GRID, seed: int = 0) -> Pairs:
    """Fixed is moving under a known linear part, out of a scene that is larger than either: new content enters."""
    ndim = grid.ndim
    wide = Grid(tuple(3 * n for n in grid.shape), grid.spacing)
    scene = make.texture(wide.shape, seed)[None]
    places = normalised_lattice(grid, scene) * (grid.unit_mm / wide.unit_mm)
    moved = normalised_lattice(grid, scene).flatten(1)
    moved = moved + linear[:, :-1] @ moved + linear[:, -1:]
    moving = sample_normalised(scene, places[None], wide).image
    fixed = sample_normalised(scene, moved.unflatten(1, grid.shape)[None] * (grid.unit_mm / wide.unit_mm), wide).image
    assert ndim == fixed.ndim - 2
    valid = torch.ones_like(fixed, dtype=torch.bool)
    return Pairs(fixed, moving, valid, valid, grid)


def _error_px(found: Tensor, true: Tensor, grid: Grid = GRID) -> float:
    """Largest distance over the frame in pixels of the finest spacing."""
    places = normalised_lattice(grid, found).flatten(1)
    apart = (found - true)[:, :-1] @ places + (found - true)[:, -1:]
    return float(apart.norm(dim=0).max()) * grid.unit_mm / min(grid.spacing)


SHIFTS = [(0.0, 25.0), (-21.3, 0.0), (13.6, -17.2), (30.0, 8.0), (0.0, -49.0)]


@pytest.mark.parametrize("kind", ["auto", "translation"])
@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_a_pure_shift_is_found_to_a_tenth_of_a_pixel(shift: tuple[float, float], kind: InitialName) -> None:
    true = _linear(shift_px=shift)
    (found,) = find_initial(_moved(true), kind)
    assert found is not None
    assert not found[:, :-1].any()
    assert _error_px(found, true) < 0.1


@pytest.mark.parametrize("degrees", [12.0, -20.0])
def test_a_rotation_is_found(degrees: float) -> None:
    true = _linear(_turned(degrees), (6.0, -9.0))
    (found,) = find_initial(_moved(true, seed=1), "rigid")
    assert found is not None
    whole = torch.eye(2) + found[:, :-1]
    torch.testing.assert_close(whole @ whole.mT, torch.eye(2), rtol=0, atol=1e-5)
    assert _error_px(found, true) < 0.15


def test_an_affine_map_is_found() -> None:
    true = _linear(torch.tensor([[0.08, -0.05], [0.03, -0.06]]), (4.0, 7.0))
    (found,) = find_initial(_moved(true, seed=2), "affine")
    assert found is not None
    assert _error_px(found, true) < 0.15
    (rigid,) = find_initial(_moved(true, seed=2), "rigid")
    assert rigid is not None
    assert _error_px(rigid, true) > 0.8


def test_a_volume_is_shifted_back() -> None:
    grid = Grid((22, 25, 30), (2.0, 1.4, 1.1))
    true = _linear(shift_px=(5.0, -6.0, 8.0), grid=grid)
    (found,) = find_initial(_moved(true, grid), "auto")
    assert found is not None
    assert _error_px(found, true, grid) < 0.2


def test_ordinary_motion_takes_none_and_gives_what_it_gave() -> None:
    several = [make.moved_pair(seed=k, size=0.1, width=0.8)[:2] for k in range(3)]
    pairs = make.pairs_of(*several)
    assert find_initial(pairs, "auto") == (None, None, None)
    better = find_initial(pairs, "translation")
    assert any(linear is not None and float(linear[:, -1].norm()) > 0.05 for linear in better), "a shift would help, but little"
    *_, plain = FIT.register(pairs)
    *_, begun = Initialised(FIT, "auto").register(pairs)
    for a, b in zip(plain.transforms(), begun.transforms(), strict=True):
        assert isinstance(b, GaussianSequence)
        assert b.linear is None
        assert torch.equal(a.displacement_field().vectors, b.displacement_field().vectors)


def test_pairs_beside_one_that_is_moved_stay_what_they_are() -> None:
    still = make.pairs_of(make.moved_pair(seed=3)[:2])
    far = _moved(_linear(shift_px=(0.0, 30.0)))
    both = Pairs(
        *(torch.cat((getattr(still, n), getattr(far, n))) for n in ("fixed", "moving", "fixed_valid", "moving_valid")), GRID
    )
    *_, alone = FIT.register(still)
    *_, together = Initialised(FIT, "auto").register(both)
    first, second = together.transforms()
    assert isinstance(first, GaussianSequence)
    assert isinstance(second, GaussianSequence)
    assert first.linear is None
    assert second.linear is not None
    torch.testing.assert_close(
        first.displacement_field().vectors, alone.transforms()[0].displacement_field().vectors, rtol=0, atol=1e-4
    )


def test_what_a_mask_leaves_out_has_no_part_in_the_search() -> None:
    true = _linear(shift_px=(0.0, 22.0))
    pairs = _moved(true)
    weight = torch.zeros_like(pairs.moving)
    weight[..., 10:50, 8:40] = 1
    masked = replace(pairs, fixed_weight=weight)
    painted = replace(masked, fixed=torch.where(weight > 0, pairs.fixed, 1e4 * torch.rand(pairs.fixed.shape)))
    for case in (masked, painted):
        (found,) = find_initial(case, "translation")
        assert found is not None
        assert _error_px(found, true) < 0.15


def test_the_masked_correlation_by_hand() -> None:
    """Of one translation: that of the pixels that count in both, by numpy."""
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(2, 1, 1, 16, 16, generator=generator)
    wa, wb = (torch.rand(2, 1, 1, 16, 16, generator=generator) > 0.3).float()
    found = correlate_translations(a, wa, b, wb, Grid((16, 16)))
    step = 2 / 15
    for rows, columns in ((0, 0), (3, -2), (-4, 5)):
        at = int(((found.shifts - torch.tensor([rows * step, columns * step])).norm(dim=1)).argmin())
        x, y, u, v = [], [], [], []
        for r in range(16):
            for c in range(16):
                if 0 <= r + rows < 16 and 0 <= c + columns < 16:
                    x.append(float(a[0, 0, r, c]))
                    u.append(float(wa[0, 0, r, c]))
                    y.append(float(b[0, 0, r + rows, c + columns]))
                    v.append(float(wb[0, 0, r + rows, c + columns]))
        count = np.array(u) * np.array(v) > 0
        coefficient = np.corrcoef(np.array(x)[count], np.array(y)[count])[0, 1]
        expected = np.tanh(np.arctanh(coefficient) - 2 / np.sqrt(count.sum() / 64))
        assert float(found.score[0, at]) == pytest.approx(expected, abs=1e-3)


# Every method goes on from it

SPLINE = BSplineMethod(BSplineConfig(control_points=12, iterations=4, learning_rate=1e-3))
NETWORK = RecurrentMethod(R2N2(NetworkConfig(channels=(4, 4, 4, 4), working_size=32)).eval(), steps=2)


@pytest.mark.parametrize("method", [FIT, SPLINE, NETWORK], ids=["fit", "bspline", "r2n2"])
def test_every_method_begins_there(method: FitMethod | BSplineMethod | RecurrentMethod) -> None:
    true = _linear(shift_px=(14.0, -24.0))
    *_, last = Initialised(method, "auto").register(_moved(true))
    (found,) = last.transforms()
    field = found.displacement_field().to_space(Space.INDEX).vectors
    apart = (field - torch.tensor([14.0, -24.0])[:, None, None])[:, 20:40, 30:55].norm(dim=0)
    assert float(apart.mean()) < 0.5
    if isinstance(found, GaussianSequence):
        assert found.linear is not None


def test_a_start_is_gone_on_from_as_it_is() -> None:
    pairs = _moved(_linear(shift_px=(0.0, 30.0)))
    (none,) = (GaussianSequence.identity(GRID),)
    *_, plain = FIT.register(pairs, start=[none])
    *_, begun = Initialised(FIT, "auto").register(pairs, start=[none])
    (found,) = begun.transforms()
    assert isinstance(found, GaussianSequence)
    assert found.linear is None
    assert torch.equal(found.displacement_field().vectors, plain.transforms()[0].displacement_field().vectors)


# Representation


def _sequence(linear: Tensor | None = None) -> GaussianSequence:
    base = make.motion(GRID, 0.05, seed=2)
    return replace(base, linear=_linear(_turned(9.0), (7.0, -12.0)) if linear is None else linear)


def test_the_linear_part_is_added_everywhere() -> None:
    sequence, bare = _sequence(), make.motion(GRID, 0.05, seed=2)
    assert sequence.linear is not None
    places = torch.tensor([[0.1, -0.4], [0.6, 0.9], [2.0, -3.0]], dtype=torch.float64)
    linear = sequence.linear.double()
    expected = bare.displacement_at(places) + places @ linear[:, :-1].mT + linear[:, -1]
    torch.testing.assert_close(sequence.displacement_at(places), expected)
    lattice = normalised_lattice(GRID, bare.centres).flatten(1).mT
    field = sequence.displacement_field().vectors
    torch.testing.assert_close(field.flatten(1).mT, sequence.displacement_at(lattice), rtol=0, atol=1e-5)
    sums = sequence.partial_sums()
    torch.testing.assert_close(sums[0], sequence.linear_field().vectors)
    torch.testing.assert_close(sums[-1], field)
    off = sequence.select(torch.tensor([True, False]))
    torch.testing.assert_close(off.displacement_field().vectors, sums[1])


def test_points_inverse_and_jacobian_know_it() -> None:
    sequence = _sequence()
    points = torch.tensor([[30.0, 40.0], [20.0, 61.0]], dtype=torch.float64)
    mapped = map_points(sequence, points, Space.INDEX)
    found = inverse(sequence)
    assert found.residual_mm < 0.01
    torch.testing.assert_close(map_points(found.field, mapped, Space.INDEX), points, rtol=0, atol=0.05)
    determinants = jacobian_determinant(sequence.displacement_field().vectors[None].double(), GRID)
    bound = jacobian_bound(sequence)
    assert bound.proven <= float(determinants.min()) + 1e-3
    assert bound.proven == pytest.approx(float(determinants.min()), abs=0.05)
    shrunk = replace(sequence, linear=_linear(torch.tensor([[-0.5, 0.0], [0.0, -0.5]])))
    assert jacobian_bound(shrunk).proven < 0.3


def test_folding_is_feared_with_it() -> None:
    """The slope of the penalty by an amplitude is that of finite differences, the linear part in it."""
    linear = _linear(torch.tensor([[-0.3, 0.1], [0.0, -0.2]])).double()[None]
    base = make.motion(GRID, 0.12, seed=5)
    exact = GaussianSequence(*(getattr(base, n).double() for n in ("centres", "sigmas", "orientation", "amplitudes")), GRID)
    grid = GRID.enclosing_cube(24)
    places = normalised_lattice(grid, exact.centres).flatten(1)
    model = WhitenedGaussians.from_sequences((exact,), exact.centres)

    def penalty(model: WhitenedGaussians) -> tuple[Tensor, Tensor]:
        whole = model.displacement(places) + linear[:, :, :-1] @ places + linear[:, :, -1:]
        return folding_penalty(whole.unflatten(2, grid.shape), grid, MARGIN), whole.unflatten(2, grid.shape)

    value, field = penalty(model)
    assert 0 < int((_shortfall(field, grid, MARGIN) > 0).sum()) < 96, "no more than the places that are looked at"
    found = folding_equations(model, field, places, grid, MARGIN, linear)
    assert found is not None
    step = 1e-6
    changed = replace(model, amplitudes=model.amplitudes + torch.tensor([[[step, 0.0], [0.0, 0.0]]], dtype=torch.float64))
    slope = float((penalty(changed)[0] - value) / step)
    assert float(found[1][0, 0]) == pytest.approx(slope / 2, rel=0.02)


def test_files_hold_it_and_earlier_ones_are_read(tmp_path: Path) -> None:
    moved, plain = _sequence(), make.motion(GRID, 0.05, seed=3)
    back = read_sequences(sequence_archive({2: moved, 5: plain}, GRID))
    assert back[2].linear is not None
    assert torch.equal(back[2].linear, moved.linear)  # type: ignore[arg-type]
    assert back[5].linear is None
    assert read_sequences(sequence_archive({5: plain}, GRID))[5].linear is None
    with np.load(io.BytesIO(sequence_archive({5: plain}, GRID))) as archive:
        assert "linear" not in archive
    (row,) = csv.DictReader(initial_table({2: moved, 5: plain}).splitlines())
    assert row["frame"] == "2"
    matrix = np.array([[float(row[f"m_{a}{b}"]) for b in "yx"] for a in "yx"])
    centre, shift = (np.array([float(row[f"{name}_{a}_mm"]) for a in "yx"]) for name in ("centre", "shift"))
    point = np.array([11.0, -3.0])
    alone = replace(GaussianSequence.identity(GRID), linear=moved.linear)
    expected = map_points(alone, torch.from_numpy(point)[None], Space.WORLD)[0].numpy()
    np.testing.assert_allclose(point + matrix @ (point - centre) + shift, expected, atol=1e-4)


def test_the_field_moves_an_image_in_simpleitk_as_here(tmp_path: Path) -> None:
    """A wide shift and a rotation, written as ITK's field: the moving image resampled by SimpleITK is our warped one."""
    sequence = _sequence(_linear(_turned(9.0), (17.0, -22.0)))
    image = make.texture(GRID.shape, 6)
    path = write_field(tmp_path / "f.mha", sequence.displacement_field())
    transform = SimpleITK.DisplacementFieldTransform(SimpleITK.ReadImage(str(path), SimpleITK.sitkVectorFloat64))
    moving = SimpleITK.GetImageFromArray(image[0].numpy())
    moving.SetSpacing(GRID.spacing[::-1])
    moving.SetOrigin(GRID.origin[::-1])
    moving.SetDirection(np.array(GRID.direction)[::-1, ::-1].ravel().tolist())
    resampled = SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, moving, transform, SimpleITK.sitkLinear, -1.0))
    ours = warp_image(image, sequence)[0].numpy()
    inside = resampled >= 0
    assert 0.3 < inside.mean() < 0.95
    np.testing.assert_allclose(resampled[inside], ours[inside], atol=0.02)


def test_a_linear_part_must_fit() -> None:
    with pytest.raises(ValueError, match="linear must have shape"):
        replace(_sequence(), linear=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="linear holds a number"):
        replace(_sequence(), linear=torch.full((2, 3), torch.nan))
    with pytest.raises(ArgumentError, match="initial"):
        make.FAST.parse({"initial": "similarity"})


def test_doubt_knows_what_was_found_of_the_whole_frame() -> None:
    true = _linear(shift_px=(0.0, 26.0))
    pairs = _moved(true)
    sequence = replace(GaussianSequence.identity(GRID), linear=true)
    vectors = sequence.displacement_field().vectors[None]
    images = (pairs.fixed[0], pairs.moving[0], pairs.fixed_valid[0], pairs.moving_valid[0])
    assert not reasons_for_doubt(*images, vectors, GRID, vectors)
    without = reasons_for_doubt(*images, vectors, GRID)
    assert any("farther than" in reason for reason in without)
    assert any("left the frame" in reason for reason in without)


def _radius(pairs: Pairs, transform: GaussianSequence) -> FrameUncertainty:
    estimator = uncertainty_estimator(RegistrationConfig(method="fit"))
    assert estimator is not None
    return estimator.estimate(pairs, [transform])[0]


def _reasons(pairs: Pairs, transform: GaussianSequence) -> tuple[str, ...]:
    """All that speaks against the transform of one pair, the radius included."""
    found = _radius(pairs, transform)
    vectors, whole = (field.vectors[None] for field in (transform.displacement_field(), transform.linear_field()))
    images = (pairs.fixed[0], pairs.moving[0], pairs.fixed_valid[0], pairs.moving_valid[0])
    return (*found.reasons, *reasons_for_doubt(*images, vectors, pairs.grid, whole))


@pytest.mark.parametrize("share", [0.25, 0.45, 0.6])
def test_what_both_frames_show_decides(share: float) -> None:
    """A right shift is not doubted, one that is a little off, or not found, is; however bright what has come in."""
    width = GRID.shape[1]
    true = _linear(shift_px=(2.0, -share * width))
    pairs = _moved(true, seed=4)
    # What the moving frame shows on the right is none of the fixed one.
    entered = torch.zeros_like(pairs.moving)
    entered[..., -int(share * width) + 2 :] = 600.0
    still = GaussianSequence.identity(GRID)
    assert _reasons(pairs, replace(still, linear=true)) == ()
    radii = [_radius(some, replace(still, linear=true)) for some in (pairs, replace(pairs, moving=pairs.moving + entered))]
    assert radii[1].median_mm == pytest.approx(radii[0].median_mm, rel=0.1)
    pairs = replace(pairs, moving=pairs.moving + entered)
    assert _reasons(pairs, replace(still, linear=true)) == ()
    assert _reasons(pairs, replace(still, linear=_linear(shift_px=(9.0, -share * width)))) != ()
    assert _reasons(pairs, still) != ()


def test_tissue_that_has_left_with_the_whole_frame_does_not_count() -> None:
    true = _linear(shift_px=(0.0, -0.4 * GRID.shape[1]))
    transform = replace(GaussianSequence.identity(GRID), linear=true)
    found = features_of(_moved(true, seed=4), [transform], FitConfig())
    places = torch.linspace(-1, 1, found.counts.shape[-1])
    seen, edge = found.counts.amax((0, 1)) > 0.01, GRID.half_extent_mm[1] / GRID.unit_mm
    # Two places to either side of the border lie within the windows of both.
    stays = places + true[1, -1] > -edge
    away = (places + true[1, -1] + edge).abs() > 2 * float(places[1] - places[0])
    assert torch.equal(seen[2:-2][away[2:-2]], stays[2:-2][away[2:-2]])
    assert float(found.values["motion"].max()) == 0.0, "the frame as a whole is no motion within it"


def test_a_shift_of_72_per_cent_is_found() -> None:
    true = _linear(shift_px=(0.72 * GRID.shape[0], 0.0))
    (found,) = find_initial(_moved(true, seed=4), "auto")
    assert found is not None
    assert _error_px(found, true) < 0.1
