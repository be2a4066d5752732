"""The simulated thorax and the Gaussian motion: the truth they give is the truth of the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.simulation import Label, SimulatedSeries, ThoraxConfig, random_gaussian_motion, synthetic_pair, thorax_series
from r2n2.simulation.people import acquisition
from r2n2.transform import folding_percent, jacobian_determinant, map_points, warp_image

CLEAN = {"noise": 0.0, "bias": 0.0, "density_effect": 0.0, "flow_effect": 0.0}
SMALL = {"frames": 8, "shape": (61, 80), "spacing_mm": (5.5, 4.5)}


@pytest.fixture(scope="module")
def thorax() -> SimulatedSeries:
    return thorax_series(ThoraxConfig(seed=2, **SMALL, **CLEAN))


@pytest.fixture(scope="module")
def extremes(thorax: SimulatedSeries) -> tuple[int, int]:
    """Frames nearest to the ends of expiration and inspiration."""
    first = thorax.landmarks.in_frame(0).points
    depth = [float((thorax.landmarks.in_frame(t).points - first)[:, 0].mean()) for t in range(len(thorax.series))]
    return int(np.argmin(depth)), int(np.argmax(depth))


def test_landmarks_follow_the_field_between_all_frames_exactly(thorax: SimulatedSeries) -> None:
    for fixed, moving in ((0, 5), (5, 0), (3, 7)):
        here = thorax.landmarks.in_frame(fixed)
        there = thorax.landmarks.in_frame(moving).select(here.ids)
        np.testing.assert_allclose(thorax.track(here.points, fixed, moving), there.points, atol=1e-5)


def test_landmarks_follow_the_sampled_field_to_a_fiftieth_of_a_pixel() -> None:
    simulated = thorax_series(ThoraxConfig(seed=4, frames=6, shape=(130, 121), spacing_mm=(2.7, 3.0), **CLEAN))
    points = {t: simulated.landmarks.in_frame(t).points for t in range(6)}
    moving = max(range(6), key=lambda t: float(np.abs(points[t] - points[0]).mean()))
    found = map_points(simulated.displacement(0, moving), torch.from_numpy(points[0]), Space.INDEX).numpy()
    error = np.linalg.norm(found - points[moving], axis=1)
    assert error.max() < 0.02
    assert np.linalg.norm(points[0] - points[moving], axis=1).max() > 2


def test_there_and_back_is_nowhere(thorax: SimulatedSeries, extremes: tuple[int, int]) -> None:
    fixed, moving = extremes
    start = np.random.default_rng(0).uniform(0, 1, (200, 2)) * (60, 79)
    np.testing.assert_allclose(thorax.track(thorax.track(start, fixed, moving), moving, fixed), start, atol=1e-6)


def test_displacement_maps_fixed_into_moving(thorax: SimulatedSeries, extremes: tuple[int, int]) -> None:
    expiration, inspiration = extremes
    down = thorax.displacement(expiration, inspiration).vectors[0]
    # The liver's dome, left in the picture, goes down as the lung fills.
    assert float(down[36:44, 20:32].mean()) > 4
    assert not thorax.displacement(3, 3).vectors.any()


def test_the_moving_frame_warped_by_the_field_is_the_fixed_frame() -> None:
    simulated = thorax_series(ThoraxConfig(seed=2, frames=6, shape=(160, 190), spacing_mm=(2.2, 1.9), **CLEAN))
    depth = [float(simulated.landmarks.in_frame(t).points[:, 0].mean()) for t in range(6)]
    fixed, moving = int(np.argmin(depth)), int(np.argmax(depth))
    images = {t: torch.from_numpy(simulated.series.frame(t).astype(np.float32)) for t in (fixed, moving)}
    warped = warp_image(images[moving], simulated.displacement(fixed, moving))
    # Towards the feet tissue comes in from outside the frame.
    before = (images[moving] - images[fixed])[0, 5:-20, 5:-5].abs()
    after = (warped - images[fixed])[0, 5:-20, 5:-5].abs()
    # What is left is the loss of one linear interpolation between pixels.
    assert float(after.mean()) < 0.16 * float(before.mean())
    assert float(after.quantile(0.99)) < 60


def test_motion_has_the_size_of_breathing(thorax: SimulatedSeries, extremes: tuple[int, int]) -> None:
    simulated = thorax_series(ThoraxConfig(seed=1, frames=20, shape=(64, 64), **CLEAN))
    points = np.stack([simulated.landmarks.in_frame(t).points for t in range(20)]) * 6.0
    way = np.linalg.norm(points - points.mean(axis=0), axis=-1)
    assert 1.5 < way.mean() < 8
    assert 9 < np.ptp(points[..., 0], axis=0).max() < 28


@pytest.mark.parametrize(("seed", "depth", "cardiac"), [(0, 20.0, 5.0), (11, 30.0, 0.0), (271, 18.0, 6.0)])
def test_nothing_folds(seed: int, depth: float, cardiac: float) -> None:
    config = ThoraxConfig(seed=seed, frames=6, shape=(33, 31), breathing_depth_mm=depth, cardiac_amplitude_mm=cardiac, landmarks=0)
    simulated = thorax_series(config)
    for moving in (2, 5):
        field = simulated.displacement(0, moving).to_space(Space.NORMALISED)
        assert float(jacobian_determinant(field.vectors[None], field.grid).min()) > 0.3


def test_no_motion_asked_for_is_no_motion() -> None:
    still = thorax_series(ThoraxConfig(seed=3, frames=3, shape=(40, 37), breathing_depth_mm=0, cardiac_amplitude_mm=0, **CLEAN))
    np.testing.assert_array_equal(still.series.frame(0), still.series.frame(2))
    assert float(still.displacement(0, 2).vectors.abs().max()) < 1e-6


def test_same_seed_same_series_and_frames_do_not_depend_on_each_other() -> None:
    config = ThoraxConfig(seed=5, frames=4, shape=(40, 51))
    first, second = thorax_series(config), thorax_series(config)
    all_frames = [first.series.frame(t) for t in range(4)]
    np.testing.assert_array_equal(second.series.frame(3), all_frames[3])
    np.testing.assert_array_equal(first.series.frame(3), all_frames[3])
    np.testing.assert_array_equal(first.landmarks.points, second.landmarks.points)
    other = thorax_series(config.model_copy(update={"seed": 6}))
    assert float(np.abs(other.series.frame(0).astype(float) - all_frames[0]).mean()) > 30


@pytest.fixture(scope="module")
def positions() -> list[SimulatedSeries]:
    """One person at five slice positions."""
    configs = [ThoraxConfig(seed=2, slices=5, slice=k, **SMALL, **CLEAN) for k in range(5)]
    return [thorax_series(config) for config in configs]


def test_slice_positions_show_one_person_from_back_to_front(positions: list[SimulatedSeries], thorax: SimulatedSeries) -> None:
    areas = [{label: int((one.label_map(0) == label).sum()) for label in Label} for one in positions]
    heart = [area[Label.HEART] for area in areas]
    assert heart[0] == heart[1] == 0
    assert min(heart[2:4]) > 0
    width = [int((one.label_map(0) == Label.LUNG).any(axis=0).sum()) for one in positions]
    assert width[0] < width[1] < width[2] > width[3] > width[4]
    # The middle one is of the person who is seen there alone.
    one, other = positions[2]._scene.motion, thorax._scene.motion
    assert (one.wall_half_width_mm, one.heart_mm) == (other.wall_half_width_mm, other.heart_mm)


def test_every_slice_position_has_breaths_vessels_and_noise_of_its_own(positions: list[SimulatedSeries]) -> None:
    way = [one.displacement(0, 4).vectors[0].mean() for one in positions]
    assert len({round(float(value), 3) for value in way}) == 5
    noisy = [ThoraxConfig(seed=2, slices=5, slice=k, frames=1, shape=(64, 64), spacing_mm=(9.0, 9.0), landmarks=0) for k in (1, 2)]
    corner = [thorax_series(config).series.frame(0)[0][:10, :8] for config in noisy]
    assert (corner[0] != corner[1]).any()


@pytest.mark.parametrize("seed", [2000, 2041])
def test_no_slice_position_folds(seed: int) -> None:
    for config in acquisition(seed, frames=6, size=32)[::6]:
        simulated = thorax_series(config.model_copy(update={"landmarks": 0}))
        field = simulated.displacement(0, 4).to_space(Space.NORMALISED)
        assert float(jacobian_determinant(field.vectors[None], field.grid).min()) > 0.3


def test_the_diaphragm_moves_further_at_the_back() -> None:
    still = {"irregularity": 0.0, "hysteresis_s": 0.0, "frames": 14, "shape": (64, 64), "landmarks": 0}
    ways = []
    for number in range(3):
        simulated = thorax_series(ThoraxConfig(seed=1, slices=3, slice=number, **still, **CLEAN))
        probe = simulated._scene.to_index(np.array([[70.0, -70.0]]))
        heights = [float(simulated.track(probe, 0, frame)[0, 0]) for frame in range(14)]
        ways.append(max(heights) - min(heights))
    assert ways[0] > 1.2 * ways[2]


def test_an_acquisition_has_the_papers_shape() -> None:
    people = [acquisition(seed) for seed in range(2000, 2042)]
    counts = [len(person) for person in people]
    assert (min(counts), max(counts)) == (7, 14)
    assert all(config.frames == 140 and config.shape == (256, 256) for person in people for config in person)
    assert all(person[0].position == -person[-1].position for person in people)
    assert len({person[0].breathing_depth_mm for person in people}) == 42


def test_noise_is_rician_and_new_in_every_frame() -> None:
    config = ThoraxConfig(seed=1, frames=2, shape=(64, 64), spacing_mm=(9.0, 9.0), noise=0.03, breathing_depth_mm=0, bias=0)
    simulated = thorax_series(config)
    air = [simulated.series.frame(t)[0][:10, :8].astype(float) for t in range(2)]
    assert (air[0] != air[1]).any()
    # The mean of Rician noise without signal (Rayleigh) is sigma * sqrt(pi / 2).
    assert np.mean(air) == pytest.approx(30 * np.sqrt(np.pi / 2), rel=0.15)


def test_series_describes_itself(thorax: SimulatedSeries) -> None:
    series = thorax.series
    assert series.frames.shape == (8, 1, 61, 80)
    assert series.dtype == np.uint16
    assert series.grid.spacing == (5.5, 4.5)
    assert series.times_s is not None
    np.testing.assert_allclose(series.times_s, np.arange(8) * 0.3)
    assert {thorax.landmarks.in_frame(t).ids for t in range(8)} == {thorax.landmarks.in_frame(0).ids}
    assert len(thorax.landmarks.in_frame(0)) == 30
    assert set(ThoraxConfig.parse(dict(series.source["config"]))) == set(ThoraxConfig(seed=2, **SMALL, **CLEAN))
    with pytest.raises(IndexError, match="frame 8 does not exist"):
        thorax.displacement(0, 8)


def test_lungs_are_dark_blood_is_bright_and_labels_move_with_the_images(thorax: SimulatedSeries, extremes: tuple[int, int]) -> None:
    lung_area = {}
    for frame in extremes:
        image, labels = thorax.series.frame(frame)[0].astype(float), thorax.label_map(frame)
        mean = {label: float(image[labels == label].mean()) for label in Label}
        assert mean[Label.BACKGROUND] < mean[Label.LUNG] < mean[Label.LIVER] < mean[Label.HEART]
        lung_area[frame] = int((labels == Label.LUNG).sum())
    expiration, inspiration = extremes
    assert lung_area[inspiration] > 1.04 * lung_area[expiration]


def test_the_lung_darkens_as_it_fills(thorax: SimulatedSeries, extremes: tuple[int, int]) -> None:
    dense = thorax_series(ThoraxConfig(seed=2, **SMALL, **{**CLEAN, "density_effect": 1.0}))
    inspiration = extremes[1]
    lung = thorax.label_map(inspiration) == Label.LUNG
    with_effect, without = (s.series.frame(inspiration)[0][lung].astype(float).mean() for s in (dense, thorax))
    assert with_effect < without - 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"breathing_dept_mm": 3}, "did you mean 'breathing_depth_mm'"),
        ({"shape": (4, 64)}, "shape"),
        ({"spacing_mm": (0.0, 1.0)}, "spacing_mm"),
        ({"noise": -1}, "noise"),
        ({"frames": 0}, "frames"),
        ({"slices": 3, "slice": 3}, "slice must be 0 to 2 of 3"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ThoraxConfig.parse(values)


@pytest.mark.parametrize(("shape", "spacing"), [((41, 64), (2.0, 0.7)), ((20, 24, 17), (3.0, 1.0, 1.5))])
def test_random_gaussian_motion_does_not_fold_and_repeats(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    grid = Grid(shape, spacing)
    drawn = [random_gaussian_motion(grid, torch.Generator().manual_seed(7), amplitude_mm=60.0) for _ in range(2)]
    assert torch.equal(drawn[0].amplitudes, drawn[1].amplitudes)
    determinants = jacobian_determinant(drawn[0].displacement_field().vectors[None], grid)
    assert float(determinants.min()) >= 0.3
    assert not float(folding_percent(determinants)[0])
    assert float(drawn[0].displacement_field().magnitude_mm().max()) > 1


def test_synthetic_pair_is_its_field() -> None:
    grid = Grid((47, 60), (1.0, 1.7))
    sequence = random_gaussian_motion(grid, torch.Generator().manual_seed(1), amplitude_mm=5.0)
    rows, columns = torch.meshgrid(torch.arange(47.0), torch.arange(60.0), indexing="ij")
    pair = synthetic_pair((3 * rows + 2 * columns)[None], sequence)
    vectors = pair.field.to_space(Space.INDEX).vectors
    expected = 3 * (rows + vectors[0]) + 2 * (columns + vectors[1])
    inside = (rows + vectors[0] >= 0) & (rows + vectors[0] <= 46) & (columns + vectors[1] >= 0) & (columns + vectors[1] <= 59)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(pair.fixed[0][inside], expected[inside], atol=2e-3, rtol=0)
    assert torch.equal(pair.moving[0], 3 * rows + 2 * columns)


def test_gaussian_motion_refuses_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="min_jacobian"):
        random_gaussian_motion(Grid((20, 20)), torch.Generator(), min_jacobian=1.5)
