"""Volumes in a report: which plane is shown, the right way up, and what is seen of motion and Gaussians in it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from manifest_factory import manifest_of

from r2n2.geometry import Grid, Space
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.report.data import gather
from r2n2.report.page import render_report
from r2n2.report.planes import Motion, Plane
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.reader import RegisteredSeries
from r2n2.series import ImageSeries
from r2n2.transform import DisplacementField, GaussianSequence, orientation_of_axes

FIELDS = ("centres", "sigmas", "orientation", "amplitudes")
GRID = Grid((7, 33, 26), (4.0, 1.5, 2.0), (5.0, -3.0, 8.0))


def one_gaussian(centre_index: tuple[float, ...], sigmas_mm: tuple[float, ...], v_mm: tuple[float, ...]) -> GaussianSequence:
    """Axis 1 along x, 2 along y, 3 along z."""
    index, sigmas, v = (torch.tensor([numbers], dtype=torch.float32) for numbers in (centre_index, sigmas_mm, v_mm))
    centre = GRID.convert_points(index, Space.INDEX, Space.NORMALISED)
    return GaussianSequence(centre, sigmas / GRID.unit_mm, torch.zeros(1, 3), v / GRID.unit_mm, GRID)


def test_the_plane_of_the_largest_motion_goes_through_it() -> None:
    sequence = one_gaussian((4, 9, 17), (9, 6, 5), (3.0, 0.5, -6.0))
    motion = Motion(GRID, [sequence], patient=False)
    assert motion.centre == (4, 9, 17)
    planes = motion.planes
    # Least along y: seen along y.
    assert (planes[0].normal, planes[0].index, planes[0].name) == (1, 9, "xz plane")
    assert [plane.normal for plane in planes] == [1, 0, 2]
    assert planes[0].spacing_mm == (4.0, 2.0)
    seen = planes[0].displacement_mm(sequence)
    assert seen.shape == (2, 7, 26)
    np.testing.assert_allclose(seen[:, 4, 17], (3.0, -6.0), rtol=1e-5)
    z, x = np.mgrid[:7, :26]
    height = np.exp(-0.5 * (((z - 4) * 4 / 5) ** 2 + ((x - 17) * 2 / 9) ** 2))
    np.testing.assert_allclose(seen[1], -6 * height, atol=1e-5)


def test_what_moves_in_the_dark_is_not_where_to_look() -> None:
    """A large motion of air and a smaller one of tissue: the planes go through the tissue."""
    moves = [one_gaussian((1, 4, 3), (5, 5, 4), (0.0, 0.0, 9.0)), one_gaussian((5, 24, 20), (5, 5, 4), (0.0, 3.0, 2.0))]
    both = GaussianSequence(*(torch.cat([getattr(m, name) for m in moves]) for name in FIELDS), GRID)
    y = np.broadcast_to(np.arange(33)[None, :, None], GRID.shape)
    tissue = np.where(y > 14, 100.0, 3.0)
    assert Motion(GRID, [both], patient=False).centre == (1, 4, 3)
    assert Motion(GRID, [both], patient=False, image=tissue).centre == (5, 24, 20)


def test_a_dense_field_is_seen_as_it_is() -> None:
    vectors = torch.zeros(3, *GRID.shape)
    vectors[0], vectors[2, :, 5] = 0.5, 2.0
    field = DisplacementField(vectors, GRID, Space.INDEX)
    seen = Plane.of(GRID, 1, 5, patient=False).displacement_mm(field)
    np.testing.assert_allclose(seen[0], 2.0, rtol=1e-5)
    np.testing.assert_allclose(seen[1], 4.0, rtol=1e-5)
    np.testing.assert_allclose(Plane.of(GRID, 1, 8, patient=False).displacement_mm(field)[1], 0.0, atol=1e-5)


@pytest.mark.parametrize(("sign", "upright"), [(1.0, True), (-1.0, False)])
def test_the_head_is_up(sign: float, upright: bool) -> None:
    grid = Grid(GRID.shape, GRID.spacing, GRID.origin, ((sign, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, sign)))
    coronal, axial = Plane.of(grid, 1, 9, patient=True), Plane.of(grid, 0, 3, patient=True)
    assert (coronal.name, coronal.upright) == ("coronal", upright)
    assert (axial.name, axial.upright) == ("axial", False)
    frame = np.arange(math.prod(grid.shape), dtype=np.float32).reshape(1, *grid.shape)
    image = coronal.image(frame)
    np.testing.assert_array_equal(image, frame[0, ::-1, 9] if upright else frame[0, :, 9])
    sequence = GaussianSequence(
        torch.zeros(1, 3), torch.full((1, 3), 0.3), torch.zeros(1, 3), torch.tensor([[0.1, 0.0, 0.2]]), grid
    )
    seen = coronal.displacement_mm(sequence)
    largest = np.unravel_index(np.hypot(*seen).argmax(), coronal.shape)
    # Downwards is towards lower z where the head is up.
    assert math.copysign(1, seen[0][largest]) == (-1 if upright else 1)
    assert seen[1].max() > 0


def test_an_oblique_direction_is_named_after_the_nearest() -> None:
    cos, sin = math.cos(0.3), math.sin(0.3)
    grid = Grid(GRID.shape, GRID.spacing, GRID.origin, ((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0)))
    assert [Plane.of(grid, axis, 0, patient=True).name for axis in range(3)] == ["axial", "coronal", "sagittal"]


@pytest.mark.parametrize("upright", [False, True])
def test_outlines_are_the_shadows_of_the_gaussians(upright: bool) -> None:
    """A Gaussian turned in the plane of z and x, looked at along y: its projection keeps both widths and the angle."""
    angle = 0.4
    axes = torch.tensor([[math.sin(angle), 0, math.cos(angle)], [0, 1, 0], [math.cos(angle), 0, -math.sin(angle)]])
    unit = GRID.unit_mm
    centre = GRID.convert_points(torch.tensor([[2.0, 12.0, 20.0]]), Space.INDEX, Space.NORMALISED)
    sigmas = torch.tensor([[9.0, 6.0, 3.0]]) / unit
    sequence = GaussianSequence(centre, sigmas, orientation_of_axes(axes[None]), torch.zeros(1, 3), GRID)
    places, covariances, heights = Plane(GRID, 1, 8, upright).outlines_mm(sequence)
    row = (6 - 2) * 4.0 if upright else 2 * 4.0
    np.testing.assert_allclose(places, [[row, 40.0]], atol=1e-4)
    variances, directions = np.linalg.eigh(covariances[0])
    np.testing.assert_allclose(np.sqrt(variances), (3.0, 9.0), rtol=1e-4)
    down, right = directions[:, 1] * np.sign(directions[1, 1])
    assert math.atan2(down, right) == pytest.approx(-angle if upright else angle, abs=1e-4)
    # Four pixels of 1.5 mm off, with a sigma of 6 mm.
    np.testing.assert_allclose(heights, math.exp(-0.5), rtol=1e-4)


def test_what_moves_before_and_behind_is_seen_in_the_projection() -> None:
    sequence = one_gaussian((1, 9, 17), (5, 5, 4), (0.0, 3.0, 4.0))
    motion = Motion(GRID, [sequence], patient=True)
    axial = Plane.of(GRID, 0, 6, patient=True)
    assert np.hypot(*axial.displacement_mm(sequence)).max() < 1e-3
    projected, spacing = motion.projected(sequence, axial)
    assert projected.max() == pytest.approx(5.0, rel=1e-2)
    assert spacing == (1.5, 2.0)
    assert np.unravel_index(projected.argmax(), projected.shape) == (9, 17)


def test_two_dimensional_frames_are_shown_as_they_are() -> None:
    grid = Grid((5, 8), (2.0, 1.0))
    plane = Plane(grid)
    assert (plane.shape, plane.spacing_mm, plane.name) == ((5, 8), (2.0, 1.0), "")
    frame = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(plane.image(frame), frame.mean(0), rtol=1e-6)


def test_a_page_of_volumes_shows_three_planes() -> None:
    grid = Grid((9, 21, 17), (3.0, 1.5, 2.0))
    z, y, x = np.mgrid[:9, :21, :17]

    def frame(shift: float) -> np.ndarray:
        return 200 * np.exp(-(((z - 4 - shift) / 2) ** 2 + ((y - 9) / 5) ** 2 + ((x - 8) / 4) ** 2))

    shifts = (0.0, 1.0, 2.0)
    series = ImageSeries(
        np.stack([frame(shift) for shift in shifts])[:, None].astype(np.float32), grid, source={"format": "nifti", "path": "v.nii"}
    )
    fields = {}
    for number, shift in enumerate(shifts):
        vectors = torch.zeros(3, *grid.shape)
        vectors[0] = shift
        fields[number] = DisplacementField(vectors, grid, Space.INDEX)
    statuses = (FrameStatus.REFERENCE, FrameStatus.OK, FrameStatus.OK)
    found = [FrameResult(k, fields[k], status, "", 0.9, 0.98, 0.0, 0.9, 3.0 * shifts[k], 0.2) for k, status in enumerate(statuses)]
    metrics = tuple(FrameMetrics.of(result, math.nan) for result in found)
    registered = RegisteredSeries(Path("nowhere"), manifest_of(series), metrics, fields)
    data = gather(series, registered)
    assert {view.plane.name for view in data.views} == {"axial", "coronal", "sagittal"}
    for view in data.views:
        # The last two slices came from outside the volume.
        seen = view.plane.cut((z < 6)[None])[0]
        np.testing.assert_allclose(view.warped[seen], view.reference[seen], atol=1e-2)
        np.testing.assert_allclose(view.projected_mm, 6.0, rtol=1e-5)
        assert np.abs(view.moving - view.reference).max() > 50
    text = render_report(series, registered)
    assert "Frame 2 in three planes" in text
    assert f"Pictures show the {data.plane.name} plane of the largest motion" in text
