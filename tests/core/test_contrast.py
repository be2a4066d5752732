"""Changing contrast: simulated with its motion unchanged, noticed before registration, and registered by what suits it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import registration_factory as make
import torch

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.mask import Mask, Masks
from r2n2.registration import FrameResult, FrameStatus, automatic_reference, register_series
from r2n2.registration.contrast import examine_frames, examine_series
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries
from r2n2.simulation import ContrastKind, SimulatedSeries, ThoraxConfig, thorax_series
from r2n2.simulation.contrast import Contrast, contrast_of_picture
from r2n2.workflow import register_to_folder

pytestmark = pytest.mark.usefixtures("one_thread")

THORAX = ThoraxConfig(seed=104, frames=5, shape=(112, 96), landmarks=8, frame_interval_s=0.7)


@pytest.fixture(scope="module")
def plain() -> SimulatedSeries:
    return thorax_series(THORAX)


@pytest.mark.parametrize("kind", ContrastKind)
def test_a_change_of_contrast_is_noticed_and_leaves_the_motion_as_it_is(kind: ContrastKind, plain: SimulatedSeries) -> None:
    seen = thorax_series(THORAX, kind)
    np.testing.assert_array_equal(plain.landmarks.points, seen.landmarks.points)
    vectors = [truth.displacement(0, 3).vectors for truth in (plain, seen)]
    assert torch.equal(*vectors)
    finding = examine_series(seen.series)
    assert finding.changes, kind
    assert "of 4 frames looked at" in finding.reason
    assert not np.array_equal(seen.series.frame(3), plain.series.frame(3))


def test_motion_and_noise_alone_are_no_change_of_contrast(plain: SimulatedSeries) -> None:
    assert not examine_series(plain.series).changes
    assert not examine_series(_series([False] * 4)).changes


def test_recovery_follows_the_formula_and_passes_through_zero() -> None:
    t1 = np.array([[300.0, 1000.0]])
    contrast = Contrast(ContrastKind.SIGNED_RECOVERY, (1000 * np.log(2), 1e6), t1, 0 * t1, 0 * t1)
    # S = S0 (1 - 2 exp(-TI / T1)) is 0 at TI = T1 ln 2.
    factor = contrast.factor(0)
    assert factor is not None
    np.testing.assert_allclose(factor, [[1 - 2 * 2 ** (-1000 / 300), 0]], atol=1e-12)
    np.testing.assert_allclose(contrast.factor(1), 1, atol=1e-12)
    assert contrast.signed
    magnitude = Contrast(ContrastKind.MAGNITUDE_RECOVERY, (100.0,), t1, 0 * t1, 0 * t1)
    assert (magnitude.shown(np.array([-2.0, 3.0]), 0) == [2, 3]).all()


def test_uptake_brightens_tissue_by_its_share_once_it_has_arrived() -> None:
    picture = make.texture((40, 52)).numpy()[0].astype(np.float64) / 200
    contrast = contrast_of_picture(np.random.default_rng(3), picture, ContrastKind.UPTAKE, 9)
    first, last = contrast.factor(0), contrast.factor(8)
    assert first is not None
    assert last is not None
    assert first.max() < 1.1
    np.testing.assert_allclose(last, 1 + contrast.uptake, atol=2e-3)
    assert np.ptp(last) > 1


def _series(change: list[bool]) -> ImageSeries:
    moving, _ = make.moving_series(len(change), size=0.03)
    frames = np.stack([200 - moving.frame(k) if reverse else moving.frame(k) for k, reverse in enumerate(change)])
    return ImageSeries(frames, make.GRID)


def _registered(series: ImageSeries, **update: object) -> tuple[dict[int, FrameResult], tuple[str, ...]]:
    config = make.FAST.model_copy(update={"reference": 0, **update})
    found, notes = {}, ()
    for progress in register_series(series, config):
        found.update({result.frame: result for result in progress.finished})
        notes += progress.notes
    return found, notes


def test_a_series_that_changes_is_registered_by_edges_and_says_so() -> None:
    found, notes = _registered(_series([False, True, False, True]))
    assert {result.similarity_measure for result in found.values()} == {"ngf"}
    assert [found[k].status for k in (1, 2, 3)] == [FrameStatus.OK] * 3
    assert len(notes) == 1
    assert notes[0].startswith("similarity: ngf, as contrast changes along the series: in frame 1 edges agree (")
    assert "network" not in notes[0]
    for k in (1, 3):
        assert found[k].similarity_after > found[k].similarity_before


def test_a_series_that_stays_is_registered_by_intensities_as_before() -> None:
    series = _series([False] * 3)
    found, notes = _registered(series)
    by_name, _ = _registered(series, similarity="ssd")
    assert notes == ()
    for k in (1, 2):
        assert found[k].similarity_measure == "ssd"
        fields = [results[k].transform.displacement_field().vectors for results in (found, by_name)]
        assert torch.equal(*fields)


def test_what_is_asked_for_is_done_and_the_network_left_out_is_told() -> None:
    _, notes = _registered(_series([False, False]), similarity="lncc", method="r2n2")
    assert notes == (
        "similarity: lncc, as asked for; the network compares intensities and is left out, the Gaussians are fitted from none",
    )
    with pytest.raises(ArgumentError, match="similarity"):
        RegistrationConfig.parse({"similarity": "nmi"})


def test_frames_that_have_nothing_in_common_are_doubtful_under_every_measure() -> None:
    other = make.texture(make.GRID.shape, 17).numpy()
    series = ImageSeries(np.stack([make.texture(make.GRID.shape, 3).numpy(), other]), make.GRID)
    for measure in ("lncc", "mind", "ngf", "curve"):
        found, _ = _registered(series, similarity=measure)
        assert found[1].status in (FrameStatus.DOUBTFUL, FrameStatus.FOLDED, FrameStatus.WORSE), measure
        if found[1].status is FrameStatus.DOUBTFUL:
            assert f"by {measure})" in found[1].message


def test_the_reference_of_a_changing_series_is_one_whose_edges_are_seen() -> None:
    image = make.texture(make.GRID.shape).numpy().astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 4, (5, *image.shape))
    # Frame 2 has nearly no signal left, and the mean intensity that is nearest the mean of all.
    factors = (1.0, -0.8, 0.03, 0.9, -1.0)
    series = ImageSeries((factors * np.stack([image] * 5).T).T + noise, make.GRID)
    means = [abs(float(series.frame(k).mean()) - np.mean(factors) * image.mean()) for k in range(5)]
    assert int(np.argmin(means)) == 2
    assert automatic_reference(series) != 2


def test_the_folder_of_a_result_tells_the_measure(tmp_path: Path) -> None:
    config = make.FAST.model_copy(update={"reference": 0})
    *_, last = register_to_folder(_series([False, True, True]), tmp_path, config)
    assert last.result is not None
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["similarity_measure"] == "ngf"
    assert manifest["similarity"] == "agreement by ngf"
    assert any(note.startswith("similarity: ngf") for note in manifest["input"]["notes"])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["similarity_measure"] for row in rows} == {"ngf"}
    assert "Agreement with the reference (ngf)" in (tmp_path / "report.html").read_text()
    # A table from before the column is that of squared differences.
    columns = [name for name in rows[0] if name != "similarity_measure"]
    lines = [",".join(columns), *(",".join(row[name] for name in columns) for row in rows)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert {row.similarity_measure for row in read_result(tmp_path).metrics} == {"ssd"}


def test_what_a_mask_leaves_out_does_not_choose_the_measure() -> None:
    """A pair that is a negative of itself outside the mask."""
    image = make.texture(make.GRID.shape, 3)
    inside = np.zeros(make.GRID.shape, dtype=bool)
    inside[:, :30] = True
    other = torch.where(torch.from_numpy(inside), image, 200 - image)
    valid = torch.ones_like(image, dtype=torch.bool)
    pair = [(image, valid), (other, valid)]
    assert examine_frames(pair, make.GRID, (0, 1)).changes
    assert not examine_frames(pair, make.GRID, (0, 1), Masks(Mask.of(inside[None]))).changes
    assert examine_frames(pair, make.GRID, (0, 1), Masks(Mask.of(~inside[None]))).changes
