"""NRRD: plain, Slicer's sequences, multi-volumes and segmentations, detached pixels; what it says of axes, place and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from r2n2.errors import AxesUnknownError, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.io import read_series, write_series
from r2n2.series import ImageSeries

FRAMES = (np.arange(4 * 18 * 20).reshape(4, 18, 20) % 250).astype(np.uint8)


def slicer_sequence(path: Path, **changes: str) -> Path:
    fields = {
        "type": "unsigned char",
        "dimension": "4",
        "space": "left-posterior-superior",
        "sizes": "4 20 18 1",
        "space directions": "none (1.2,0,0) (0,1.5,0) (0,0,8)",
        "kinds": "list domain domain domain",
        "labels": '"time" "" "" ""',
        "encoding": "raw",
        "space origin": "(-20,-30,5)",
        "axis 0 index type:": "numeric",
        "axis 0 index values:": "0.0 0.3 0.6 0.9",
        **changes,
    }
    lines = [f"{key}= {value}" if key.endswith(":") else f"{key}: {value}" for key, value in fields.items() if value]
    pixels = np.moveaxis(FRAMES, 0, -1).tobytes()
    path.write_bytes(("NRRD0005\n# a comment\n" + "\n".join(lines) + "\n\n").encode() + pixels)
    return path


def test_a_sequence_of_slicer(tmp_path: Path) -> None:
    (series,) = read_series(slicer_sequence(tmp_path / "é a.seq.nrrd"))
    assert series.times_s == pytest.approx((0, 0.3, 0.6, 0.9))
    assert series.grid == Grid((18, 20), (1.5, 1.2), (-30, -20))
    assert series.patient_grid == Grid((1, 18, 20), (8, 1.5, 1.2), (5, -30, -20))
    for t in (3, 1):
        np.testing.assert_array_equal(series.frame(t)[0], FRAMES[t])


@pytest.mark.parametrize(
    ("changes", "times"),
    [
        ({"units": '"ms" "mm" "mm" "mm"'}, (0, 3e-4, 6e-4, 9e-4)),
        ({"units": '"s" "mm" "mm" "mm"', "labels": '"frame" "" "" ""'}, (0, 0.3, 0.6, 0.9)),
        ({"labels": '"frame" "" "" ""'}, None),
        ({"axis 0 index type:": "text"}, None),
        ({"axis 0 index values:": ""}, None),
        (
            {
                "axis 0 index values:": "",
                "MultiVolume.FrameLabels:": "0,40,80,125",
                "MultiVolume.FrameIdentifyingDICOMTagName:": "TriggerTime",
                "MultiVolume.FrameIdentifyingDICOMTagUnits:": "ms",
            },
            (0, 0.04, 0.08, 0.125),
        ),
        (
            {
                "axis 0 index values:": "",
                "MultiVolume.FrameLabels:": "2,5,10,20",
                "MultiVolume.FrameIdentifyingDICOMTagName:": "FlipAngle",
                "MultiVolume.FrameIdentifyingDICOMTagUnits:": "degrees",
            },
            None,
        ),
    ],
)
def test_times_are_taken_only_in_a_unit_of_time(tmp_path: Path, changes: dict[str, str], times: tuple[float, ...] | None) -> None:
    (series,) = read_series(slicer_sequence(tmp_path / "a.nrrd", **changes))
    assert series.times_s == (None if times is None else pytest.approx(times))
    assert times is not None or any("frame times are unknown" in note for note in series.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axis 0 index values:": "0.0 0.3 x 0.9"}, "the index values of the frames: must be 4 times"),
        ({"axis 0 index values:": "0.0 0.3"}, "holds 2 times for 4 frames"),
        ({"axis 0 index values:": "0 nan 1 2"}, "the time of frame 1 is nan"),
        ({"sizes": "4 20 18 100000000"}, "truncated or forged"),
        ({"sizes": "4 20 18 0"}, "holds no frame or no pixel"),
        ({"sizes": "4 20 18"}, "the entry sizes .* does not fit dimension 4"),
        ({"sizes": "4 20 17 1"}, "goes on for 80 bytes"),
        ({"type": "block"}, "pixel type 'block' is not supported"),
        ({"type": "short"}, "the entry endian must be big or little"),
        ({"encoding": "zrl"}, "the encoding 'zrl' is not supported"),
        ({"byte skip": "-7"}, "byte skip -7"),
        ({"data file": "../a.raw"}, "outside the header's folder"),
        ({"space directions": "none (0,0,0) (0,1.5,0) (0,0,8)"}, "must be positive and finite"),
        ({"space directions": "none (1,1,0) (0,1.5,0) (0,0,8)"}, "sheared"),
        ({"space origin": "(nan,0,0)"}, "the entry space origin .* must be 3 finite numbers"),
        ({"space units": '"parsec" "mm" "mm"'}, "the unit of length 'parsec' is not known"),
        ({"modality:": "DWMRI"}, "diffusion-weighted"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ReadError, match=words):
        read_series(slicer_sequence(tmp_path / "a.nrrd", **changes))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_files_of_pynrrd(tmp_path: Path, encoding: str, suffix: str) -> None:
    options = {"kinds": ["domain", "domain", "time"], "units": ["um", "um", "ms"], "spacings": [500.0, 250.0, 40.0]}
    nrrd.write(str(tmp_path / f"a{suffix}"), FRAMES.astype(">i2").T, {**options, "encoding": encoding})
    (series,) = read_series(tmp_path / f"a{suffix}")
    assert series.grid.spacing == pytest.approx((0.25, 0.5))
    assert series.times_s == pytest.approx((0, 0.04, 0.08, 0.12))
    np.testing.assert_array_equal(series.frame(2)[0], FRAMES[2])


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
@pytest.mark.parametrize("percent", [40, 90, 99])
def test_truncated_packed_pixels(tmp_path: Path, encoding: str, percent: int) -> None:
    path = tmp_path / "a.nrrd"
    noise = np.random.default_rng(0).integers(0, 255, FRAMES.shape, dtype=np.uint8)
    nrrd.write(str(path), noise.T, {"kinds": ["domain", "domain", "time"], "encoding": encoding})
    data = path.read_bytes()
    start = data.index(b"\n\n") + 2
    path.write_bytes(data[: start + (len(data) - start) * percent // 100])
    with pytest.raises(ReadError, match=r"a\.nrrd"):
        read_series(path)


def test_packed_pixels_are_measured_before_they_are_unpacked(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((300, 300, 50), np.uint8), {"kinds": ["domain", "domain", "time"]})
    with pytest.raises(ResourceError, match="--max-bytes"):
        read_series(tmp_path / "a.nrrd", max_bytes=2**20)


def test_pixels_in_a_list_of_files(tmp_path: Path) -> None:
    for k, frame in enumerate(FRAMES):
        (tmp_path / f"f{k}.raw").write_bytes(frame.tobytes())
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 20 18 4\nkinds: domain domain list\nencoding: raw\ndata file: "
    (tmp_path / "a.nhdr").write_text(head + "LIST\n" + "".join(f"f{k}.raw\n" for k in range(4)))
    (tmp_path / "b.nhdr").write_text(head + "f%d.raw 0 3 1 2\n")
    for name in ("a.nhdr", "b.nhdr"):
        (series,) = read_series(tmp_path / name)
        np.testing.assert_array_equal(series.frame(3)[0], FRAMES[3])


def test_three_axes_of_space_are_asked_for(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(FRAMES), str(tmp_path / "a.nrrd"))
    with pytest.raises(
        AxesUnknownError, match=r"its third axis of 4 may be time or slices; pass --axes TYX .* --axes ZYX"
    ) as caught:
        read_series(tmp_path / "a.nrrd")
    assert [name for name, _ in caught.value.choices] == ["TYX", "ZYX"]
    assert len(read_series(tmp_path / "a.nrrd", axes="TYX")[0]) == 4
    assert len(read_series(tmp_path / "a.nrrd", axes="ZYX", volumes=False)) == 4


def segmentation(path: Path, array: np.ndarray, kinds: list[str], **more: Any) -> Path:
    nrrd.write(str(path), array, {"kinds": kinds, "Segment0_ID": "lung", "Segment0_LabelValue": "1", **more})
    return path


def test_a_segmentation_is_slices_and_its_layers_are_channels(tmp_path: Path) -> None:
    path = segmentation(tmp_path / "a.seg.nrrd", FRAMES.T, ["domain"] * 3)
    assert [len(item) for item in read_series(path)] == [1] * 4
    layers = np.stack([FRAMES.T, FRAMES.T[::-1]])
    path = segmentation(tmp_path / "b.seg.nrrd", layers, ["list", "domain", "domain", "domain"])
    assert [(len(item), item.channels) for item in read_series(path)] == [(1, 2)] * 4


@pytest.mark.parametrize("space", ["RAS", "right-anterior-superior", "left-anterior-superior"])
def test_other_spaces_are_turned_into_lps_as_itk_does(tmp_path: Path, space: str) -> None:
    path = tmp_path / "a.nrrd"
    directions = [[np.nan] * 3, [0.0, 1.2, 0.0], [-1.5, 0.0, 0.0], [0.0, 0.0, 8.0]]
    header = {"space": space, "space directions": np.array(directions), "space origin": [1.0, 2.0, 3.0]}
    nrrd.write(str(path), FRAMES.transpose(0, 2, 1)[..., None], {**header, "kinds": ["list", "domain", "domain", "domain"]})
    (series,) = read_series(path)
    nrrd.write(str(tmp_path / "b.nrrd"), FRAMES[0].T[..., None], {**header, "space directions": np.array(directions[1:])})
    image = sitk.ReadImage(str(tmp_path / "b.nrrd"))
    assert series.patient_grid is not None
    np.testing.assert_allclose(series.patient_grid.origin, image.GetOrigin()[::-1])
    direction = np.array(image.GetDirection()).reshape(3, 3)[::-1, ::-1]
    np.testing.assert_allclose(series.patient_grid.direction, direction, atol=1e-12)


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_back(tmp_path: Path, placed: bool, channels: int) -> None:
    frames = np.repeat(FRAMES[:, None], channels, axis=1).astype(np.int16)
    patient = Grid((1, 18, 20), (8, 1.5, 1.2), (5, -30, -20), ((0, -1, 0), (1, 0, 0), (0, 0, 1)))
    grid = Grid((18, 20), (1.5, 1.2)) if placed else Grid((18, 20), (1.5, 1.2), (3, 4), ((0, 1), (-1, 0)))
    times = (0.0, 0.1, 0.7, 0.9)
    series = ImageSeries(frames, grid, times, patient_grid=patient if placed else None, source={"format": "nrrd"})
    path = write_series(tmp_path, "out", series, iter(frames))
    assert path.name == "out.nrrd"
    (back,) = read_series(path)
    assert (back.patient_grid, back.times_s, back.dtype) == (patient if placed else None, times, np.int16)
    assert placed or back.grid == grid
    np.testing.assert_array_equal(back.frame(2), frames[2])
    stored, _ = nrrd.read(str(path))
    assert stored.shape[-1] == 4
