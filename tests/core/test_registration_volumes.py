"""Volumes: the pieces of fit that are theirs, and known motions found in mm, on odd, anisotropic volumes and slabs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.config import BSplineConfig, RegistrationConfig, VolumeFitConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.mask import Mask, Masks
from r2n2.preprocessing import luminance
from r2n2.registration import FrameResult, Pairs, RegistrationStep, register_pair, register_series, warp_frame
from r2n2.registration.batch_size import bytes_a_frame, resolve_batch_size
from r2n2.registration.contrast import examine_series
from r2n2.registration.fit import whitened
from r2n2.registration.fit.normal_equations import regulariser_equations
from r2n2.registration.fit.proposal import propose
from r2n2.registration.fit.volume import VolumeLattice, sampled_diffusion_equations, slice_widths, within_slab
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.initial import find_initial
from r2n2.registration.survey import survey_series
from r2n2.registration.translation_search import correlate_translations
from r2n2.registration.unfolding import Unfolding
from r2n2.series import ImageSeries
from r2n2.similarity import diffusion
from r2n2.transform import (
    BSplineField,
    GaussianSequence,
    Transform,
    jacobian_bound,
    linear_displacement,
    normalised_lattice,
    sample_normalised,
    warp_image,
)

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid((23, 45, 38), (3.1, 1.7, 2.1), (3.0, -8.0, 5.0), ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
SLAB = Grid((5, 52, 61), (6.0, 1.7, 1.3))
FAST = RegistrationConfig(
    method="fit",
    volume_steps=12,
    volume_fit=VolumeFitConfig(
        sizes=(16, 32, 64), pixels_a_step=4096, field_size=24, regulariser_size=12, far=0.04, steps_a_round=3, final_steps=6
    ),
    device="cpu",
    reference=0,
    uncertainty="off",
    bspline=BSplineConfig(volume_control_points=10, volume_size=48, iterations=40, learning_rate=5e-3),
)


def _model(count: int = 3, *, steep: float = 4.0) -> WhitenedGaussians:
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(2, count, *shape, generator=generator, dtype=torch.float64) - 0.5

    return WhitenedGaussians(uniform(3), steep * torch.eye(3).double() + uniform(3, 3), 0.3 * uniform(3))


def _motion(grid: Grid, size_mm: float, sigma_mm: float) -> GaussianSequence:
    """Three Gaussians within the volume; in a slab wider than it is thick."""
    generator = torch.Generator().manual_seed(4)
    extent = torch.tensor(grid.half_extent_mm) / grid.unit_mm
    centres = (torch.rand(3, 3, generator=generator) - 0.5) * extent
    sigmas = sigma_mm / grid.unit_mm * (0.8 + 0.4 * torch.rand(3, 3, generator=generator))
    amplitudes = size_mm / grid.unit_mm * torch.nn.functional.normalize(torch.randn(3, 3, generator=generator), dim=1)
    return GaussianSequence(centres, sigmas, torch.rand(3, 3, generator=generator), amplitudes, grid)


def _series(fixed: Tensor, moving: Tensor, grid: Grid) -> ImageSeries:
    return ImageSeries(torch.stack((fixed, moving)).numpy(), grid)


def _registered(series: ImageSeries, masks: Masks | None = None, **changes: Any) -> FrameResult:
    config = FAST.model_copy(update=changes)
    found = [r for p in register_series(series, config, masks=masks or Masks()) for r in p.finished]
    return found[-1]


def _errors_mm(found: FrameResult, exact: Tensor, grid: Grid, margin: int = 3) -> Tensor:
    """|f - exact| away from the edges, of an exact displacement (3, *shape) NORMALISED."""
    vectors = found.transform.displacement_field().to_space(Space.NORMALISED).vectors
    inside = tuple(slice(min(margin, n // 5), n - min(margin, n // 5)) for n in grid.shape)
    return (vectors - exact).norm(dim=0)[inside] * grid.unit_mm


def test_the_right_side_of_the_sampled_diffusion_is_its_derivative() -> None:
    model, coarse = _model(), GRID.resized((6, 9, 8))
    positions = normalised_lattice(coarse, model.centres).flatten(1)
    _, vector = sampled_diffusion_equations(model, positions, coarse, count=50, step=0)
    unit = 1e-6

    def energy(number: int, sign: float) -> Tensor:
        change = torch.zeros(2, 3 * model.freedom, dtype=torch.float64)
        change[:, number] = sign * unit
        changed = model.changed(change.unflatten(1, (3, model.freedom)), (1e-3, 10.0), 2.0)
        return diffusion(changed.displacement(positions).unflatten(2, coarse.shape), coarse)

    slopes = [(energy(k, 1) - energy(k, -1)) / (2 * unit) for k in range(3 * model.freedom)]
    # The equations are those of half the objective.
    torch.testing.assert_close(vector, torch.stack(slopes, 1) / 2, rtol=1e-5, atol=1e-8)


def test_its_matrix_comes_from_enough_cells() -> None:
    model, coarse = _model(), GRID.resized((12, 13, 11))
    positions = normalised_lattice(coarse, model.centres).flatten(1)
    exact, _ = regulariser_equations(model, positions, coarse)
    found, _ = sampled_diffusion_equations(model, positions, coarse, count=4000, step=3)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05 * float(exact.abs().max()))
    other, _ = sampled_diffusion_equations(model, positions, coarse, count=4000, step=4)
    assert not torch.equal(found, other)


def test_displacements_are_summed_on_few_points_and_forces_gathered_there() -> None:
    model = _model()
    grid = GRID.resized((60, 64, 62))
    lattice = VolumeLattice.build(grid, 24, model.centres)
    assert lattice.positions.shape[1] < 33**3
    exact = model.displacement(normalised_lattice(grid, model.centres).flatten(1))
    torch.testing.assert_close(lattice.displacement(model).flatten(2), exact, rtol=0, atol=1e-3 * 0.5)
    force = torch.randn(2, 3, exact.shape[2], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    onto = model.displacement(lattice.positions)
    torch.testing.assert_close(
        (lattice.gathered(force) * onto).sum((1, 2)), (force * lattice.displacement(model).flatten(2)).sum((1, 2))
    )


def test_many_positions_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, positions = _model(), 2 * torch.rand(3, 500, dtype=torch.float64) - 1
    force = torch.randn(2, 3, 500, dtype=torch.float64)
    whole = model.displacement(positions), model.pulled_back(positions, force)
    monkeypatch.setattr(whitened, "_AT_ONCE", 77)
    torch.testing.assert_close((model.displacement(positions), model.pulled_back(positions, force)), whole)


def test_gaussians_are_widened_to_a_slice_along_its_axis_alone_and_kept_near_the_slab() -> None:
    least = slice_widths(SLAB)
    narrow = 0.5 * least[0]
    centres = torch.tensor([[[0.0, 0.0, 0.0], [0.9, -1.4, 0.2], [-0.9, 0.0, 0.0]]], dtype=torch.float64)
    sigmas = torch.tensor([[[narrow] * 3, [0.4] * 3, [narrow, 0.3, 0.2]]], dtype=torch.float64)
    model = WhitenedGaussians(centres, torch.diag_embed(1 / sigmas), torch.zeros_like(centres))
    kept = within_slab(model, SLAB)
    deviations = torch.linalg.inv(kept.factors.mT @ kept.factors).diagonal(dim1=-2, dim2=-1).sqrt()
    expected = sigmas.clone()
    expected[0, [0, 2], 0] = least[0]
    torch.testing.assert_close(deviations, expected)
    extent = [half / SLAB.unit_mm for half in SLAB.half_extent_mm]
    limits = torch.tensor([[[0.0, 0.0, 0.0], [extent[0] + 0.1, -extent[1] - 0.1, 0.2], [-extent[0] - 0.1, 0.0, 0.0]]])
    torch.testing.assert_close(kept.centres, limits.double())


def test_a_gaussian_is_proposed_where_it_helps_with_the_width_of_a_slice() -> None:
    grid = SLAB.resized((5, 30, 35))
    place = torch.tensor([0.0, 0.4, -0.3])
    lattice = normalised_lattice(grid, place)
    wanted = torch.exp(-0.5 * ((lattice - place.view(3, 1, 1, 1)) / 0.15).square().sum(0)).flatten()
    slope = torch.randn(1, 1, 3, wanted.numel(), generator=torch.Generator().manual_seed(0))
    residual = -0.1 * (slope[:, :, 1] * wanted)
    weight = torch.full_like(residual, 1 / wanted.numel())
    least = slice_widths(SLAB)
    found = propose(grid, residual, slope, weight, count=1, sigmas=(0.3, 0.1), regularisation=0.001, least=least)
    assert (found.centres[0, 0] - place).abs().max() < 0.1
    torch.testing.assert_close(1 / found.factors[0, 0].diagonal(), torch.tensor([max(least[0], 0.1), 0.1, 0.1]))


@pytest.mark.parametrize("grid", [GRID, SLAB], ids=["volume", "slab"])
def test_a_smooth_motion_is_found_in_mm(grid: Grid) -> None:
    exact = _motion(grid, 5.0 if grid is GRID else 4.0, 14.0)
    moving = make.texture(grid.shape, 1)
    found = _registered(_series(warp_image(moving, exact), moving, grid))
    before, after = exact.displacement_field().magnitude_mm(), _errors_mm(found, exact.displacement_field().vectors, grid)
    assert found.status.sound or "has left the frame" in found.message
    assert float(before.mean()) > 1.0
    assert float(after.mean()) < 0.12 * float(before.mean())
    assert float(after.quantile(0.95)) < 0.6
    assert isinstance(found.transform, GaussianSequence)
    assert len(found.transform) == 12


def _moved_as_a_whole(linear: Tensor, grid: Grid) -> ImageSeries:
    """Fixed is moving under a known linear part, out of a scene that is larger than either."""
    wide = Grid(tuple(2 * n for n in grid.shape), grid.spacing)
    scene = make.texture(wide.shape, 2)[None]
    places = normalised_lattice(grid, scene)
    moved = (places + linear_displacement(linear[None], places)[0])[None]
    ratio = grid.unit_mm / wide.unit_mm
    fixed, moving = (sample_normalised(scene, at * ratio, wide).image[0] for at in (moved, places[None]))
    return _series(fixed, moving, grid)


@pytest.mark.parametrize("kind", ["translation", "rigid", "affine"])
def test_a_motion_of_the_volume_as_a_whole_is_found(kind: Any) -> None:
    matrix = torch.zeros(3, 3)
    if kind != "translation":
        spin = torch.tensor([[0.0, 0.08, -0.05], [-0.08, 0.0, 0.06], [0.05, -0.06, 0.0]])
        matrix = torch.linalg.matrix_exp(spin) - torch.eye(3)
    if kind == "affine":
        matrix = matrix + torch.tensor([[0.04, 0.0, 0.02], [0.0, -0.05, 0.0], [0.0, 0.01, 0.03]])
    shift = torch.tensor([9.0, -12.0, 7.0]) / GRID.unit_mm
    linear = torch.cat((matrix, shift[:, None]), 1)
    series = _moved_as_a_whole(linear, GRID)
    images = torch.from_numpy(np.asarray(series.frames))
    valid = torch.ones_like(images[:1], dtype=torch.bool)
    (found,) = find_initial(make.pairs_of((images[0], images[1]), grid=GRID), kind)
    assert found is not None
    assert bool(valid.all())
    places = normalised_lattice(GRID, found)
    apart = linear_displacement((found - linear)[None], places)[0].norm(dim=0) * GRID.unit_mm
    assert float(apart.max()) < 0.6


def test_a_slab_that_is_moved_within_its_slices_is_found_and_goes_on_to_be_fitted() -> None:
    linear = torch.zeros(3, 4)
    linear[:, 3] = torch.tensor([0.0, 15.0, -11.0]) / SLAB.unit_mm
    found = _registered(_moved_as_a_whole(linear, SLAB), initial="translation", volume_steps=4)
    exact = linear_displacement(linear[None], normalised_lattice(SLAB, linear))[0]
    assert float(_errors_mm(found, exact, SLAB).mean()) < 0.4


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_what_a_mask_leaves_out_changes_nothing(which: str) -> None:
    exact = _motion(GRID, 4.0, 14.0)
    moving = make.texture(GRID.shape, 1)
    fixed = warp_image(moving, exact)
    inside = np.zeros(GRID.shape, bool)
    inside[3:20, 5:40, 4:34] = True
    masks = Masks(**{which: Mask.of(inside[None])})
    series = _series(fixed, moving, GRID)
    spoilt = np.asarray(series.frames).copy()
    spoilt[0 if which == "fixed" else 1][:, ~inside] = 5000.0
    plain, other = _registered(series, masks), _registered(replace(series, frames=spoilt), masks)
    assert plain.message == other.message
    assert torch.equal(plain.transform.displacement_field().vectors, other.transform.displacement_field().vectors)
    errors = (plain.transform.displacement_field().vectors - exact.displacement_field().vectors).norm(dim=0) * GRID.unit_mm
    assert float(errors[6:17, 10:35, 9:29].mean()) < 0.4


@pytest.mark.parametrize("measure", ["lncc", "mind", "ngf", "curve"])
def test_every_measure_works_in_3d(measure: str) -> None:
    exact = _motion(GRID, 4.0, 14.0)
    moving = make.texture(GRID.shape, 1)
    fixed = warp_image(moving, exact)
    if measure in ("ngf", "curve"):
        fixed = 200 - fixed
    found = _registered(_series(fixed, moving, GRID), similarity=measure)
    errors = _errors_mm(found, exact.displacement_field().vectors, GRID)
    assert found.similarity_measure == measure
    assert float(errors.mean()) < 0.45 * float(exact.displacement_field().magnitude_mm().mean())


def test_a_pair_is_registered_as_a_series_is() -> None:
    exact = _motion(GRID, 4.0, 14.0)
    moving = make.texture(GRID.shape, 1)
    fixed = warp_image(moving, exact)
    config = FAST.model_copy(update={"similarity": "ssd", "volume_steps": 3})
    *_, last = register_pair(fixed.numpy(), moving.numpy(), GRID, config)
    found = _registered(_series(fixed, moving, GRID), similarity="ssd", volume_steps=3)
    assert torch.equal(last.transforms()[0].displacement_field().vectors, found.transform.displacement_field().vectors)


def test_the_network_is_left_out_and_memory_is_told_before_anything_is_done() -> None:
    series = _series(make.texture(GRID.shape, 1), make.texture(GRID.shape, 2), GRID)
    config = RegistrationConfig(reference=0, similarity="ssd", device="cpu")
    first = next(iter(register_series(series, config)))
    assert first.frames_done == 1
    method, memory = first.notes[:2]
    assert method == "method: fit, as the network knows 2D frames alone"
    assert memory.startswith("memory: about 0.")
    assert memory.endswith("beside the frames themselves, for one volume of 23 x 45 x 38 voxels at once")
    assert next(iter(register_series(make.moving_series(2)[0], make.FAST))).notes == ()


def test_settings_of_volumes_take_the_place_of_those_of_frames() -> None:
    config = RegistrationConfig(steps=7, volume_steps=70)
    assert config.of_grid(2) is config
    of_volumes = config.of_grid(3)
    assert (of_volumes.method, of_volumes.steps, of_volumes.fit) == ("fit", 70, config.volume_fit)
    assert of_volumes.of_grid(3) == of_volumes
    assert RegistrationConfig(method="bspline").of_grid(3).method == "bspline"
    assert RegistrationConfig().of_grid(3).steps == 100


def test_a_large_volume_is_registered_alone_and_in_less_than_two_gigabytes() -> None:
    grid, device = Grid((160, 256, 256), (2.0, 1.5, 1.5)), torch.device("cpu")
    for similarity in ("auto", "ssd", "lncc", "mind", "ngf", "curve"):
        config = RegistrationConfig(method="fit", similarity=similarity)
        assert bytes_a_frame(config, grid) < 2 * 2**30
        assert resolve_batch_size(config, grid, device) <= 3
    assert resolve_batch_size(FAST, GRID, device) == 16
    many = FAST.model_copy(update={"volume_steps": 400})
    assert bytes_a_frame(many, GRID) > bytes_a_frame(FAST, GRID)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 40, 40), "a volume needs at least 2 slices, got 1 x 40 x 40; give its frames as 2D"),
        ((5, 12, 40), "at least 16 pixels"),
    ],
)
def test_what_is_no_volume_is_refused(shape: tuple[int, ...], message: str) -> None:
    series = ImageSeries(np.random.default_rng(0).random((2, 1, *shape)), Grid(shape))
    with pytest.raises(ArgumentError, match=message):
        next(iter(register_series(series, FAST)))


def test_translations_are_told_in_the_steps_of_each_axis() -> None:
    grid = SLAB.resized((5, 24, 30))
    wide = torch.randn(1, 1, 11, 40, 50, generator=torch.Generator().manual_seed(3))
    fixed, moving = wide[..., 3:8, 8:32, 10:40], wide[..., 4:9, 4:28, 13:43]
    ones = torch.ones_like(fixed)
    found = correlate_translations(fixed, ones, moving, ones, grid)
    best = found.shifts[found.score[0].argmax()] * grid.unit_mm
    torch.testing.assert_close(best, torch.tensor([-1.0, 4.0, -3.0]) * torch.tensor(grid.spacing))


def test_one_volume_at_a_time_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def followed(frame: np.ndarray) -> tuple[Tensor, Tensor]:
        nonlocal most
        image, valid = luminance(frame)
        alive.add(image)
        most = max(most, len(alive))
        return image, valid

    for module in ("contrast", "survey"):
        monkeypatch.setattr(f"r2n2.registration.{module}.luminance", followed)
    frames = np.stack([make.texture((6, 24, 20), k).numpy() for k in range(20)])
    series = ImageSeries(frames, Grid((6, 24, 20)))
    examine_series(series)
    survey_series(series)
    assert 1 <= most <= 2


def test_a_registered_volume_keeps_its_type() -> None:
    exact = _motion(GRID, 4.0, 14.0)
    moving = make.texture(GRID.shape, 1)
    frames = torch.stack((warp_image(moving, exact), moving)).numpy().astype(np.uint8)
    series = ImageSeries(frames, GRID)
    found = _registered(series)
    warped = warp_frame(series, found)
    assert warped.dtype == np.uint8
    inside = (slice(None), *(slice(4, -4),) * 3)
    before, after = (np.abs(image[inside].astype(float) - frames[0][inside]).mean() for image in (frames[1], warped))
    assert after < 0.25 * before


@pytest.mark.parametrize("grid", [GRID, SLAB], ids=["volume", "slab"])
def test_splines_find_a_smooth_motion_in_mm(grid: Grid) -> None:
    exact = _motion(grid, 5.0 if grid is GRID else 4.0, 14.0)
    moving = make.texture(grid.shape, 1)
    found = _registered(_series(warp_image(moving, exact), moving, grid), method="bspline")
    assert isinstance(found.transform, BSplineField)
    # 7 cells along the longest axis, as many as fit along the others, and 2 at least.
    assert found.transform.control.shape[1:] == ((9, 10, 10) if grid is GRID else (5, 10, 9))
    after = _errors_mm(found, exact.displacement_field().vectors, grid)
    assert float(after.mean()) < 0.3 * float(exact.displacement_field().magnitude_mm().mean())
    assert found.min_jacobian_proven > 0.2


def test_splines_take_the_measures_and_masks_of_volumes() -> None:
    exact = _motion(GRID, 4.0, 14.0)
    moving = make.texture(GRID.shape, 1)
    fixed = 200 - warp_image(moving, exact)
    inside = np.zeros(GRID.shape, bool)
    inside[3:20, 5:40, 4:34] = True
    series = _series(fixed, moving, GRID)
    spoilt = np.asarray(series.frames).copy()
    spoilt[0][:, ~inside] = 5000.0
    masks, few = Masks(Mask.of(inside[None])), FAST.bspline.model_copy(update={"iterations": 20, "learning_rate": 1e-2})
    found = _registered(replace(series, frames=spoilt), masks, method="bspline", similarity="ngf", bspline=few)
    errors = (found.transform.displacement_field().vectors - exact.displacement_field().vectors).norm(dim=0) * GRID.unit_mm
    assert float(errors[6:17, 10:35, 9:29].mean()) < 0.6 * float(
        exact.displacement_field().magnitude_mm()[6:17, 10:35, 9:29].mean()
    )


def test_splines_go_on_from_where_the_volume_as_a_whole_was_found() -> None:
    linear = torch.zeros(3, 4)
    linear[:, 3] = torch.tensor([0.0, 15.0, -11.0]) / SLAB.unit_mm
    still = FAST.bspline.model_copy(update={"iterations": 2, "learning_rate": 1e-4})
    found = _registered(_moved_as_a_whole(linear, SLAB), method="bspline", initial="translation", bspline=still)
    exact = linear_displacement(linear[None], normalised_lattice(SLAB, linear))[0]
    assert float(_errors_mm(found, exact, SLAB).mean()) < 0.8


class _Folding:
    """A method that finds a volume to be turned inside out."""

    name = "fit"

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        centres, sigmas = torch.tensor([[0.1, 0.2, -0.1], [-0.2, 0.0, 0.1]]), torch.full((2, 3), 0.15)
        found = GaussianSequence(centres, sigmas, torch.zeros(2, 3), torch.tensor([[0.0, 0.3, 0.0], [0.1, 0.0, 0.25]]), pairs.grid)
        yield RegistrationStep(1, 1, torch.zeros(1), lambda: (found,))


def test_what_folds_is_changed_until_it_provably_does_not() -> None:
    fixed, moving = make.texture(GRID.shape, 1), make.texture(GRID.shape, 2)
    pairs = make.pairs_of((fixed, moving), grid=GRID)
    *_, before = _Folding().register(pairs)
    assert jacobian_bound(before.transforms()[0], everywhere=True).found < 0
    *_, last = Unfolding(_Folding(), FAST.volume_fit.model_copy(update={"unfolding_steps": 2})).register(pairs)
    assert jacobian_bound(last.transforms()[0], everywhere=True).proven >= 0.02
    assert "fitted again" in last.notes[0]
    assert "it is proven to stay above 0.02" in last.notes[0]


@pytest.mark.parametrize("grid", [GRID, SLAB], ids=["volume", "slab"])
def test_a_radius_is_given_and_told_to_be_uncalibrated(grid: Grid) -> None:
    exact = _motion(grid, 4.0, 14.0)
    moving = make.texture(grid.shape, 1)
    found = _registered(_series(warp_image(moving, exact), moving, grid), uncertainty="on", volume_steps=6)
    assert found.uncertainty is not None
    assert found.uncertainty.uncalibrated
    radius = found.uncertainty.on(grid)
    assert radius.shape == grid.shape
    assert bool((radius > 0).all())
