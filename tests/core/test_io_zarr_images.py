"""Zarr folders of several images, and metadata that says what cannot be: named at once, without allocating."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid
from r2n2.io import read_series, write_series
from r2n2.series import ImageSeries

FRAMES = (np.arange(6 * 18 * 20).reshape(6, 18, 20) % 999 + 1).astype(np.uint16)


def image(group: Any, array: np.ndarray) -> None:
    stored = group.create_array("0", shape=(6, 1, 1, 18, 20), chunks=(1, 1, 1, 18, 20), dtype="u2")
    stored[:] = array[:, None, None]
    names = [("t", "time"), ("c", "channel"), ("z", "space"), ("y", "space"), ("x", "space")]
    axes = [{"name": n, "type": kind} | ({"unit": "micrometer"} if kind == "space" else {}) for n, kind in names]
    steps = [{"type": "scale", "scale": [1, 1, 1, 0.5, 0.6]}]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    if group.metadata.zarr_format == 2:
        group.attrs.update({"multiscales": [{**multiscale, "version": "0.4"}]})
    else:
        group.attrs.update({"ome": {"version": "0.5", "multiscales": [multiscale]}})


def bioformats2raw(path: Path, count: int, zarr_format: int = 2, *, listed: bool = False) -> Path:
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    layout: dict[str, Any] = {"bioformats2raw.layout": 3}
    root.attrs.update(layout if zarr_format == 2 else {"ome": {"version": "0.5", **layout}})
    for k in range(count):
        image(root.create_group(str(k)), FRAMES + k)
    if listed:
        root.create_group("OME").attrs.update({"series": [str(k) for k in range(count)]})
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("listed", [True, False])
def test_the_one_image_of_bioformats2raw(tmp_path: Path, zarr_format: int, listed: bool) -> None:
    (series,) = read_series(bioformats2raw(tmp_path / "a.zarr", 1, zarr_format, listed=listed))
    assert (len(series), series.grid.spacing) == (6, pytest.approx((0.0005, 0.0006)))
    np.testing.assert_array_equal(series.frame(4)[0], FRAMES[4])


@pytest.mark.parametrize("listed", [True, False])
def test_several_images_are_asked_about(tmp_path: Path, listed: bool) -> None:
    path = bioformats2raw(tmp_path / "a.zarr", 12, listed=listed)
    with pytest.raises(
        ReadError, match="holds several images; pass --series with the name of one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    ):
        read_series(path)
    for place, name in ((path, "10"), (path / "10", None)):
        (series,) = read_series(place, series=name)
        np.testing.assert_array_equal(series.frame(4)[0], FRAMES[4] + 10)
    with pytest.raises(ArgumentError, match="--series '99' is none of its images"):
        read_series(path, series="99")


def test_a_plate_says_which_folder_to_choose(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2).attrs.update({"plate": {"wells": []}})
    with pytest.raises(ReadError, match=r"a plate of many images; choose the folder of one of them, such as a\.zarr/A/1/0"):
        read_series(tmp_path / "a.zarr")


def test_a_group_without_image_lists_what_it_holds(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("raw", shape=FRAMES.shape, chunks=(1, 18, 20), dtype="u2")[:] = FRAMES
    with pytest.raises(ReadError, match=r"without multiscales, .* pass --series with the name of one of raw"):
        read_series(tmp_path / "a.zarr")
    (series,) = read_series(tmp_path / "a.zarr", series="raw", axes="TYX")
    np.testing.assert_array_equal(series.frame(4)[0], FRAMES[4])


@pytest.mark.parametrize("allow_missing", [True, False])
def test_a_forged_shape_is_refused_at_once(tmp_path: Path, allow_missing: bool) -> None:
    path = bioformats2raw(tmp_path / "a.zarr", 1) / "0"
    metadata = path / "0" / ".zarray"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**content, "shape": [2**27, 1, 1, 18, 20]}))
    start = time.perf_counter()
    with pytest.raises(ReadError, match=r"declares 134217728 chunks for its shape \(134217728, 1, 1, 18, 20\)"):
        read_series(path, allow_missing=allow_missing)
    assert time.perf_counter() - start < 2
    metadata.write_text(json.dumps({**content, "shape": [60, 1, 1, 18, 20], "chunks": [10, 1, 1, 18, 20]}))
    for chunk in (path / "0").glob("[0-9]*"):
        if chunk.is_file():
            chunk.unlink()
    with pytest.raises(ReadError, match=r"is missing|holds none of its 6 chunks"):
        read_series(path, allow_missing=allow_missing)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("times_s", [0.0, "a\0b", 1.0], "attribute r2n2, entry times_s: must be 3 times in s"),
        ("times_s", [0.0, None, 1.0], "attribute r2n2, entry times_s: must be 3 times in s"),
        ("times_s", [0.0, 1.0], "attribute r2n2, entry times_s: holds 2 times for 3 frames"),
        ("times_s", 7, "attribute r2n2, entry times_s: must be 3 times in s"),
        ("spacing", [0.0, 1.0], "attribute r2n2: the spacing .* must be positive"),
        ("spacing", "wide", "attribute r2n2: spacing, origin and direction must be numbers"),
        ("origin", [0.0], "attribute r2n2: spacing, origin and direction do not fit"),
        ("direction", [[1, 0], [0, 0]], "singular"),
        ("origin", None, "attribute r2n2: lacks origin"),
    ],
)
def test_what_our_own_attribute_cannot_say_is_named(tmp_path: Path, entry: str, value: object, words: str) -> None:
    frames = FRAMES[:3, None]
    series = ImageSeries(frames, Grid((18, 20), (2.0, 0.5)), times_s=(0, 1, 5), source={"format": "ome-zarr"})
    path = write_series(tmp_path, "a", series, iter(frames))
    content = json.loads((path / "zarr.json").read_text())
    own = content["attributes"]["r2n2"]
    own[entry] = value
    if entry == "origin" and value is None:
        del own[entry]
    (path / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(ReadError, match=words):
        read_series(path)


@pytest.mark.parametrize("place", [4, 8, 12])
def test_a_blosc_chunk_that_declares_other_sizes_is_refused_before_it_is_decoded(tmp_path: Path, place: int) -> None:
    """Decoded as it is, it may end the process."""
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    stored = root.create_array("0", shape=FRAMES.shape, chunks=(1, 18, 20), dtype="u2", compressors=[numcodecs.Blosc()])
    stored[:] = FRAMES
    assert len(read_series(tmp_path / "a.zarr", series="0", axes="TYX")[0]) == 6
    chunk = tmp_path / "a.zarr" / "0" / "3.0.0"
    data = chunk.read_bytes()
    chunk.write_bytes(data[:place] + (2**31 - 2).to_bytes(4, "little") + data[place + 4 :])
    with pytest.raises(ReadError, match=r"chunk 3\.0\.0 is damaged"):
        read_series(tmp_path / "a.zarr", series="0", axes="TYX")
