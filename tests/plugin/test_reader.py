"""The reader as napari calls it: through viewer.open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_r2n2.reader import get_reader
from r2n2.io import write_series
from r2n2.series import ImageSeries


def test_metaimage_opens_with_scale_and_values(viewer: Any, series: ImageSeries, tmp_path: Path) -> None:
    from dataclasses import replace

    source = replace(series, source={"format": "mha", "path": str(tmp_path / "disc.mha")})
    write_series(tmp_path, "disc", source, (series.frame(index) for index in range(len(series))))
    (layer,) = viewer.open(str(tmp_path / "disc.mha"), plugin="napari-r2n2")
    np.testing.assert_array_equal(layer.data, np.asarray(series.frames)[:, 0])
    np.testing.assert_allclose(layer.scale[-2:], (2.0, 1.5))


def test_real_dicom_folder_becomes_one_layer_of_slices(viewer: Any, real_data: Path) -> None:
    folder = real_data / "sunnybrook-cine" / "final_data" / "dicoms" / "SCD0000301"
    if not folder.is_dir():
        pytest.skip("the DICOM series is not here")
    layers = viewer.open(str(folder), plugin="napari-r2n2")
    assert layers
    assert {layer.data.shape[-3:] for layer in layers} == {(20, 256, 256)}
    for layer in layers:
        np.testing.assert_allclose(layer.scale[-2:], (1.289, 1.289), atol=1e-3)
        assert layer.axis_labels[-3:] == ("frame", "y", "x")


def test_folders_of_others_are_left_to_them(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image" * 100)
    assert get_reader(str(tmp_path)) is None


def test_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "broken.nii"
    file.write_bytes(b"\0" * 400)
    reader = get_reader(str(file))
    assert reader is not None
    with pytest.raises(ValueError, match=r"broken\.nii"):
        reader(str(file))
