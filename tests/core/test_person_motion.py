"""The motion of a person: both ways agree, volumes are those of the Jacobian, and the wall stays whole where tissue slides."""

from __future__ import annotations

import numpy as np
import pytest

from r2n2.errors import ArgumentError
from r2n2.simulation.person.anatomy import draw_person
from r2n2.simulation.person.cavity import Cavity
from r2n2.simulation.person.motion import Axes, HeartEllipsoid, PersonMotion
from r2n2.simulation.person.ramps import between, rise, rise_slope
from r2n2.simulation.thorax_motion import FrameState

DEEP = FrameState(lower_mm=25.0, upper_mm=19.0, contraction_mm=6.0, rocking_mm=2.0, flow=0.0)
STATES = [DEEP, FrameState(6.0, 14.0, 0.0, -2.0, 0.0), FrameState(-1.5, 0.0, 3.0, 0.0, 0.0)]
BUMPS = ((-40.0, 0.2, -0.5, 40.0, 0.3, 0.1), (30.0, -0.1, 0.55, 45.0, 0.35, -0.08))


@pytest.fixture(scope="module")
def motion() -> PersonMotion:
    person = draw_person(np.random.default_rng(100), 1.0)
    return PersonMotion(person.cavity, person.heart, BUMPS)


def anywhere(count: int, seed: int = 0) -> Axes:
    z, y, x = np.random.default_rng(seed).uniform((-230, -120, -170), (170, 130, 170), (count, 3)).T
    return z, y, x


def on_wall(motion: PersonMotion, level: float, count: int = 400) -> Axes:
    """Places at end-expiration where the cavity has this level; 1 is the wall."""
    rng = np.random.default_rng(3)
    z, angle = rng.uniform(-180, 130, count), rng.uniform(-np.pi, np.pi, count)
    low, high = np.zeros(count), np.full(count, 1.5)
    for _ in range(60):
        middle = 0.5 * (low + high)
        inside = motion.cavity.level(middle * np.sin(angle), middle * np.cos(angle)) < level
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return z, *motion.cavity.place(z, low * np.sin(angle), low * np.cos(angle))


@pytest.mark.parametrize("state", STATES)
def test_there_and_back_is_nowhere(motion: PersonMotion, state: FrameState) -> None:
    start = anywhere(4000)
    reference = motion.reference_of(start, state)
    assert reference.inside.any()
    assert not reference.inside.all()
    found = motion.position_of(reference.positions, reference.inside, state)
    np.testing.assert_allclose(np.stack(found), np.stack(start), atol=1e-6)


@pytest.mark.parametrize("state", STATES)
def test_volumes_are_those_of_the_jacobian(motion: PersonMotion, state: FrameState) -> None:
    places = anywhere(3000, seed=1)
    step = 1e-4
    z, y, x, _ = motion.wall_to_rest(*places, state)
    away = np.abs(motion.cavity.depth_mm(z, *motion.cavity.section(z, y, x))) > 0.1
    places = tuple(part[away] for part in places)
    columns = []
    for axis in range(3):
        ahead, behind = ([p + sign * step * (k == axis) for k, p in enumerate(places)] for sign in (1, -1))
        ends = [np.stack(motion.reference_of((p[0], p[1], p[2]), state).positions) for p in (ahead, behind)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    numeric = np.linalg.det(np.moveaxis(np.stack(columns, axis=-1), 1, 0))
    ratio = motion.reference_of(places, state).ratio
    # Second derivatives jump where ramps begin: a few differences straddle such a place.
    np.testing.assert_allclose(ratio, numeric, atol=1e-5)
    assert np.ptp(ratio) > 0.05


def test_tissue_slides_along_the_wall_without_gap_or_overlap(motion: PersonMotion) -> None:
    just_inside, just_outside = on_wall(motion, 1 - 1e-9), on_wall(motion, 1 + 1e-9)
    yes, no = np.ones(len(just_inside[0]), dtype=bool), np.zeros(len(just_inside[0]), dtype=bool)
    inner = motion.position_of(just_inside, yes, DEEP)
    outer = motion.position_of(just_outside, no, DEEP)
    slid = np.linalg.norm(np.stack(inner) - np.stack(outer), axis=0)
    assert slid.max() > 12
    # Both sides still lie on the wall as it is in that frame.
    for moved in (inner, outer):
        z, y, x, _ = motion.wall_to_rest(*moved, DEEP)
        assert np.abs(motion.cavity.depth_mm(z, *motion.cavity.section(z, y, x))).max() < 1e-5


def test_the_wall_moves_without_sliding_where_nothing_slides(motion: PersonMotion) -> None:
    z, y, x = on_wall(motion, 1.0)
    top = z > 110
    spine = (np.abs(x) < 12) & (y > 0)
    assert top.sum() > 5
    assert spine.sum() > 5
    u, v = motion.cavity.section(z, y, x)
    moved = motion.inner_to_rest(z, u, v, DEEP)[0] - z
    assert moved[spine & (z < 0)].max() < 3
    assert moved[top].max() < 4
    assert moved[(np.abs(z + 50) < 40) & (np.abs(x) > 80)].min() > 12


@pytest.mark.parametrize("seed", range(100, 106))
def test_nothing_folds_and_the_beating_heart_lies_in_the_cavity(seed: int) -> None:
    person = draw_person(np.random.default_rng(seed), 1.5)
    motion = PersonMotion(person.cavity, person.heart, BUMPS)
    z, y, x = np.meshgrid(np.linspace(-300, 190, 45), np.linspace(-130, 130, 27), np.linspace(-160, 160, 29), indexing="ij")
    ratio = motion.reference_of((z, y, x), FrameState(42.0, 30.0, 8.0, 2.0, 0.0)).ratio
    assert 0.25 < ratio.min() < ratio.max() < 5
    turn = np.random.default_rng(0).normal(size=(500, 3))
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    places = person.heart.place(*turn.T)
    u, v = person.cavity.section(*places)
    assert person.cavity.level(u, v).max() < 1


def test_breathing_in_lowers_the_diaphragm_widens_the_chest_and_the_beat_shrinks_the_heart(motion: PersonMotion) -> None:
    dome = (np.array([-40.0]), np.array([10.0]), np.array([-70.0]))
    moved = motion.position_of(dome, np.array([True]), FrameState(20.0, 20.0, 0.0, 0.0, 0.0))
    assert -23 < float(moved[0][0] + 40) < -14
    side = (np.array([0.0]), np.array([0.0]), np.array([150.0]))
    moved = motion.position_of(side, np.array([False]), FrameState(20.0, 20.0, 0.0, 0.0, 0.0))
    assert 1.5 < float(moved[2][0] - 150) < 6
    heart = motion.heart
    rim = heart.place(np.array([0.0]), np.array([0.4]), np.array([0.0]))
    inside = np.array([True])
    still, beaten = (motion.position_of(rim, inside, FrameState(0, 0, squeeze, 0, 0)) for squeeze in (0.0, 5.0))
    distances = [float(np.linalg.norm(np.array(p)[:, 0] - heart.centre_mm)) for p in (still, beaten)]
    assert distances[0] == pytest.approx(0.4 * heart.short_mm)
    assert 3 < distances[0] - distances[1] < 5.1


def test_the_depth_is_the_distance_to_the_wall() -> None:
    cavity = Cavity(130.0, 90.0)
    z = np.array([-150.0, -150.0, -150.0])  # below the apex the section does not change
    deep, wide = (float(part[0]) for part in cavity.half_axes(z))
    y = np.array([float(cavity.spine_front(z)[0]) - 0.55 * deep] * 3)
    x = np.array([wide - 2.0, wide + 3.0, -(wide - 1.0)])
    np.testing.assert_allclose(cavity.depth_mm(z, *cavity.section(z, y, x)), [2.0, -3.0, 1.0], rtol=0.04)


def test_ramps_are_smooth_steps() -> None:
    places = np.linspace(-0.5, 1.5, 401)
    np.testing.assert_allclose(rise_slope(places), np.gradient(rise(places), places), atol=2e-3)
    np.testing.assert_allclose(between(np.array([-1.0, 0.0, 2.0, 5.0, 9.0]), (0.0, 2.0, 5.0), (1.0, 3.0, 2.0)), [1, 1, 3, 2, 2])


def test_motion_that_folds_has_no_inverse() -> None:
    heart = HeartEllipsoid((0.0, 0.0, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), 40.0, 40.0)
    motion = PersonMotion(Cavity(130.0, 90.0), heart, ((0.0, 0.0, 0.4, 8.0, 0.5, 1.0),))
    places = (np.linspace(-40, 40, 81), np.full(81, -5.0), np.full(81, 50.0))
    with pytest.raises(ArgumentError, match="breathing_depth_mm"):
        motion.position_of(places, np.ones(81, dtype=bool), FrameState(30.0, 30.0, 0.0, 0.0, 0.0))
