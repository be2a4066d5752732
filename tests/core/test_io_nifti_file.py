"""NIfTI and Analyze as they come: pairs, packed or not whatever the name says, and frames along the third axis."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from r2n2.errors import AxesUnknownError, ReadError
from r2n2.io import read_series

FRAMES = (np.arange(4 * 18 * 20).reshape(4, 18, 20) % 250).astype(np.int16)
AFFINE = np.diag([1.2, 1.5, 8.0, 1.0])


def four_axes() -> np.ndarray:
    return np.ascontiguousarray(FRAMES.T[:, :, None])


def check(path: Path, axes: str | None = None) -> tuple[str, ...]:
    (series,) = read_series(path, axes=axes)
    assert (len(series), series.grid.spacing) == (4, pytest.approx((1.5, 1.2)))
    for t in (3, 1):
        np.testing.assert_array_equal(series.frame(t)[0], FRAMES[t])
    return series.notes


@pytest.mark.parametrize("chosen", ["a.hdr", "a.img"])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_is_read_from_either_file(tmp_path: Path, chosen: str, kind: type) -> None:
    nib.save(kind(four_axes(), AFFINE), tmp_path / "a.hdr")
    check(tmp_path / chosen)


@pytest.mark.parametrize("chosen", ["a.hdr.gz", "a.img.gz"])
def test_a_packed_pair(tmp_path: Path, chosen: str) -> None:
    nib.save(nib.Nifti1Pair(four_axes(), AFFINE), tmp_path / "a.hdr")
    for name in ("a.hdr", "a.img"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    check(tmp_path / chosen)


def test_half_a_pair_names_what_is_missing(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(four_axes(), AFFINE), tmp_path / "a.hdr")
    (tmp_path / "a.img").rename(tmp_path / "b.img")
    with pytest.raises(ReadError, match=r"a\.hdr: the header of a pair, whose pixels belong into an \.img file of the same name"):
        read_series(tmp_path / "a.hdr")


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm99AnalyzeImage])
@pytest.mark.parametrize("chosen", ["a.hdr", "a.img"])
def test_analyze(tmp_path: Path, kind: type, chosen: str) -> None:
    nib.save(kind(four_axes(), AFFINE), tmp_path / "a.img")
    notes = check(tmp_path / chosen)
    assert any("Analyze 7.5: it holds no orientation" in note for note in notes)


def test_the_scale_that_spm_keeps_in_analyze_is_applied(tmp_path: Path) -> None:
    image = nib.Spm99AnalyzeImage(four_axes().astype(np.float32) / 4, AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.img")
    (series,) = read_series(tmp_path / "a.img")
    np.testing.assert_allclose(series.frame(3)[0], FRAMES[3] / 4, atol=0.01)


def test_packed_and_plain_under_the_other_name(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(four_axes(), AFFINE), tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    assert any("packed by gzip, though its name does not say so" in note for note in check(tmp_path / "b.nii"))
    (tmp_path / "c.nii.gz").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    check(tmp_path / "c.nii.gz")


@pytest.mark.parametrize("axes", ["TYX", "ZTYX"])
def test_frames_along_the_third_of_four_axes_are_asked_for(tmp_path: Path, axes: str) -> None:
    nib.save(nib.Nifti1Image(np.ascontiguousarray(FRAMES.T[..., None]), AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(AxesUnknownError, match=r"its third axis of 4, .* may be time or slices; pass --axes TYX .* --axes ZYX"):
        read_series(tmp_path / "a.nii.gz")
    check(tmp_path / "a.nii.gz", axes)
    assert [len(item) for item in read_series(tmp_path / "a.nii.gz", axes="ZYX")] == [1] * 4


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_more_frames_than_the_header_declares_are_damage(tmp_path: Path, name: str) -> None:
    nib.save(nib.Nifti1Image(four_axes(), AFFINE), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[40 + 8 : 40 + 10] = (3).to_bytes(2, "little")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(ReadError, match="goes on for 720 bytes, 1 slices, after the pixels its header declares"):
        read_series(tmp_path / name)
