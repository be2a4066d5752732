"""The simulated person: the truth it gives is the truth of its volumes, and a slice cut out of them agrees with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from r2n2.errors import ArgumentError
from r2n2.geometry import Space
from r2n2.simulation import PersonConfig, PersonLabel, SimulatedVolume, coronal_slice, person_series
from r2n2.simulation.person.volume import _signal
from r2n2.transform import jacobian_determinant, map_points, warp_image

LUNGS = (PersonLabel.RIGHT_LUNG, PersonLabel.LEFT_LUNG)
CLEAN = {"noise": 0.0, "bias": 0.0}
WHOLE = {"frames": 6, "frame_interval_s": 0.8, "shape": (27, 33, 38), "spacing_mm": (12.0, 8.5, 9.5)}
# A part of the right lung and the liver, finer: the plane of the test runs through the dome.
PART = {"frames": 5, "frame_interval_s": 0.8, "shape": (31, 23, 27), "spacing_mm": (5.0, 4.5, 4.0), "centre_mm": (-40, 5, -65)}


@pytest.fixture(scope="module")
def ct() -> SimulatedVolume:
    return person_series(PersonConfig(seed=102, contrast="ct", **WHOLE, **CLEAN))


@pytest.fixture(scope="module")
def part() -> SimulatedVolume:
    return person_series(PersonConfig(seed=100, landmarks=20, **PART, **CLEAN))


def ends(volume: SimulatedVolume) -> tuple[int, int]:
    """Frames nearest to the ends of expiration and inspiration."""
    way = [volume._scene.state(frame).lower_mm for frame in range(len(volume.series))]
    return int(np.argmin(way)), int(np.argmax(way))


def test_series_describes_itself(ct: SimulatedVolume, part: SimulatedVolume) -> None:
    series = ct.series
    assert series.frames.shape == (6, 1, 27, 33, 38)
    assert series.grid.spacing == (12.0, 8.5, 9.5)
    assert series.grid.origin == (-156.0, -136.0, -175.75)
    assert (series.dtype, part.series.dtype) == (np.int16, np.uint16)
    assert (series.modality, part.series.modality) == ("CT", "MR")
    assert series.times_s == (0.0, 0.8, 1.6, 2.4, 3.2, 4.0)
    assert PersonConfig.parse(dict(series.source["config"])).seed == 102
    with pytest.raises(IndexError, match="frame 6 does not exist"):
        ct.displacement(0, 6)


def test_tissues_have_their_numbers_and_labels_their_organs(ct: SimulatedVolume) -> None:
    image, labels = ct.series.frame(0)[0].astype(float), ct.label_map(0)
    mean = {label: float(image[labels == label].mean()) for label in PersonLabel}
    assert mean[PersonLabel.BACKGROUND] < -900
    assert -880 < mean[PersonLabel.RIGHT_LUNG] < -650
    assert -880 < mean[PersonLabel.LEFT_LUNG] < -650
    assert 60 < mean[PersonLabel.LIVER] < 140
    assert 60 < mean[PersonLabel.HEART] < 200
    assert mean[PersonLabel.RIBS] > 120
    assert mean[PersonLabel.SPINE] > 100
    centre = {label: np.argwhere(labels == label).mean(axis=0) for label in PersonLabel}
    # Array order: z to the head, y to the back, x to the patient's left.
    assert centre[PersonLabel.LEFT_LUNG][2] > centre[PersonLabel.HEART][2] > centre[PersonLabel.RIGHT_LUNG][2]
    assert centre[PersonLabel.LIVER][0] < centre[PersonLabel.HEART][0] - 2
    assert centre[PersonLabel.SPINE][1] > centre[PersonLabel.HEART][1] + 5


def test_the_lungs_keep_their_mass_and_gain_volume(ct: SimulatedVolume) -> None:
    mass, volume = [], []
    for frame in ends(ct):
        lung = np.isin(ct.label_map(frame), LUNGS)
        volume.append(int(lung.sum()))
        # The median: at this voxel size a good part of the lungs' voxels holds an edge of something else.
        mass.append(float(np.median(ct.series.frame(frame)[0][lung] + 1000)) * volume[-1])
    assert volume[1] > 1.12 * volume[0]
    assert mass[1] == pytest.approx(mass[0], rel=0.04)


def test_lung_tissue_thins_as_its_volume_grows(part: SimulatedVolume) -> None:
    fixed, moving = ends(part)
    scene = part._scene
    deep = (part.label_map(fixed) == PersonLabel.RIGHT_LUNG) & (part.wall_distance_mm(fixed) > 12)
    index = np.argwhere(deep).astype(float)
    # As a lattice of three axes, which is what is sampled.
    grid = part.series.grid
    places = [(p * np.array(grid.spacing) + grid.origin).T[:, :, None, None] for p in (index, part.track(index, fixed, moving))]
    signals = [_signal(scene, (p[0], p[1], p[2]), scene.state(frame)) for p, frame in zip(places, (fixed, moving), strict=True)]
    reference = scene.motion.reference_of((places[0][0], places[0][1], places[0][2]), scene.state(fixed)).positions
    value, share = scene.material.sample(scene.material.inner, reference)
    tissue = share > 0.995 * value  # no thick vessel, whose blood keeps its brightness
    change = part.volume_change(fixed, moving)[deep][:, None, None]
    assert tissue.sum() > 800
    assert change[tissue].mean() > 1.05
    np.testing.assert_allclose((signals[1] * change)[tissue], signals[0][tissue], rtol=0.01)
    images = [part.series.frame(k)[0].astype(float) for k in (fixed, moving)]
    means = [
        np.median(image[part.label_map(k) == PersonLabel.RIGHT_LUNG]) for image, k in zip(images, (fixed, moving), strict=True)
    ]
    assert means[1] < 0.96 * means[0]


def test_the_moving_frame_warped_by_the_field_is_the_fixed_frame(part: SimulatedVolume) -> None:
    fixed, moving = ends(part)
    images = {k: torch.from_numpy(part.series.frame(k).astype(np.float32)) for k in (fixed, moving)}
    warped = warp_image(images[moving], part.displacement(fixed, moving))
    # The wall's edge is blended within a voxel, and towards the feet tissue comes in from outside.
    away = torch.from_numpy(np.abs(part.wall_distance_mm(fixed)) > 8)
    away[:7] = away[-2:] = False
    away[:, :2] = away[:, -2:] = False
    before = (images[moving] - images[fixed])[0][away].abs()
    after = (warped - images[fixed])[0][away].abs()
    assert float(before.mean()) > 60
    assert float(after.mean()) < 0.23 * float(before.mean())
    assert float(after.quantile(0.95)) < 80


def test_landmarks_follow_the_motion_and_the_field(part: SimulatedVolume) -> None:
    for fixed, moving in ((0, 3), (3, 1)):
        here = part.landmarks.in_frame(fixed)
        there = part.landmarks.in_frame(moving).select(here.ids)
        np.testing.assert_allclose(part.track(here.points, fixed, moving), there.points, atol=1e-6)
    fixed, moving = ends(part)
    here = part.landmarks.in_frame(fixed)
    there = part.landmarks.in_frame(moving).select(here.ids)
    found = map_points(part.displacement(fixed, moving), torch.from_numpy(here.points), Space.INDEX).numpy()
    spacing = np.array(part.series.grid.spacing)
    error = np.linalg.norm((found - there.points) * spacing, axis=1)
    assert error.max() < 0.25
    assert np.linalg.norm((here.points - there.points) * spacing, axis=1).max() > 5


def test_landmarks_are_spread_over_lobes_and_lie_outside_too(ct: SimulatedVolume) -> None:
    first = ct.landmarks.in_frame(0)
    assert len(first) == 60
    kinds = [name.split("-")[0] for name in first.ids]
    counts = {lobe: kinds.count(lobe) for lobe in ("RUL", "RML", "RLL", "LUL", "LLL")}
    assert sum(counts.values()) == 40
    assert min(counts.values()) >= 4
    assert {"liver", "rib", "vertebra"} <= set(kinds)
    where = ct.label_map(0)[tuple(np.rint(first.points).astype(int).T)]
    # To the nearest of these large voxels, which near an edge may be one of another organ.
    assert np.isin(where[[kind[0] in "RL" for kind in kinds]], LUNGS).mean() > 0.8
    assert (where[[kind == "vertebra" for kind in kinds]] == PersonLabel.SPINE).mean() > 0.4
    with pytest.raises(ValueError, match="landmarks"):
        PersonConfig(landmarks=-1)


def test_branchings_are_bright_where_landmarks_say(part: SimulatedVolume) -> None:
    image = part.series.frame(2)[0].astype(float)
    here = part.landmarks.in_frame(2)
    lung = np.array([name.startswith("R") for name in here.ids])
    index = tuple(np.rint(here.points[lung]).astype(int).T)
    typical = np.median(image[part.label_map(2) == PersonLabel.RIGHT_LUNG])
    assert lung.sum() >= 8
    assert np.median(image[index]) > 1.2 * typical
    assert (image[index] > typical).mean() > 0.85


def test_nothing_folds_away_from_the_sliding_surface(ct: SimulatedVolume) -> None:
    fixed, moving = ends(ct)
    field = ct.displacement(fixed, moving).to_space(Space.NORMALISED)
    smallest = jacobian_determinant(field.vectors[None].double(), field.grid)[0].amin(0).numpy()
    # A cell is away from the surface if all its corners are on one side, a voxel away.
    side = np.sign(ct.wall_distance_mm(fixed)) * (np.abs(ct.wall_distance_mm(fixed)) > 6)
    corners = np.stack([side[a : a + 26, b : b + 32, c : c + 37] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    away = np.abs(corners.sum(axis=0)) == 8
    assert away.mean() > 0.4
    assert smallest[away].min() > 0.2
    # On the surface the lattice sees a fold or a tear: the motion jumps.
    assert np.abs(smallest[~away] - 1).max() > 0.6
    assert ct.volume_change(fixed, moving).min() > 0.2


def test_same_seed_same_volumes_and_frames_do_not_depend_on_each_other() -> None:
    config = PersonConfig(seed=103, frames=3, shape=(5, 12, 13), spacing_mm=(7.0, 8.0, 9.0), landmarks=5)
    first, second = person_series(config), person_series(config)
    frames = [first.series.frame(t) for t in range(3)]
    np.testing.assert_array_equal(second.series.frame(2), frames[2])
    np.testing.assert_array_equal(first.series.frame(1), frames[1])
    np.testing.assert_array_equal(first.landmarks.points, second.landmarks.points)
    other = person_series(config.model_copy(update={"seed": 104}))
    assert np.abs(other.series.frame(2).astype(float) - frames[2]).mean() > 30


def test_the_person_does_not_depend_on_the_grid(part: SimulatedVolume) -> None:
    # A slab of one slice through the middle of the part, as thick as a slice: odd, and as thin as a grid can be.
    grid = part.series.grid
    slab = person_series(
        PersonConfig(**{"seed": 100, **PART, **CLEAN, "shape": (31, 1, 27), "centre_mm": (-40, 5, -65), "landmarks": 0})
    )
    assert slab.series.grid.shape == (31, 1, 27)
    fixed, moving = ends(part)
    whole = part.displacement(fixed, moving).vectors[:, :, 11]
    torch.testing.assert_close(slab.displacement(fixed, moving).vectors[:, :, 0], whole, atol=1e-5, rtol=0)
    assert grid.shape[1] == 23
    thick, thin = slab.series.frame(moving)[0, :, 0].astype(float), part.series.frame(moving)[0, :, 11].astype(float)
    assert np.abs(thick - thin).mean() < 0.02 * np.ptp(thin)


def test_a_coronal_slice_agrees_with_the_volume(part: SimulatedVolume) -> None:
    cut = coronal_slice(part, 11)
    fixed, moving = ends(part)
    assert cut.series.frames.shape == (5, 1, 31, 27)
    assert cut.series.grid.spacing == (5.0, 4.0)
    np.testing.assert_array_equal(cut.series.frame(moving)[0][::-1], part.series.frame(moving)[0, :, 11])
    field, volume = cut.displacement(fixed, moving), part.displacement(fixed, moving).vectors.numpy()
    # Row 4 from the head is plane 26 from the feet; down in the picture is down in the body.
    np.testing.assert_allclose(field.vectors[:, 4, 9].numpy(), [-volume[0, 26, 11, 9], volume[2, 26, 11, 9]])
    np.testing.assert_allclose(cut.through_plane_mm(fixed, moving)[4, 9], volume[1, 26, 11, 9])
    assert float(field.vectors[0, 15:22, 8:16].mean()) > 5  # the dome goes down
    assert 0.05 < np.abs(cut.through_plane_mm(fixed, moving)).max() < 6
    np.testing.assert_array_equal(cut.label_map(moving)[::-1], part.label_map(moving)[:, 11])
    with pytest.raises(IndexError, match="row 23"):
        coronal_slice(part, 23)


def test_a_coronal_slice_lies_in_the_body_where_its_patient_grid_says(part: SimulatedVolume) -> None:
    cut = coronal_slice(part, 7, near_mm=30.0)
    patient, volume = cut.series.patient_grid, part.series.grid
    assert patient is not None
    pixel = torch.tensor([[0.0, 4.0, 9.0]], dtype=torch.float64)
    voxel = torch.tensor([[26.0, 7.0, 9.0]], dtype=torch.float64)
    places = patient.convert_points(pixel, Space.INDEX, Space.WORLD), volume.convert_points(voxel, Space.INDEX, Space.WORLD)
    torch.testing.assert_close(*places)
    assert np.linalg.det(np.array(patient.direction)) == pytest.approx(1.0)
    here = cut.landmarks.in_frame(1)
    there = part.landmarks.in_frame(1).select(here.ids)
    assert 3 < len(here) < len(part.landmarks.in_frame(1))
    np.testing.assert_allclose(here.points, np.stack((30 - there.points[:, 0], there.points[:, 2]), axis=1))
    assert (np.abs(there.points[:, 1] - 7) * 4.5 <= 30).all()


@pytest.mark.parametrize(
    ("contrast", "mean", "deviation"), [("mr", 30 * np.sqrt(np.pi / 2), 30 * np.sqrt(2 - np.pi / 2)), ("ct", -1000, 30)]
)
def test_noise_in_air_is_rayleigh_for_mr_and_gaussian_for_ct(contrast: str, mean: float, deviation: float) -> None:
    noise = 0.03 if contrast == "mr" else 30.0
    beside = {"shape": (4, 20, 21), "spacing_mm": (6.0, 2.0, 2.0), "centre_mm": (0, -180, 0)}
    volume = person_series(
        PersonConfig.parse({"contrast": contrast, "noise": noise, "frames": 2, "bias": 0, "landmarks": 0, **beside})
    )
    air = [volume.series.frame(t).astype(float) for t in range(2)]
    assert (air[0] != air[1]).any()
    assert np.mean(air) == pytest.approx(mean, rel=0.05)
    assert np.std(air) == pytest.approx(deviation, rel=0.06)


def test_landmarks_that_leave_a_slab_are_not_given_and_a_note_says_so() -> None:
    volume = person_series(PersonConfig(seed=101, frames=3, shape=(3, 40, 41), spacing_mm=(8.0, 6.0, 6.0), landmarks=50))
    points = volume.landmarks.points
    assert (points > -0.5).all()
    assert (points < np.array([2.5, 39.5, 40.5])).all()
    assert len(volume.landmarks) < 150
    assert "of 50 landmarks" in volume.series.notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"contrast": "pet"}, "contrast"),
        ({"shape": (8, 8)}, "shape"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm"),
        ({"breathing_dept_mm": 3}, "did you mean 'breathing_depth_mm'"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        PersonConfig.parse(values)
