"""The session without Qt: what is known, switched off, measured again; and that a new run leaves the old one alone."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from napari_r2n2.models.registration import FrameKey
from napari_r2n2.models.session import Session, session_of
from r2n2.config import RegistrationConfig
from r2n2.geometry import Grid, Space
from r2n2.registration import FrameResult, FrameStatus, unregistered, warp_frame
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import BSplineField, DisplacementField, GaussianSequence, jacobian_determinant

KEY = FrameKey(0, 1)


def _sequence(grid: Grid, count: int = 3) -> GaussianSequence:
    """Steps of 1, 2, 3 mm down, wide enough to be nearly a shift."""
    places = torch.zeros(count, 2)
    amplitudes = torch.stack((torch.arange(1.0, count + 1) / grid.unit_mm, torch.zeros(count)), 1)
    return GaussianSequence(places, torch.full((count, 2), 5.0), torch.zeros(count, 1), amplitudes, grid)


def _session(series: ImageSeries) -> Session:
    session = Session()
    session.begin([series], RegistrationConfig(method="fit", steps=3))
    session.add(0, 0, unregistered(0, series.grid, FrameStatus.REFERENCE, "", similarity=1.0))
    session.add(0, 0, FrameResult(1, _sequence(series.grid), FrameStatus.OK, "", 0.5, 0.9, 0.0, 1.0, 6.0, 0.1))
    return session


def _heard(session: Session, name: str) -> list[Any]:
    found: list[Any] = []
    getattr(session, name).connect(lambda *values: found.append(values))
    return found


def test_a_run_is_told_frame_by_frame(series: ImageSeries) -> None:
    session = Session()
    heard = {name: _heard(session, name) for name in ("began", "added", "ended")}
    session.begin([series], RegistrationConfig(method="fit"))
    assert (session.reference(), session.complete, dict(session.results)) == (None, False, {})
    for frame in range(4):
        session.add(0, 2, unregistered(frame, series.grid, FrameStatus.OK, ""))
    session.end()
    assert session.complete
    assert session.reference() == 2
    assert heard == {"began": [()], "added": [(FrameKey(0, frame),) for frame in range(4)], "ended": [()]}


def test_what_is_switched_off_takes_no_part(series: ImageSeries) -> None:
    session = _session(series)
    edited = _heard(session, "edited")
    session.switch(KEY, 2, False)
    assert session.enabled(KEY).tolist() == [True, False, True]
    transform = session.transform(KEY)
    assert isinstance(transform, GaussianSequence)
    torch.testing.assert_close(transform.amplitudes_mm()[:, 0], torch.tensor([1.0, 3.0]))
    assert len(session.sequence(KEY) or ()) == 3, "it can be switched on again"
    session.switch(KEY, 2, False)
    session.switch(KEY, 2, True)
    assert edited == [(KEY,), (KEY,)], "nothing is told where nothing changes"
    assert session.transform(KEY) is session.sequence(KEY)
    session.switch(KEY, 1, False)
    session.switch_all_on(KEY)
    assert session.enabled(KEY).all()


@pytest.mark.parametrize("step", [0, 4])
def test_a_step_that_does_not_exist_cannot_be_switched(series: ImageSeries, step: int) -> None:
    with pytest.raises(IndexError, match=rf"no Gaussian {step}: it has 3"):
        _session(series).switch(KEY, step, False)


def test_an_edited_result_is_measured_again_and_says_what_was_done(series: ImageSeries) -> None:
    session = _session(series)
    assert session.registration.result(KEY) is session.results[KEY]
    session.switch(KEY, 3, False)
    session.switch(KEY, 2, False)
    result = session.registration.result(KEY)
    assert result.status is FrameStatus.EDITED
    assert result.message == "frame 1: Gaussians 2, 3 of 3 were switched off by hand"
    assert result.max_displacement_mm == pytest.approx(1.0, rel=0.02)
    # The disc of frame 1 lies 2 mm lower; 1 mm of that is better than nothing.
    assert result.similarity_after > result.similarity_before


def test_errors_follow_the_switches(series: ImageSeries) -> None:
    session = _session(series)
    assert session.errors() is None
    points = np.array([[10.0, 8.0], [12.0, 20.0], [13.0, 8.0], [15.0, 20.0]])
    heard = _heard(session, "landmarks_changed")
    session.set_landmarks({0: LandmarkSet(("a", "b", "a", "b"), np.array([0, 0, 1, 1]), points, Space.INDEX)})
    assert heard == [()]

    def error_mm() -> float:
        table = session.errors()
        assert table is not None
        return table.after().mean_mm

    # 3 pixels of 2 mm lower; the steps sum to 6 mm.
    assert error_mm() == pytest.approx(0.0, abs=0.1)
    session.switch(KEY, 3, False)
    assert error_mm() == pytest.approx(3.0, abs=0.1)
    alone = session.errors(0, 1)
    assert alone is not None
    assert alone.after().mean_mm == pytest.approx(error_mm())
    assert alone.before().mean_mm == pytest.approx(6.0)


def test_images_after_any_number_of_steps(series: ImageSeries) -> None:
    session = _session(series)
    fields = session.fields
    np.testing.assert_array_equal(fields.warped(KEY, 0), series.frame(1)[0])
    np.testing.assert_array_equal(fields.warped(KEY, 3), warp_frame(series, session.results[KEY])[0])
    for step, longest in ((0, 0.0), (1, 1.0), (2, 3.0), (3, 6.0), (9, 6.0)):
        assert fields.magnitude(KEY, step).max() == pytest.approx(longest, rel=0.01)
    # A frame that is not ready is shown as it came.
    np.testing.assert_array_equal(fields.warped(FrameKey(0, 2), 3), series.frame(2)[0])
    session.switch(KEY, 3, False)
    assert fields.magnitude(KEY, 3).max() == pytest.approx(3.0, rel=0.01)
    assert fields.magnitude(KEY, 2).max() == pytest.approx(3.0, rel=0.01)


def test_the_residual_is_the_frame_minus_the_reference(series: ImageSeries) -> None:
    fields = _session(series).fields
    expected = series.frame(1)[0].astype(float) - series.frame(0)[0]
    np.testing.assert_array_equal(fields.residual(KEY, 0), expected)
    assert np.abs(fields.residual(KEY, 2)).mean() < np.abs(expected).mean()
    np.testing.assert_array_equal(fields.residual(FrameKey(0, 0), 3), 0)


def test_the_jacobian_lies_between_the_pixels_and_shows_folds(series: ImageSeries) -> None:
    session = _session(series)
    tight = replace(_sequence(series.grid, 1), sigmas=torch.full((1, 2), 0.1), amplitudes=torch.tensor([[0.5, 0.0]]))
    session.add(0, 0, FrameResult(1, tight, FrameStatus.FOLDED, "", 0.5, 0.9, 5.0, -1.0, 6.0, 0.1))
    found = session.fields.jacobian(KEY, 1)
    cells = jacobian_determinant(tight.displacement_field().vectors[None], series.grid)[0].numpy()
    assert found.shape == (26, 34)
    assert found.min() == pytest.approx(cells.min())
    assert ((found <= 0) == (cells <= 0).any(0)).all()
    np.testing.assert_allclose(session.fields.jacobian(KEY, 0), 1, atol=1e-5)


def test_the_checkerboard_alternates_reference_and_frame(series: ImageSeries) -> None:
    session = _session(series)
    board = session.fields.checkerboard(KEY, 0, 2)
    fixed, moving = series.frame(0)[0], series.frame(1)[0]
    # The longer side, 27 pixels of 2 mm, holds two fields of 27 mm: 13.5 pixels along y, 18 along x.
    np.testing.assert_array_equal(board[:14, :18], fixed[:14, :18])
    np.testing.assert_array_equal(board[14:, :18], moving[14:, :18])
    np.testing.assert_array_equal(board[14:, 18:], fixed[14:, 18:])


def test_channels_go_where_napari_wants_them(series: ImageSeries) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 3, 27, 35), dtype=np.uint8)
    colour = _session(replace(series, frames=frames))
    np.testing.assert_array_equal(colour.fields.warped(KEY, 0), np.moveaxis(frames[1], 0, -1))
    assert colour.fields.residual(KEY, 2).shape == (27, 35)
    assert colour.fields.checkerboard(KEY, 2, 3).shape == (27, 35, 3)
    two = _session(replace(series, frames=frames[:, :2]))
    assert two.fields.warped(KEY, 2).shape == (2, 27, 35)
    assert two.fields.residual(KEY, 2).shape == (27, 35)


def test_a_dense_or_spline_transform_has_one_step(series: ImageSeries) -> None:
    session = Session()
    session.begin([series], RegistrationConfig(method="bspline"))
    spline = BSplineField(torch.full((2, 6, 6), 0.05), series.grid)
    session.add(0, 0, FrameResult(1, spline, FrameStatus.OK, "", 0.5, 0.9, 0.0, 1.0, 6.0, 0.1))
    assert session.registration.step_count == 1
    assert session.sequence(KEY) is None
    assert session.enabled(KEY).size == 0
    assert session.fields.magnitude(KEY, 0).max() == 0
    assert session.fields.magnitude(KEY, 1).max() > 1
    assert isinstance(session.fields.displacement(KEY, 1), DisplacementField)


def test_a_new_run_leaves_the_old_one_to_its_layers(series: ImageSeries) -> None:
    session = _session(series)
    old = session.fields
    before = old.warped(KEY, 3).copy()
    session.select(2)
    session.begin([series], RegistrationConfig(method="fit"))
    assert not session.results
    assert session.selection is None
    np.testing.assert_array_equal(old.warped(KEY, 3), before)
    np.testing.assert_array_equal(session.fields.warped(KEY, 3), series.frame(1)[0])


def test_every_viewer_has_one_session_that_goes_with_it() -> None:
    class Viewer:
        pass

    viewer, other = Viewer(), Viewer()
    session = session_of(viewer)
    assert session_of(viewer) is session
    assert session_of(other) is not session
    gone = weakref.ref(session)
    del session, viewer
    gc.collect()
    assert gone() is None
