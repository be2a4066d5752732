"""One look at a series: frames read once, what masks leave out says nothing, and one reference of several slice positions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import registration_factory as make
from cli_factory import ROWS, fake_register, run, save, scene

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Space
from r2n2.io import write_landmarks
from r2n2.mask import Mask, Masks
from r2n2.registration import Survey, common_reference, register_series, resolve_reference, survey_for, survey_series
from r2n2.registration.contrast import ContrastFinding
from r2n2.series import ImageSeries, LandmarkSet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Frame -> how often it was read."""
    counted: Counter[int] = Counter()
    whole = ImageSeries.frame

    def frame(self: ImageSeries, index: int) -> object:
        counted[index] += 1
        return whole(self, index)

    monkeypatch.setattr(ImageSeries, "frame", frame)
    return counted


def _offsets(offsets: tuple[float, ...]) -> ImageSeries:
    base = make.texture(make.GRID.shape).numpy()
    return ImageSeries(np.stack([base + offset for offset in offsets]), make.GRID)


def test_each_frame_is_read_once_for_reference_and_measure_together(read: Counter[int]) -> None:
    series = _offsets(tuple(range(20)))
    survey = survey_for(series, RegistrationConfig())
    assert read == dict.fromkeys(range(20), 1)
    read.clear()
    running = register_series(series, make.FAST, survey=survey)
    first = next(running)
    running.close()
    assert read == {first.reference: 1}, "nothing is looked at again"


def test_a_named_reference_leaves_some_frames_for_the_contrast_and_a_named_measure_none(read: Counter[int]) -> None:
    series = _offsets(tuple(range(40)))
    survey = survey_for(series, RegistrationConfig(reference=3))
    assert survey is not None
    assert not survey.contrast.changes
    assert len(read) == 16
    assert survey_for(series, RegistrationConfig(reference=3, similarity="ssd")) is None


def test_the_command_looks_once_where_landmarks_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Counter[int]
) -> None:
    given: list[Survey | None] = []

    def register(series: ImageSeries, config: RegistrationConfig, **options: object) -> object:
        given.append(options["survey"])  # type: ignore[arg-type]
        assert set(read.values()) == {2}, "one look, and one for the hash of the input"
        return fake_register(series, config)

    monkeypatch.setattr("r2n2.workflow.register_series", register)
    monkeypatch.setattr("r2n2.workflow.render_report", lambda *_: "report")
    movie = save(tmp_path / "in" / "movie.mha", np.stack([scene(rows) for rows in ROWS])[:, None].astype(np.float32))
    points = np.array([[12.0 + rows, 20.0] for rows in ROWS])
    marks = tmp_path / "marks.csv"
    write_landmarks(marks, LandmarkSet(("a",) * 4, np.arange(4), points, Space.INDEX), make.GRID)
    read.clear()
    assert run("register", movie, "-o", tmp_path / "out", "--landmarks", marks) == 0
    assert len(given) == 1
    assert given[0] is not None
    assert np.isfinite(given[0].means).all()


def test_means_are_of_what_counts() -> None:
    series = _offsets((0, 10, 30, 4, 8))
    frames = np.array(series.frames)
    inside = np.zeros(make.GRID.shape, dtype=bool)
    inside[20:40, 10:60] = True
    # Around the mask the order is another one, and frame 4 shows nothing inside it.
    frames[:, :, ~inside] = frames[:, :, ~inside][[4, 2, 1, 0, 3]]
    frames[4][:, inside] = 3.0
    series = ImageSeries(frames, make.GRID)
    masks = Masks(Mask.of(inside[None]))
    survey = survey_series(series, masks)
    expected = frames[:4, 0][:, inside].astype(np.float64).mean(1) / 2
    np.testing.assert_allclose(survey.means[:4], expected)
    assert np.isnan(survey.means[4])
    assert resolve_reference(series, "auto", masks) == int(np.abs(expected - expected.mean()).argmin())
    assert resolve_reference(series, "auto", masks) != resolve_reference(series, "auto")
    moving = np.ones((5, *make.GRID.shape), dtype=bool)
    moving[1, :, :50] = False
    assert survey_series(series, Masks(None, Mask.of(moving))).means[1] == pytest.approx(frames[1, 0, :, 50:].mean() / 2)


def _survey(means: list[float], agreement: dict[int, float] | None = None) -> Survey:
    return Survey(np.array(means), ContrastFinding(agreement is not None, "", agreement or {}), "nothing to see")


def test_the_common_reference_is_usual_in_all_slices_each_relative_to_its_own_mean() -> None:
    # Alone, their usual frames are 0 and 3; a sum of intensities would follow the bright one.
    dark, bright = _survey([11, 12, 18, 8]), _survey([900, 1500, 300, 1000])
    shares = np.array([11, 12, 18, 8]) / 12.25 + np.array([900, 1500, 300, 1000]) / 925
    assert common_reference([dark, bright]) == int(np.abs(shares - shares.mean()).argmin()) == 0
    assert common_reference([_survey([11, np.nan, 18, 8]), bright]) != 1
    with pytest.raises(ArgumentError, match="nothing to see"):
        common_reference([_survey([np.nan, np.nan]), _survey([1.0, 2.0])])


def test_where_contrast_changes_in_any_slice_structures_decide_and_not_intensities() -> None:
    changing = _survey([11, 12, 18, 8], {0: 0.2, 1: 0.5, 3: 0.9})
    still = Survey(np.array([10.0, 12.0, 18.0, 8.0]), ContrastFinding(False, "", {0: 0.1, 1: 0.8, 2: 3.0, 3: 0.3}), "")
    # 2 is not seen in both; 1 has the largest sum of the others.
    assert common_reference([changing, still]) == 1
