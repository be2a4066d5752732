"""``r2n2 simulate``: its volumes, labels and fields are what other programs read, and wrong options are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from r2n2.cli import main
from r2n2.geometry import Space
from r2n2.io import read_landmarks
from r2n2.simulation import PersonConfig, person_series

SIZE = (17, 19, 22)
OPTIONS = ["--volume", "--frames", "3", "--size", "17,19,22", "--spacing", "6,5.5,5", "--centre=-40,5,-65", "--seed", "100"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("volume") / "out"
    assert main(["simulate", "-o", str(output), *OPTIONS]) == 0
    return output


def test_itk_reads_frames_and_labels_in_their_place(folder: Path) -> None:
    truth = person_series(PersonConfig(seed=100, frames=3, shape=SIZE, spacing_mm=(6.0, 5.5, 5.0), centre_mm=(-40, 5, -65)))
    for name, series in (("series", truth.series), ("labels", truth.labels())):
        image = SimpleITK.ReadImage(str(folder / f"{name}.nii.gz"))
        assert image.GetSize() == (22, 19, 17, 3)
        np.testing.assert_allclose(image.GetSpacing()[:3], (5.0, 5.5, 6.0))
        np.testing.assert_allclose(image.GetOrigin()[:3], truth.series.grid.origin[::-1], atol=1e-4)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image)[2], series.frame(2)[0])
    assert set(np.unique(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "labels.nii.gz"))))) >= {1, 2, 5, 6}


def test_itk_warps_a_frame_onto_the_first_by_the_true_field(folder: Path) -> None:
    image = SimpleITK.ReadImage(str(folder / "series.nii.gz"))
    frames = [SimpleITK.Cast(image[:, :, :, k], SimpleITK.sitkFloat32) for k in range(3)]
    for file in sorted((folder / "true_fields").iterdir()):
        assert SimpleITK.ReadImage(str(file)).GetNumberOfComponentsPerPixel() == 3
    marks = read_landmarks(folder / "landmarks.csv")
    points = {k: marks.in_frame(k) for k in range(3)}
    assert points[0].space is Space.INDEX
    way = [np.abs(points[k].points - points[0].points).max() for k in range(3)]
    moving = int(np.argmax(way))
    field = SimpleITK.ReadImage(str(folder / "true_fields" / f"frame_{moving:04d}.mha"), SimpleITK.sitkVectorFloat64)
    transform = SimpleITK.DisplacementFieldTransform(field)
    first = frames[0]
    for name, point in zip(points[0].ids, points[0].points, strict=True):
        place = first.TransformContinuousIndexToPhysicalPoint([float(v) for v in point[::-1]])
        found = first.TransformPhysicalPointToContinuousIndex(transform.TransformPoint(place))
        expected = points[moving].select([name]).points[0][::-1]
        if not name.startswith("rib"):  # at the wall no lattice holds the field
            np.testing.assert_allclose(found, expected, atol=0.12)
    warped = SimpleITK.GetArrayFromImage(SimpleITK.Resample(frames[moving], first, transform))[4:-1, 2:-2, 2:-2]
    before, after = (
        np.abs(other - SimpleITK.GetArrayFromImage(first)[4:-1, 2:-2, 2:-2]).mean()
        for other in (SimpleITK.GetArrayFromImage(frames[moving])[4:-1, 2:-2, 2:-2], warped)
    )
    assert after < 0.75 * before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contrast", "ct"], "--contrast: is an option of volumes"),
        (["--centre", "0,0,0"], "--centre: is an option of volumes"),
        (["--volume", "--contrast", "pet"], "expected mr or ct"),
        (["--volume", "--size", "20,30"], "expected Z,Y,X as three whole numbers"),
        (["--volume", "--spacing", "2,x,2"], "--spacing: expected Z,Y,X as three numbers"),
        (["--volume", "--spacing", "2,0,2"], "spacing_mm"),
        (["--size", "20,30,40"], "expected Y,X as two whole numbers"),
        (["--spacing", "1,1,1"], "add --volume"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "-o", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_earlier_simulation_is_not_replaced_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "-o", str(folder), *OPTIONS]) == 2
    assert "holds a series.nii.gz; give --overwrite" in capsys.readouterr().err
