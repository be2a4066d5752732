"""Ellipsoids and the ellipses in which planes cut them, against the equation of the surface."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import volume_case
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_r2n2.layers.ellipsoids import centres_and_axes, nearest, sections, surfaces, vectors
from napari_r2n2.layers.shown_plane import ShownPlane
from napari_r2n2.layers.volume_lines import VolumeLines

SCALE = volume_case.GRID.spacing


def _outline(found: object, k: int, across: int, position: float) -> np.ndarray:
    """Points (P, 3) of the k-th ellipse."""
    turn = np.linspace(0, 2 * math.pi, 17)[:, None]
    plane = found.centres[k] + np.cos(turn) * found.axes[k, 0] + np.sin(turn) * found.axes[k, 1]
    points = np.full((len(plane), 3), position)
    points[:, [axis for axis in range(3) if axis != across]] = plane
    return points


def test_a_sphere_and_an_upright_ellipsoid_are_cut_as_school_says() -> None:
    centres = np.array([[10.0, 20.0, 30.0], [0.0, 0.0, 0.0]])
    axes = np.stack([np.diag([5.0, 5.0, 5.0]), np.diag([2.0, 3.0, 4.0])])
    found = sections(centres, axes, 0, 13.0)
    assert found.cut.tolist() == [True, False]
    np.testing.assert_allclose(found.centres[0], (20, 30))
    np.testing.assert_allclose(np.linalg.norm(found.axes[0], axis=1), (4, 4))  # 3, 4, 5
    found = sections(centres, axes, 1, 1.8)
    assert found.cut.tolist() == [False, True]
    shrunk = math.sqrt(1 - 0.6**2)
    np.testing.assert_allclose(np.abs(found.axes[1]), np.diag([2.0, 4.0]) * shrunk, atol=1e-12)
    assert not sections(centres, axes, 1, 3.0).cut[1], "a plane that touches it cuts nothing"
    assert sections(centres, axes, 1, 5.9, radius=2).cut[1]


@settings(deadline=None, max_examples=40)
@given(
    axes=st.lists(st.floats(-4, 4), min_size=9, max_size=9).map(lambda v: np.array(v).reshape(3, 3)),
    across=st.integers(0, 2),
    share=st.floats(-1.3, 1.3),
    radius=st.sampled_from([1.0, 2.0]),
)
def test_every_point_of_a_section_lies_on_the_surface_and_in_the_plane(
    axes: np.ndarray, across: int, share: float, radius: float
) -> None:
    if abs(np.linalg.det(axes)) < 0.5:
        return
    centre = np.array([3.0, -2.0, 7.0])
    covariance = axes.T @ axes
    position = centre[across] + share * radius * math.sqrt(covariance[across, across])
    found = sections(centre[None], axes[None], across, position, radius)
    assert found.cut[0] == (abs(share) < 1)
    if found.cut[0]:
        offset = _outline(found, 0, across, position) - centre
        np.testing.assert_allclose(np.einsum("pi,ij,pj->p", offset, np.linalg.inv(covariance), offset), radius**2, rtol=1e-6)


@pytest.mark.parametrize("across", [0, 1, 2])
def test_ellipses_of_a_sequence_are_its_level_lines(across: int) -> None:
    """Where the height of a Gaussian is exp(-1/2), whichever way the volume is cut."""
    sequence = volume_case.sequence()
    centres, axes = centres_and_axes(sequence, SCALE)
    for index in range(volume_case.GRID.shape[across]):
        position = index * SCALE[across]
        found = sections(centres, axes, across, position)
        for k in np.flatnonzero(found.cut):
            np.testing.assert_allclose(volume_case.mahalanobis(_outline(found, k, across, position))[k], 1, rtol=1e-9)
        spread = np.sqrt(np.einsum("tki,tki->ti", axes, axes)[:, across])
        np.testing.assert_array_equal(found.cut, np.abs(position - centres[:, across]) < spread)


def test_surfaces_lie_at_one_sigma_and_enclose_the_right_volume() -> None:
    sequence = volume_case.sequence()
    centres, axes = centres_and_axes(sequence, SCALE)
    vertices, faces = surfaces(centres, axes)
    own = len(vertices) // len(sequence)
    np.testing.assert_allclose(
        [volume_case.mahalanobis(vertices[k * own : (k + 1) * own])[k] for k in range(len(sequence))], 1, rtol=1e-9
    )
    first = faces[: len(faces) // len(sequence)]
    corners = vertices[first] - centres[0]
    inside = abs(np.linalg.det(corners).sum()) / 6
    expected = 4 / 3 * math.pi * float(torch.prod(sequence.sigmas_mm()[0]))
    assert inside == pytest.approx(expected, rel=0.06)


def test_vectors_are_displacements_in_mm_along_the_axes() -> None:
    np.testing.assert_allclose(vectors(volume_case.sequence(), SCALE)[0], (2.0, -1.0, 0.5))


def test_a_hit_is_the_ellipse_that_holds_it_nearest_its_centre() -> None:
    sequence = volume_case.sequence()
    centres, axes = centres_and_axes(sequence, SCALE)
    shown = np.ones(3, bool)
    assert nearest(centres, axes, centres[1] + 0.9 * axes[1, 2], shown) == 2
    assert nearest(centres, axes, centres[1] + 1.1 * axes[1, 2], shown) is None
    assert nearest(centres, axes, centres[1], shown & [True, False, True]) is None
    lines = VolumeLines(ShownPlane(0, 6), volume_case.GRID.shape, SCALE)
    assert lines.hit(sequence, centres[0], shown) == 1
    assert VolumeLines(ShownPlane(0, 13), volume_case.GRID.shape, SCALE).hit(sequence, centres[0], shown) is None, (
        "the plane of slice 13 lies beyond it"
    )


@pytest.mark.parametrize("across", [0, 1, 2])
def test_arrows_and_grids_show_the_displacement_in_the_plane(across: int) -> None:
    """A field that is linear in space: arrows are true to scale, lines are where points go, across nothing is seen."""
    matrix = np.array([[0.02, 0.01, 0.0], [0.0, -0.03, 0.02], [0.01, 0.0, 0.04]])

    def displacement_at(points: np.ndarray) -> np.ndarray:
        return points @ matrix.T + 0.5

    plane = ShownPlane(across, 5)
    lines = VolumeLines(plane, volume_case.GRID.shape, SCALE)
    arrows = lines.arrows(displacement_at, 5.0)
    np.testing.assert_allclose(arrows[:, 0, across], 5 * SCALE[across])
    assert (arrows[:, 1, across] == 0).all()
    seen = list(plane.axes)
    voxels = arrows[:, 0] / np.array(SCALE)
    np.testing.assert_allclose(arrows[:, 1][:, seen], (displacement_at(voxels) * np.array(SCALE))[:, seen])
    for axis in seen:
        apart = np.diff(np.unique(arrows[:, 0, axis]))
        assert apart == pytest.approx(round(5 / SCALE[axis]) * SCALE[axis])
    drawn = lines.grid_lines(displacement_at, 6)
    np.testing.assert_allclose(drawn[:, 0, across], 5 * SCALE[across])
    starts = drawn[:, 0][:, seen] / np.array(SCALE)[seen]
    # Undone, the line points lie on rows and columns of voxels.
    inner = np.linalg.inv(np.eye(2) + matrix[np.ix_(seen, seen)])
    back = (starts - 0.5 - 5 * matrix[seen, across]) @ inner.T
    assert np.allclose(np.abs(back - np.rint(back)).min(axis=1), 0, atol=1e-9)
    in_space = VolumeLines(ShownPlane(0, 5, in_space=True), volume_case.GRID.shape, SCALE).arrows(displacement_at, 5.0)
    np.testing.assert_allclose(in_space[:, 1], displacement_at(in_space[:, 0] / np.array(SCALE)) * np.array(SCALE))
