"""What is read from folders to train from, whose it is, and how it is kept and parted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dicom_factory as make
import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from r2n2.errors import ArgumentError, ReadError
from r2n2.simulation.slices import RealPair, RealSlice
from r2n2.training.data import reading
from r2n2.training.data.finding import patient_by_name
from r2n2.training.data.planes import evenly
from r2n2.training.data.reading import (
    Amount,
    ContouredPair,
    TrainingData,
    is_held_out,
    load_data,
    read_data_file,
    save_data_file,
    split,
)


def _image(seed: int, shape: tuple[int, int] = (5, 7), top: int = 256) -> torch.Tensor:
    return torch.randint(top, (1, *shape), generator=torch.Generator().manual_seed(seed)).float()


def _slice(patient: str, seed: int = 0) -> RealSlice:
    return RealSlice(_image(seed), None, (1.5, 0.75), patient, f"{patient} {seed}")


def _data() -> TrainingData:
    valid = torch.ones(1, 5, 7, dtype=torch.bool)
    valid[0, 2, 3] = False
    mask = _image(8) > 100
    field = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(4))
    return TrainingData(
        (
            RealSlice(_image(1) - 1000, valid, (2.5, 1.25), "a", "CT"),
            RealSlice(_image(2, top=65536), None, (1.0, 1.0), "b", "wide"),
            RealSlice(_image(3) / 7 - 3, None, (1.0, 1.0), "b", "fractions"),
            RealSlice(torch.full((1, 5, 7), 0.3), None, (1.0, 1.0), "b", "constant"),
        ),
        (
            RealPair(_image(1) - 1000, _image(4), (2.5, 1.25), "a", "known", field),
            RealPair(_image(5), _image(6), (1.0, 1.0), "c", "unknown", None),
        ),
        (ContouredPair(_image(5), _image(6), mask, torch.ones_like(mask), (1.0, 2.0), "c", "heart"),),
        ("something was left out",),
    )


def test_training_data_come_back(tmp_path: Path) -> None:
    data, path = _data(), tmp_path / "a.safetensors"
    save_data_file(path, data)
    back = read_data_file(path)
    for one, other in zip((*data.slices, *data.pairs, *data.contoured), (*back.slices, *back.pairs, *back.contoured), strict=True):
        assert (one.spacing, one.patient, one.source) == (other.spacing, other.patient, other.source)
    for k, tolerance in enumerate((0.0, 0.0, 256 / 7 / 65535, 0.0)):
        assert float((back.slices[k].image - data.slices[k].image).abs().max()) <= tolerance
    assert back.slices[0].valid is not None
    assert torch.equal(back.slices[0].valid, data.slices[0].valid)
    assert back.slices[1].valid is None
    for k in range(2):
        assert torch.equal(back.pairs[k].fixed, data.pairs[k].fixed)
        assert torch.equal(back.pairs[k].moving, data.pairs[k].moving)
    assert torch.equal(back.pairs[0].displacement, data.pairs[0].displacement)
    assert back.pairs[1].displacement is None
    assert torch.equal(back.contoured[0].fixed_mask, data.contoured[0].fixed_mask)
    assert bool(back.contoured[0].moving_mask.all())
    assert back.notes == data.notes
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
    # Four slices and three pairs hold eleven images, seven of them different.
    assert sum(name.startswith("image.") for name in names) == 7


def test_saving_what_was_read_changes_nothing(tmp_path: Path) -> None:
    save_data_file(tmp_path / "a.safetensors", _data())
    save_data_file(tmp_path / "b.safetensors", read_data_file(tmp_path / "a.safetensors"))
    once, twice = read_data_file(tmp_path / "a.safetensors"), read_data_file(tmp_path / "b.safetensors")
    for one, other in zip(once.slices, twice.slices, strict=True):
        assert torch.equal(one.image, other.image)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "other", "content"])
def test_a_damaged_data_file_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.safetensors"
    save_data_file(path, _data())
    content = path.read_bytes()
    if how == "other":
        save_file({"a": torch.ones(2)}, path)
    elif how == "content":
        path.write_bytes(content.replace(b"unknown", b"unknowm"))
    else:
        broken = {"flipped": content[:-9] + bytes([content[-9] ^ 4]) + content[-8:], "truncated": content[:-40], "empty": b""}
        path.write_bytes(broken[how])
    with pytest.raises(ReadError, match=r"a\.safetensors"):
        read_data_file(path)


def test_a_forged_data_file_is_refused(tmp_path: Path) -> None:
    from r2n2.training.data import file as data_file

    path = tmp_path / "a.safetensors"
    save_data_file(path, _data())
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = json.loads(metadata["content"])
    for where, value in (("spacing", [1.0]), ("image", "image.none"), ("spacing", [0.0, -1.0])):
        forged = json.loads(json.dumps(content))
        forged["slices"][0][where] = value
        text = json.dumps(forged)
        digest = data_file._digest(text, {name: value.numpy() for name, value in tensors.items()})
        save_file(tensors, path, {**metadata, "content": text, "sha256": digest})
        with pytest.raises(ReadError, match="entries cannot be used"):
            read_data_file(path)


def test_wrong_names_of_data_files(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="ends in it"):
        save_data_file(tmp_path / "a.npz", _data())
    with pytest.raises(ReadError, match="no such file"):
        read_data_file(tmp_path / "absent.safetensors")


_NAMES = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=12)


@settings(max_examples=80, deadline=None)
@given(_NAMES, st.floats(0, 1), st.integers(0, 2**32), st.text(max_size=4))
def test_no_patient_is_on_both_sides(names: list[str], share: float, seed: int, newcomer: str) -> None:
    slices = tuple(_slice(name, k) for k, name in enumerate(names))
    pairs = tuple(RealPair(_image(1), _image(2), (1.0, 1.0), name, name, None) for name in names)
    data = TrainingData(slices, pairs)
    try:
        training, validation = split(data, held_out=share, seed=seed)
    except ArgumentError:
        assert all(is_held_out(name, share, seed) for name in names)
        return
    assert not set(training.patients) & set(validation.patients)
    assert sorted((*training.patients, *validation.patients)) == sorted(set(names))
    assert len(training.slices) + len(validation.slices) == len(names) == len(training.pairs) + len(validation.pairs)
    # One more patient moves nobody.
    more = TrainingData((*slices, _slice(newcomer + "new")), pairs)
    try:
        _, later = split(more, held_out=share, seed=seed)
    except ArgumentError:
        return
    assert set(validation.patients) == set(later.patients) - {newcomer + "new"}


def test_the_share_is_about_kept_and_depends_on_the_seed() -> None:
    names = [f"p{k}" for k in range(2000)]
    chosen = [{name for name in names if is_held_out(name, 0.15, seed)} for seed in (0, 1)]
    assert all(0.12 < len(some) / 2000 < 0.18 for some in chosen)
    assert chosen[0] != chosen[1]
    assert not any(is_held_out(name, 0.0, 0) for name in names)
    assert all(is_held_out(name, 1.0, 0) for name in names)


def test_named_patients_are_held_out_with_all_they_have() -> None:
    training, validation = split(_data(), held_out=["c"])
    assert validation.patients == ("c",)
    assert (len(validation.slices), len(validation.pairs), len(validation.contoured)) == (0, 1, 1)
    assert training.patients == ("a", "b")
    assert split(_data(), held_out="c")[1].patients == ("c",)
    with pytest.raises(ArgumentError, match=r"no data of 'd'; known patients: a, b, c"):
        split(_data(), held_out=["a", "d"])
    with pytest.raises(ArgumentError, match="all 3 patients"):
        split(_data(), held_out=["a", "b", "c"])
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        split(_data(), held_out=3.0)


@pytest.mark.parametrize(
    ("count", "most", "expected"), [(3, 6, [0, 1, 2]), (9, 3, [0, 4, 8]), (9, 1, [0]), (20, 4, [0, 6, 13, 19])]
)
def test_evenly(count: int, most: int, expected: list[int]) -> None:
    assert evenly(count, most) == expected


def test_patients_by_name() -> None:
    root = Path("data")
    expected = {
        "SC-HF-I-07-IM-0001-0048.dcm.png": "SC-HF-I-07",
        "x/SC-N-02-IM-0001-0020.dcm.png": "SC-N-02",
        "anna/run 1/lung.nii.gz": "anna",
        "lung.nii.gz": "lung",
        "frame_0012.png": "frame",
        "0012.png": "data",
        "t0.mha": "t0",
    }
    assert {name: patient_by_name(root, root / name) for name in expected} == expected


def _picture(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def _heart(shape: tuple[int, int], radius: int) -> NDArray[Any]:
    y, x = np.indices(shape)
    return ((y - 20) ** 2 + (x - 15) ** 2 < radius**2) * 255


def test_contoured_pictures_by_slice(tmp_path: Path) -> None:
    shape = (41, 33)
    texture = np.random.default_rng(0).integers(0, 200, shape)
    # Two slices of 20 frames: numbers 3 and 9 in the first, 20 still in it, 21 alone in the second.
    for number, radius in ((3, 9), (9, 12), (20, 2), (21, 10)):
        name = f"{{}}/part/ann-IM-0001-{number:04d}.dcm.png"
        _picture(tmp_path / name.format("images"), texture + number)
        _picture(tmp_path / name.format("masks"), _heart(shape, radius))
    _picture(tmp_path / "images" / "part" / "bob-IM-0001-0003.dcm.png", texture)
    data = load_data([tmp_path / "images"], masks=tmp_path / "masks", phases=20)
    assert data.patients == ("ann", "bob")
    assert (len(data.slices), len(data.pairs)) == (5, 6)
    assert len(data.contoured) == 1  # the outline of frame 20 is too small
    pair = data.contoured[0]
    assert torch.equal(pair.fixed[0], torch.from_numpy(texture + 9).float())
    assert torch.equal(pair.moving[0], torch.from_numpy(texture + 3).float())
    assert int(pair.fixed_mask.sum()) == int((_heart(shape, 12) > 0).sum())
    # Without knowing the slices, no two frames may be paired.
    unpaired = load_data([tmp_path / "images"], exclude_patients=["bob"])
    assert (unpaired.patients, len(unpaired.slices), unpaired.pairs, unpaired.contoured) == (("ann",), 4, (), ())
    assert any("bob is excluded" in note for note in unpaired.notes)


def test_dicom_goes_by_patient_id(tmp_path: Path) -> None:
    make.write_series(tmp_path / "x" / "deep", count=4, PatientID="P1")
    make.write_series(tmp_path / "y", count=3, PatientID="", SeriesInstanceUID="1.2.3.4")
    (tmp_path / "y" / "notes.txt").write_text("hello")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "broken.nii").write_bytes(b"\x5c\x01\0\0" + b"\0" * 400)
    seen: list[str] = []
    data = load_data([tmp_path], amount=Amount(frames=3, pairs=2), progress=seen.append)
    assert data.patients == ("P1", "y")
    assert len([item for item in data.slices if item.patient == "P1"]) == 3
    assert len([item for item in data.pairs if item.patient == "P1"]) == 2
    assert torch.equal(data.slices[0].image[0], torch.from_numpy(make.pixels_of(0)).float())
    assert torch.equal(data.slices[2].image[0], torch.from_numpy(make.pixels_of(3)).float())
    assert any("notes.txt" in note for note in data.notes)
    assert any("broken.nii" in note for note in data.notes)
    assert any(name.endswith("deep") for name in seen)
    assert load_data([tmp_path], exclude_patients=["P1"]).patients == ("y",)
    assert load_data([tmp_path / "x" / "deep" / "00.dcm"]).patients == ("P1",)


def _volume(path: Path, *, frames: int = 2, step: float = 2.0) -> NDArray[Any]:
    """(T, Z, Y, X) whose every voxel tells where it is; each plane has contrast."""
    t, z, y, x = np.indices((frames, 34, 11, 9))
    values = 1000 * t + 7 * z + 31 * y + 97 * x
    affine = np.diag([1.25, 1.5, step, 1.0])
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values.transpose(3, 2, 1, 0).astype(np.int16), affine).to_filename(path)
    return values


def test_a_volume_gives_three_views_and_their_motion(tmp_path: Path) -> None:
    values = _volume(tmp_path / "ann" / "a.nii")
    data = load_data([tmp_path], amount=Amount(frames=2, pairs=1, planes=3))
    assert data.patients == ("ann",)
    views = {(tuple(item.image.shape[1:]), item.spacing) for item in data.slices}
    assert views == {((11, 9), (1.5, 1.25)), ((34, 9), (2.0, 1.25)), ((34, 11), (2.0, 1.5))}
    assert (len(data.slices), len(data.pairs)) == (18, 9)

    def is_from(image: torch.Tensor, time: int, plane: NDArray[Any]) -> bool:
        # The reader may turn an axis round; what counts is the plane and its order of axes.
        stored = image[0].numpy()
        flips = (stored, stored[::-1], stored[:, ::-1], stored[::-1, ::-1])
        return any(np.array_equal(some, plane[time]) for some in flips)

    rows = [pair for pair in data.pairs if pair.fixed.shape[1:] == (34, 9)]
    columns = [pair for pair in data.pairs if pair.fixed.shape[1:] == (34, 11)]
    assert {next(k for k in range(11) if is_from(pair.fixed, 0, values[:, :, k])) for pair in rows} == {0, 5, 10}
    assert {next(k for k in range(9) if is_from(pair.fixed, 0, values[..., k])) for pair in columns} == {0, 4, 8}
    for pair in (*rows, *columns):
        assert torch.equal(pair.moving - pair.fixed, torch.full_like(pair.fixed, 1000.0))


def test_thick_slices_are_not_cut_across(tmp_path: Path) -> None:
    _volume(tmp_path / "a.nii", step=5.0)
    data = load_data([tmp_path], amount=Amount(frames=1, pairs=0, planes=3))
    assert {tuple(item.image.shape[1:]) for item in data.slices} == {(11, 9)}
    assert len(data.slices) == 3


def test_planes_that_may_be_times_are_not_paired(tmp_path: Path) -> None:
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(size=(40, 11, 9))), tmp_path / "a.mha")
    data = load_data([tmp_path], amount=Amount(planes=7))
    assert (len(data.slices), len(data.pairs)) == (7, 0)
    assert "name the axes" in data.notes[0]
    assert len(load_data([tmp_path], axes="TYX").pairs) == 8


def test_empty_frames_large_frames_and_bad_pixels(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).normal(size=(3, 90, 120)).astype(np.float32)
    frames[1] = 4.0
    frames[2, :, :2] = np.nan
    np.savez(tmp_path / "a.npz", frames=frames)
    data = load_data([tmp_path / "a.npz"], axes="TYX", amount=Amount(largest_side=60))
    assert [item.source[-1] for item in data.slices] == ["0", "2"]
    assert [tuple(item.image.shape) for item in data.slices] == [(1, 45, 60)] * 2
    assert data.slices[0].spacing == pytest.approx((89 / 44, 119 / 59))
    assert data.slices[0].valid is None
    assert data.slices[1].valid is not None
    assert not bool(data.slices[1].valid[0, :, 0].any())
    assert bool(data.slices[1].valid[0, :, 3:].all())
    assert data.pairs == ()


def test_pictures_of_unequal_size_are_read_one_by_one(tmp_path: Path) -> None:
    for number, shape in enumerate(((11, 9), (11, 9), (12, 9))):
        _picture(tmp_path / "ann" / f"{number}.png", np.random.default_rng(number).integers(0, 255, shape))
    data = load_data([tmp_path])
    assert (len(data.slices), len(data.pairs), data.patients) == (3, 0, ("ann",))
    assert "3 pictures were read one by one" in data.notes[0]


def test_the_cache_is_used_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = tmp_path / "data", tmp_path / "new" / "cache"
    data.mkdir()
    np.save(data / "a.npy", np.random.default_rng(0).normal(size=(3, 11, 9)))
    first = load_data([data], axes="TYX", cache=cache)

    def unexpected(*_: object) -> TrainingData:
        raise LookupError("read again")

    monkeypatch.setattr(reading, "_load", unexpected)
    again = load_data([data], axes="TYX", cache=cache)
    assert torch.equal(first.slices[1].image, again.slices[1].image)
    with pytest.raises(LookupError):
        load_data([data], axes="TYX", cache=cache, exclude_patients=["b"])
    os.utime(data / "a.npy", ns=(1, 1))
    with pytest.raises(LookupError):
        load_data([data], axes="TYX", cache=cache)


def test_data_files_join_folders(tmp_path: Path) -> None:
    save_data_file(tmp_path / "s.safetensors", _data())
    np.save(tmp_path / "ann.npy", np.random.default_rng(0).normal(size=(2, 11, 9)))
    data = load_data([tmp_path / "s.safetensors", tmp_path / "ann.npy"], axes="TYX", exclude_patients=["b"])
    assert data.patients == ("a", "ann", "c")
    assert "something was left out" in data.notes


def test_nothing_to_train_from(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no folder is given"):
        load_data([])
    with pytest.raises(ReadError, match="no such file or folder"):
        load_data([tmp_path / "absent"])
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(ReadError, match=r"nothing to train from was found \(.*readme.txt"):
        load_data([tmp_path])


_BARE = """
import importlib.abc, sys
known = {"pydicom", "PIL", "imageio", "skimage", "scipy", "matplotlib", "tensorboard", "nibabel", "SimpleITK", "tifffile", "zarr",
         "ngff_zarr", "typer", "rich", "pandas"}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in known:
            raise ModuleNotFoundError(f"{name} is not installed here")
sys.meta_path.insert(0, Block())
from pathlib import Path
from r2n2.training import journal, state
from r2n2.training.data import reading as data
training, validation = data.split(data.read_data_file(Path(sys.argv[1]) / "a.safetensors"), held_out=["a"])
import torch
state.save_state(Path(sys.argv[1]), state.TrainingState(1, 1, 0.0, {"w": torch.ones(2)}, {}))
assert state.load_state(Path(sys.argv[1])).step == 1
with journal.Journal(Path(sys.argv[1])) as written:
    written.scalars(1, {"loss": 1.0})
print(training.patients, validation.patients)
"""


def test_a_bare_machine_can_train_from_it(tmp_path: Path) -> None:
    save_data_file(tmp_path / "a.safetensors", _data())
    done = subprocess.run([sys.executable, "-c", _BARE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "('b', 'c') ('a',)\n"


def test_real_cine_by_patient(real_data: Path) -> None:
    data = load_data([real_data / "sunnybrook-cine"], exclude_patients=["SCD0000301"], amount=Amount(frames=2, pairs=1))
    assert data.patients == ("SCD0000101",)
    assert (len(data.slices), len(data.pairs)) == (18, 9)
    assert data.slices[0].spacing == pytest.approx((1.367188, 1.367188))
