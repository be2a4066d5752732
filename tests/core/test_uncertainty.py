"""The radius of error of a registration: its covariance against brute force, its features and tables against known answers."""

from __future__ import annotations

import dataclasses

import pytest
import registration_factory as make
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from r2n2.config import FitConfig, RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.preprocessing import blur
from r2n2.registration import Pairs
from r2n2.registration.uncertainty import backward_pairs, certain, features, uncertainty_estimator
from r2n2.registration.uncertainty.eigenvalues import largest_eigenvalue, smallest_eigenvalue
from r2n2.registration.uncertainty.features import Features, features_of, frame_features
from r2n2.registration.uncertainty.tables import Curve, MethodTable, method_key, shipped_tables
from r2n2.registration.uncertainty.verdict import reasons_for_uncertainty
from r2n2.transform import DisplacementField, GaussianSequence, normalised_lattice, warp_image

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid((75, 101), (1.7, 0.9), (3.0, -8.0), ((0.0, -1.0), (1.0, 0.0)))


def _shift(grid: Grid, vector: tuple[float, ...]) -> DisplacementField:
    vectors = torch.tensor(vector).view(-1, *[1] * grid.ndim).expand(grid.ndim, *grid.shape)
    return DisplacementField(vectors.clone(), grid, Space.NORMALISED)


def _middle(values: Tensor) -> Tensor:
    quarter = [slice(n // 3, -(n // 3)) for n in values.shape[1:]]
    return values[(slice(None), *quarter)]


@pytest.mark.parametrize("size", [2, 3])
def test_extreme_eigenvalues_are_those_of_the_general_solver(size: int) -> None:
    root = torch.randn(5, 7, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = root @ root.mT - 0.3 * torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(largest_eigenvalue(matrix), expected[..., -1])
    torch.testing.assert_close(smallest_eigenvalue(matrix), expected[..., 0])


def _compared(residual: Tensor, slope: Tensor, grid: Grid) -> features._Compared:
    """Pixels that all count, their residual (B, 1, *shape) and slope (B, ndim, *shape) given."""
    one = torch.ones_like(residual)
    return features._Compared(grid, torch.zeros_like(residual), residual, one, one, slope, torch.zeros_like(slope), None, None)


@pytest.mark.parametrize("shape", [(31, 24), (9, 12, 11)], ids=["2D", "3D"])
def test_the_sandwich_of_a_window_is_that_of_brute_force(shape: tuple[int, ...]) -> None:
    """With all its pixels as rows of one least squares problem, weighted by the window: (G'WG)^-1 G'W R^2 G (G'WG)^-1."""
    grid, ndim = Grid(shape, (1.5, 0.7, 1.1)[: len(shape)]), len(shape)
    generator = torch.Generator().manual_seed(2)
    residual = torch.randn(2, 1, *shape, generator=generator, dtype=torch.float64)
    slope = 3 * torch.randn(2, ndim, *shape, generator=generator, dtype=torch.float64)
    lattice = grid.resized((3,) * ndim)
    found = features._leftover(_compared(residual, slope, grid), lattice)["sandwich"]
    pixels = normalised_lattice(grid, slope).flatten(1)
    place = normalised_lattice(lattice, slope)[(slice(None), 1, *[0] * (ndim - 1))]
    window = torch.exp(-0.5 * ((pixels - place[:, None]) / 0.1).square().sum(0))
    window = window / window.sum()
    for k in range(2):
        rows = slope[k].flatten(1).mT
        inverse = torch.linalg.inv(rows.mT @ (window[:, None] * rows) + 0.3 * torch.eye(ndim, dtype=torch.float64))
        scores = rows * residual[k].flatten()[:, None]
        expected = torch.linalg.eigvalsh(inverse @ (scores.mT @ (window[:, None] * scores)) @ inverse)[-1].sqrt()
        torch.testing.assert_close(found[(k, 1, *[0] * (ndim - 1))], expected, rtol=1e-6, atol=1e-9)


def test_the_sandwich_is_the_spread_of_a_window_over_draws_of_noise() -> None:
    """The motion that 200 draws of noise ask for in one window scatters as the feature of one draw says of one pixel."""
    grid, generator = Grid((60, 60)), torch.Generator().manual_seed(3)
    slope = 4 * torch.randn(1, 2, 60, 60, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(200, 1, 60, 60, generator=generator, dtype=torch.float64)
    lattice = grid.resized((3, 3))
    found = features._leftover(_compared(noise, slope.expand(200, -1, -1, -1), grid), lattice)
    # The length of a vector of two components that scatter alike, and how many pixels a Gaussian window averages.
    spread = found["leftover_wide"][:, 1, 1].square().mean().sqrt() / 2**0.5
    averaged = (4 * torch.pi) ** 0.5 * 0.1 * 59 / 2
    assert float(found["sandwich"][:, 1, 1].mean()) == pytest.approx(float(spread) * averaged, rel=0.2)


@pytest.mark.parametrize("shape", [(60, 47), (24, 20, 22), (2, 60, 47)], ids=["2D", "3D", "slab"])
def test_noise_is_white_and_what_is_left_of_motion_is_not(shape: tuple[int, ...]) -> None:
    grid = Grid(shape, (1.0, 1.3, 1.1)[: len(shape)])
    slope = torch.zeros(1, len(shape), *shape)
    noise = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    smooth = blur(noise, tuple(3.0 if n > 2 else 0.0 for n in shape))
    lattice = grid.resized(tuple(min(n, 9) for n in shape))
    white, grey = (
        features._whiteness(_compared(residual, slope, grid), lattice)[..., 3:-3, 3:-3]
        for residual in (noise, smooth / smooth.std())
    )
    assert float(white.mean()) == pytest.approx(1, abs=0.15)
    assert float(grey.max()) < 0.2


def test_noise_is_no_texture() -> None:
    """A flat area in noise has slopes everywhere; smoothed, it is known to be blank beside one with texture."""
    generator = torch.Generator().manual_seed(0)
    image = make.texture(GRID.shape, 1)
    image[..., :50] = image.mean()
    noisy = [image + 0.15 * image.std() * torch.randn(image.shape, generator=generator) for _ in range(2)]
    values = features_of(make.pairs_of((noisy[0], noisy[1]), grid=GRID), [_shift(GRID, (0.0, 0.0))], FitConfig()).values
    ratio = {name: float(values[name][0, 24:40, 15].mean() / values[name][0, 24:40, 48].mean()) for name in values}
    assert ratio["blank_smooth"] > 1.5 * ratio["blank_wide"]
    assert ratio["whiteness"] == pytest.approx(1, abs=0.15)


def test_motion_that_is_left_over_is_seen() -> None:
    moving = make.texture(GRID.shape, 1)
    exact = _shift(GRID, (0.012, -0.009))
    pairs = make.pairs_of((warp_image(moving, exact), moving), grid=GRID)
    before = features_of(pairs, [_shift(GRID, (0.0, 0.0))], FitConfig()).values
    after = features_of(pairs, [exact], FitConfig()).values
    assert float(_middle(before["leftover_wide"]).median()) == pytest.approx(0.015, rel=0.15)
    assert float(_middle(after["leftover_wide"]).max()) < 2e-3
    assert float(_middle(after["motion"]).mean()) == pytest.approx(0.015, rel=1e-4)
    assert float(_middle(after["unlike"]).median()) < 0.03 < float(_middle(before["unlike"]).median())


def test_steepness_of_a_linear_map_is_known_and_does_not_depend_on_spacing() -> None:
    for grid in (GRID, dataclasses.replace(GRID, spacing=(17.0, 9.0))):
        lattice = normalised_lattice(grid, torch.zeros(1))
        field = DisplacementField(torch.stack((0.03 * lattice[1], -0.04 * lattice[0])), grid, Space.NORMALISED)
        image = make.texture(grid.shape)
        values = features_of(make.pairs_of((image, image), grid=grid), [field], FitConfig()).values
        torch.testing.assert_close(
            _middle(values["steepness"]), torch.full_like(_middle(values["steepness"]), 0.05), rtol=1e-3, atol=0
        )


def test_features_do_not_depend_on_the_units_of_length_and_intensity() -> None:
    moving = make.texture(GRID.shape, 2)
    fixed = warp_image(moving, _shift(GRID, (0.01, 0.02)))
    other = dataclasses.replace(GRID, spacing=tuple(1000 * s for s in GRID.spacing))
    found = []
    for grid, factor in ((GRID, 1.0), (other, 37.0)):
        pairs = make.pairs_of((factor * fixed - 5, factor * moving + 3), grid=grid)
        transform = dataclasses.replace(make.motion(GRID), grid=grid)
        found.append(features_of(pairs, [transform], FitConfig()).values)
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-2, atol=1e-4, msg=name)


def test_what_leaves_the_frame_is_outside_and_still_counts() -> None:
    image = make.texture(GRID.shape, 3)
    pairs = make.pairs_of((image, image), grid=GRID)
    found = features_of(pairs, [_shift(GRID, (0.0, 0.9))], FitConfig())
    outside = found.values["outside"][0, 20:44]
    assert float(outside[:, 38:52].min()) > 0.99
    assert float(outside[:, 11:16].max()) < 0.05
    assert float(found.counts[0, 20:44, 13:51].min()) > 0.05, "what is seen of the reference does not depend on the result"
    assert float(found.counts[0, :, :3].max()) < 0.02, "beside the frame there is nothing to be seen"


def test_there_and_back_again() -> None:
    image = make.texture(GRID.shape, 3)
    pairs = make.pairs_of((image, image), grid=GRID)
    there, back = _shift(GRID, (0.05, 0.02)), _shift(GRID, (-0.05, 0.02))
    values = features_of(pairs, [there], FitConfig(), [back]).values
    torch.testing.assert_close(values["disagreement"], torch.full_like(values["disagreement"], 0.04), rtol=1e-4, atol=1e-6)
    turned = backward_pairs(make.pairs_of((image, 2 * image), grid=GRID))
    torch.testing.assert_close(turned.fixed, 2 * turned.moving)


def test_features_are_there_for_every_kind_of_transform_and_for_volumes() -> None:
    volume = Grid((17, 21, 19), (2.0, 1.5, 1.5))
    image = make.texture(volume.shape)
    found = features_of(make.pairs_of((image, image), grid=volume), [make.motion(volume)], FitConfig())
    assert set(shipped_tables().methods["fit"].features) <= set(found.values)
    assert all(bool(value.isfinite().all()) for value in found.values.values())
    image = make.texture(GRID.shape)
    dense = features_of(make.pairs_of((image, image), grid=GRID), [_shift(GRID, (0.0, 0.01))], FitConfig())
    assert set(shipped_tables().methods["r2n2"].features) <= set(dense.values)


CURVE = Curve(knots=(-1.0, 0.0, 2.0), values=(3.0, 3.0, 7.0))


def test_a_curve_is_linear_between_knots_and_constant_beyond() -> None:
    places = torch.tensor([[-9.0, -0.5], [0.5, 2.0], [1.0, 50.0]])
    torch.testing.assert_close(CURVE.at(places), torch.tensor([[3.0, 3.0], [4.0, 7.0], [5.0, 7.0]]))


@pytest.mark.parametrize("wrong", [{"values": (3.0, 2.0, 7.0)}, {"knots": (0.0, 0.0, 1.0)}, {"values": (1.0, 2.0)}])
def test_a_curve_that_falls_is_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError, match=r"must rise|as many values"):
        Curve(**{"knots": CURVE.knots, "values": CURVE.values} | wrong)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_radius_never_falls_where_a_feature_rises(data: st.DataObject) -> None:
    table = shipped_tables().methods[data.draw(st.sampled_from(sorted(shipped_tables().methods)))]
    sizes = st.floats(-9, 3).map(lambda power: torch.tensor([10.0]) ** power)
    values = {name: data.draw(sizes) for name in table.features}
    raised = data.draw(st.sampled_from(sorted(values)))
    more = values | {raised: values[raised] * data.draw(st.floats(1, 1e3))}
    for probability in ("0.5", "0.9", "0.95"):
        assert float(table.radius_of(more, probability)) >= float(table.radius_of(values, probability)) * (1 - 1e-5)
    radii = [float(table.radius_of(values, probability)) for probability in ("0.5", "0.8", "0.9", "0.95")]
    assert radii == sorted(radii)


def test_distance_from_the_calibration_is_that_of_mahalanobis() -> None:
    table = MethodTable(
        features={"motion": CURVE},
        radius={"0.9": CURVE},
        centre={"motion": 0.0, "unlike": 1.0},
        precision=((4.0, 0.0), (0.0, 1.0)),
        farthest=3.0,
    )
    frames = {"motion": torch.tensor([1.0, 1.0]).exp(), "unlike": torch.tensor([1.0, 2.0]).exp()}
    torch.testing.assert_close(table.distance(frames), torch.tensor([2.0, 5.0]).sqrt() * torch.tensor([2**0.5, 1.0]))


def test_every_method_has_a_table_and_other_settings_are_not_calibrated() -> None:
    for config in (RegistrationConfig(), RegistrationConfig(refine=False), RegistrationConfig(method="fit")):
        assert method_key(config) in shipped_tables().methods
        found = uncertainty_estimator(config)
        assert found is not None
        assert found.uncalibrated == ""
    assert uncertainty_estimator(RegistrationConfig(uncertainty="off")) is None
    other = uncertainty_estimator(RegistrationConfig(method="fit", steps=9, warm_start=True))
    assert other is not None
    assert other.uncalibrated == "the radius is calibrated for the usual steps, warm_start"
    unused = uncertainty_estimator(RegistrationConfig(method="fit", weights="paper", reference=3, device="cpu", uncertainty="full"))
    assert unused is not None
    assert (unused.uncalibrated, unused.both_ways) == ("", True)


@pytest.mark.parametrize("present", [True, False])
def test_a_method_without_a_table_says_so(present: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = shipped_tables()
    methods = {name: table for name, table in tables.methods.items() if name != "bspline"}
    if present:
        methods["bspline"] = tables.methods["fit"]
    changed = tables.model_copy(update={"methods": methods})
    monkeypatch.setattr("r2n2.registration.uncertainty.estimate.shipped_tables", lambda: changed)
    estimator = uncertainty_estimator(RegistrationConfig(method="bspline"))
    assert estimator is not None
    fixed, moving, exact = make.moved_pair(GRID)
    found = estimator.estimate(make.pairs_of((fixed, moving), grid=GRID), [exact.displacement_field()])[0]
    expected = "" if present else "no table was calibrated for bspline; that of fit stands in"
    assert estimator.uncalibrated == expected
    assert "Gaussians" not in found.uncalibrated
    assert 0 < found.median_mm < found.q95_mm


def _estimate(grid: Grid, fixed: Tensor, moving: Tensor, transform: GaussianSequence):
    estimator = uncertainty_estimator(RegistrationConfig(method="fit"))
    assert estimator is not None
    return estimator.estimate(make.pairs_of((fixed, moving), grid=grid), [transform])[0]


def test_the_radius_is_a_length_on_the_frame() -> None:
    fixed, moving, exact = make.moved_pair(GRID)
    double = dataclasses.replace(GRID, spacing=tuple(2 * s for s in GRID.spacing))
    one = _estimate(GRID, fixed, moving, exact)
    two = _estimate(double, fixed, moving, dataclasses.replace(exact, grid=double))
    assert one.on(GRID).shape == GRID.shape
    torch.testing.assert_close(2 * one.on(GRID), two.on(double), rtol=1e-3, atol=1e-5)
    assert two.median_mm == pytest.approx(2 * one.median_mm, rel=1e-3)
    assert 0 < one.median_mm <= one.q95_mm
    assert float(certain(GRID).on(GRID).abs().max()) == 0
    wrong = _estimate(GRID, fixed, moving, dataclasses.replace(exact, amplitudes=-exact.amplitudes))
    assert wrong.q95_mm > 10 * one.q95_mm, "where the Gaussians are; elsewhere it is right"
    assert wrong.median_mm > 2 * one.median_mm


def test_a_transform_without_gaussians_has_a_radius_that_is_not_calibrated() -> None:
    fixed, moving, exact = make.moved_pair(GRID)
    for config in (RegistrationConfig(), RegistrationConfig(method="fit", uncertainty="full")):
        estimator = uncertainty_estimator(config)
        assert estimator is not None
        found = estimator.estimate(make.pairs_of((fixed, moving), grid=GRID), [exact.displacement_field()])[0]
        assert found.uncalibrated == "the result is no sum of Gaussians, as it was in the calibration"
        assert 0 < found.median_mm < found.q95_mm


def test_volumes_and_unfamiliar_frames_are_not_calibrated() -> None:
    volume = Grid((17, 21, 19), (2.0, 1.5, 1.5))
    image = make.texture(volume.shape)
    assert "2D" in _estimate(volume, image, image, make.motion(volume)).uncalibrated
    speck = torch.zeros(1, *GRID.shape)
    speck[0, 40, 50] = 1e4
    assert "unlike those of the calibration" in _estimate(GRID, speck, speck.flip(1), make.motion(GRID, 0.9)).uncalibrated


def _features(motion: Tensor, counts: Tensor, **others: Tensor) -> Features:
    return Features({"motion": motion, **others}, counts, Grid(tuple(motion.shape[1:])))


def test_doubt_is_about_what_is_seen() -> None:
    grid = Grid((64, 65), (2.0, 2.0))
    counts = torch.zeros(2, 8, 8)
    counts[:, :, :5], counts[:, :4, 0] = 0.5, 1.0
    radius = torch.full((2, 8, 8), 1e-3)
    radius[0, :, :2] = 0.3
    radius[1, :, 5:], radius[1, 0, :2] = 0.3, 0.3
    found = reasons_for_uncertainty(radius, _features(counts, counts), grid)
    assert found[0] == ("the position of 45 % of what the reference shows is uncertain by more than 2.6 mm",)
    assert found[1] == (), "where nothing is seen nothing is asked"
    apart = torch.zeros(2, 8, 8)
    apart[1, :, :4] = 0.5
    found = reasons_for_uncertainty(1e-3 * counts, _features(counts, counts, disagreement=apart), grid)
    assert found == [(), ("there and back again, 82 % of what the reference shows ends more than 2.6 mm off",)]
    assert reasons_for_uncertainty(radius, _features(counts, 0 * counts), grid) == [(), ()]


def test_frame_features_weigh_what_counts() -> None:
    counts = torch.zeros(1, 4, 4)
    counts[0, 0, :2] = torch.tensor([1.0, 3.0])
    motion = torch.zeros(1, 4, 4)
    motion[0, 0, 1] = 2.0
    found = frame_features(_features(motion, counts))
    torch.testing.assert_close(found["motion"], torch.tensor([3.0]).sqrt())
    torch.testing.assert_close(found["counts"], torch.tensor([0.25]))


def test_a_batch_gives_what_each_pair_gives_alone() -> None:
    ones = [make.moved_pair(GRID, seed=seed) for seed in (0, 1)]
    pairs = make.pairs_of(*((fixed, moving) for fixed, moving, _ in ones), grid=GRID)
    transforms = [exact for *_, exact in ones]
    both = features_of(pairs, transforms, FitConfig()).values
    alone = [features_of(pairs.part(slice(k, k + 1)), transforms[k : k + 1], FitConfig()).values for k in (0, 1)]
    for name, value in both.items():
        torch.testing.assert_close(value, torch.cat([part[name] for part in alone]), rtol=1e-3, atol=1e-5, msg=name)
    shared = Pairs(pairs.fixed[:1].expand(2, -1, -1, -1), pairs.moving, *2 * (pairs.fixed_valid[:1].expand(2, -1, -1, -1),), GRID)
    assert features_of(shared, transforms, FitConfig()).counts.shape == (2, 64, 64)
