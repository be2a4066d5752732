"""Weights come back as they were written, or one line says why not; no damaged or foreign file loads or runs code."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from r2n2.config import NetworkConfig
from r2n2.errors import ArgumentError, R2N2Error, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.network import R2N2, RecurrentNetwork, checkpoint, create_network, shipped_weights
from r2n2.network.checkpoint import load_network, named_weights, read_manifest, save_network
from r2n2.registration import Pairs
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.transform import GaussianSequence

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = NetworkConfig(channels=(2, 3, 4, 5), sigma_max=0.25, working_size=64, keep_probability=0.7)


def _network(ndim: int = 2) -> R2N2:
    torch.manual_seed(0)
    network = R2N2(CONFIG, ndim)
    torch.nn.init.normal_(network.parameter_head.output.weight, std=0.05)
    return network


@pytest.fixture(scope="module")
def network() -> R2N2:
    return _network()


@pytest.fixture(scope="module")
def whole(network: R2N2, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "weights.safetensors"
    save_network(path, network, info={"data": "phantoms"})
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, whole: bytes) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(whole)
    return path


def _split(content: bytes) -> tuple[dict[str, object], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _joined(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _edited(content: bytes, **changes: str | None) -> bytes:
    """The file with other metadata; None removes a key."""
    header, body = _split(content)
    metadata = header["__metadata__"]
    assert isinstance(metadata, dict)
    for key, value in changes.items():
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value
    return _joined(header, body)


def _resigned(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors and sign them again, as someone who knows the format would."""
    tensors = load_file(file)
    change(tensors)
    header, _ = _split(file.read_bytes())
    metadata = header["__metadata__"]
    assert isinstance(metadata, dict)
    metadata["sha256"] = checkpoint._digest(metadata, tensors)
    file.write_bytes(save(tensors, metadata))


def _refused(path: Path, match: str, error: type[R2N2Error] = ReadError) -> None:
    with pytest.raises(error, match=match) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(path) in str(caught.value)


def test_weights_come_back_bit_for_bit_and_ready_to_use(network: R2N2, file: Path) -> None:
    loaded = load_network(file)
    assert loaded.config == CONFIG
    assert loaded.ndim == 2
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in network.state_dict().items())
    images = torch.randn(1, 1, 16, 16), torch.randn(1, 1, 16, 16)
    expected = network.eval().step(*images, network.initial_state(1, 16))[0]
    found = loaded.step(*images, loaded.initial_state(1, 16))[0]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_half_precision_halves_the_file_and_comes_back_as_float32(network: R2N2, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_network(path, network, info={"data": "phantoms"}, half=True)
    body, whole_body = (_split(place.read_bytes())[1] for place in (path, file))
    assert len(body) == len(whole_body) / 2
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    loaded = load_network(path).state_dict()
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in network.state_dict().items())
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    # Weights that were rounded before are the same file again: rounding happens once.
    save_network(tmp_path / "again.safetensors", load_network(path), info={"data": "phantoms"}, half=True)
    assert read_manifest(tmp_path / "again.safetensors").sha256 == read_manifest(path).sha256
    assert read_manifest(path).sha256 != read_manifest(file).sha256


def test_a_flipped_bit_of_a_half_precision_weight_is_noticed(network: R2N2, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_network(path, network, half=True)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    _refused(path, "SHA-256")


def test_a_weight_too_large_for_half_precision_is_named(tmp_path: Path) -> None:
    network = _network()
    with torch.no_grad():
        network.entry.bias[1] = 70_000
    with pytest.raises(ValueError, match=r"entry\.bias holds a number too large for float16"):
        save_network(tmp_path / "half.safetensors", network, half=True)
    save_network(tmp_path / "whole.safetensors", network)
    assert [entry.name for entry in tmp_path.iterdir()] == ["whole.safetensors"]


def test_a_matching_pursuit_comes_back_and_does_the_same(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    pairs = _pairs()
    config = CONFIG.model_copy(update={"working_size": 32, "least_squares_sizes": (16, 48)})
    network = _randomised(create_network(config).eval())
    save_network(path, network)
    loaded = load_network(path)
    assert loaded.config == config
    found, expected = (list(RecurrentMethod(n, steps=2).register(pairs))[-1].transforms()[0] for n in (loaded, network))
    assert isinstance(found, GaussianSequence)
    assert isinstance(expected, GaussianSequence)
    assert torch.equal(found.amplitudes, expected.amplitudes)


def _pairs() -> Pairs:
    images = torch.randn(2, 1, 1, 21, 30, generator=torch.Generator().manual_seed(0))
    return Pairs(*images, *torch.ones(2, 1, 1, 21, 30, dtype=torch.bool), Grid((21, 30), (2.0, 1.5)))


def _randomised(network: RecurrentNetwork) -> RecurrentNetwork:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) * 0.1)
    return network


def test_the_architecture_is_what_is_computed_not_on_which_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(**changes: object) -> str:
        return checkpoint._architecture_hash(create_network(CONFIG.model_copy(update=changes)))

    paper, seeing = named(), named(least_squares_sizes=(32, 64))
    assert named(working_size=96, keep_probability=1.0, sigma_max=0.2) == paper
    assert named(least_squares_sizes=(24, 96), working_size=96) == seeing
    different = {paper, seeing, named(least_squares_sizes=(32,))}
    # The same shapes, but other Gaussians tried, or another price of their roughness.
    for name, value in (("WIDTHS", (0.3, 0.2, 0.1, 0.05)), ("ROUGHNESS", 0.01)):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, value)
            different.add(named(least_squares_sizes=(32, 64)))
            assert named() == paper
    assert len(different) == 5


def test_weights_from_before_the_scale_of_amplitudes_keep_their_range(file: Path, whole: bytes) -> None:
    older = json.loads(CONFIG.model_dump_json())
    del older["amplitude_scale"], older["sigma_min"]
    file.write_bytes(_edited(whole, config=json.dumps(older)))
    _resigned(file, lambda _: None)
    assert (read_manifest(file).config.amplitude_scale, read_manifest(file).config.sigma_min) == (1.0, 0.0)
    assert load_network(file).config.amplitude_scale == 1.0


def test_a_manifest_is_read_without_the_weights(file: Path, whole: bytes) -> None:
    header_end = 8 + int.from_bytes(whole[:8], "little")
    assert len(checkpoint._read(file, header_only=True)[1]) == header_end + 1
    expected = read_manifest(file)
    file.write_bytes(whole[:header_end])
    assert read_manifest(file) == expected
    for end in (header_end - 1, 8, 3):
        file.write_bytes(whole[:end])
        with pytest.raises(ReadError, match="fetch or copy the file again"):
            read_manifest(file)
    file.write_bytes((2**62).to_bytes(8, "little") + whole[8:])
    with pytest.raises(ReadError, match="header of 4611686018427387904 bytes"):
        read_manifest(file)


def test_loading_draws_no_random_numbers(file: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    load_network(file)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_manifest_says_what_the_weights_are_for(file: Path) -> None:
    manifest = read_manifest(file)
    assert (manifest.config, manifest.ndim, manifest.info) == (CONFIG, 2, {"data": "phantoms"})
    assert manifest.normalisation == checkpoint.NORMALISATION
    assert len(manifest.sha256) == 64


def test_other_weights_have_another_hash(network: R2N2, file: Path, tmp_path: Path) -> None:
    other = _network()
    with torch.no_grad():
        other.entry.bias[0] += 1e-6
    save_network(tmp_path / "other.safetensors", other, info={"data": "phantoms"})
    assert read_manifest(tmp_path / "other.safetensors").sha256 != read_manifest(file).sha256
    save_network(tmp_path / "same.safetensors", network, info={"data": "phantoms"})
    assert read_manifest(tmp_path / "same.safetensors").sha256 == read_manifest(file).sha256


def test_weights_for_2d_are_refused_for_3d_and_back(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="for 2D images, got 3D"):
        load_network(file, ndim=3)
    assert load_network(file, ndim=2).ndim == 2
    save_network(tmp_path / "cubes.safetensors", _network(3))
    assert load_network(tmp_path / "cubes.safetensors", ndim=3).ndim == 3
    with pytest.raises(ArgumentError, match="for 3D images, got 2D"):
        load_network(tmp_path / "cubes.safetensors", ndim=2)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema": "2"}, "schema '2' .written by r2n2 .*use that version"),
        ({"schema": "0"}, "schema '0'"),
        ({"schema": None}, "no manifest"),
        ({"config": None}, "lacks config"),
        ({"sha256": None, "ndim": None}, "lacks ndim, sha256"),
        ({"architecture": "0" * 64}, "another architecture"),
        ({"normalisation": "min-max"}, "normalised by 'min-max'"),
        ({"spacing": "pixels as they are"}, "made for pixel sizes 'pixels as they are', this version takes 'any"),
        ({"ndim": "3"}, "another architecture"),
        ({"ndim": "7"}, "manifest cannot be used"),
        ({"config": "{"}, "manifest cannot be used"),
        ({"config": "[]"}, "expected a JSON object"),
        ({"config": "[" * 100_000}, "manifest cannot be used"),
        ({"config": '{"chanels": [1, 2, 3, 4]}'}, "did you mean 'channels'"),
        ({"config": '{"channels": [2, 3, 4, 6], "sigma_max": 0.2}'}, "another architecture"),
        ({"config": '{"channels": [-2, 3, 4, 6]}'}, "impossible network"),
        ({"config": '{"channels": [2000000000, 2000000000, 2000000000, 2000000000]}'}, "impossible network"),
        ({"config": CONFIG.model_copy(update={"sigma_max": 0.5}).model_dump_json()}, "SHA-256"),
        ({"info": '{"data": "other"}'}, "SHA-256"),
        ({"sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_an_edited_manifest_is_refused_in_one_line(file: Path, changes: dict[str, str | None], match: str) -> None:
    file.write_bytes(_edited(file.read_bytes(), **changes))
    _refused(file, match)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    for percent in range(0, 100, 3):
        path.write_bytes(whole[: len(whole) * percent // 100])
        _refused(path, "fetch or copy the file again")
    path.write_bytes(whole[:-1])
    _refused(path, "fetch or copy the file again")
    path.write_bytes(whole + b"\0")
    _refused(path, "fetch or copy the file again")


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_never_loads(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    header_end = 8 + int.from_bytes(whole[:8], "little")
    place = data.draw(st.one_of(st.integers(0, header_end - 1), st.integers(header_end, len(whole) - 1)))
    content = bytearray(whole)
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "weights.safetensors"
    path.write_bytes(content)
    try:
        loaded = load_network(path)
    except ReadError:
        return
    # White space of the header may change without a change of meaning.
    original = tmp_path_factory.mktemp("original") / "weights.safetensors"
    original.write_bytes(whole)
    expected = load_network(original)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in expected.state_dict().items())
    assert loaded.config == expected.config


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\0" * 100, b"\xff" * 4096, bytes(range(256)) * 64, _joined([], b""), _joined({}, b"")]
)
def test_random_and_empty_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    _refused(path, "weights|safetensors")


def test_a_forged_header_length_is_refused_without_reading_that_much(file: Path) -> None:
    file.write_bytes((2**62).to_bytes(8, "little") + file.read_bytes()[8:])
    _refused(file, "header of 4611686018427387904 bytes")


def test_overlapping_or_outlying_tensors_are_refused(file: Path) -> None:
    header, body = _split(file.read_bytes())
    names = [name for name in header if name != "__metadata__"]
    for offsets in (header[names[1]]["data_offsets"], [0, 2**40], [-4, 0]):  # type: ignore[index]
        forged = json.loads(json.dumps(header))
        forged[names[0]]["data_offsets"] = offsets
        file.write_bytes(_joined(forged, body))
        _refused(file, "damaged weights")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(file: Path, number: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["levels.1.down.weight"][0, 0, 1, 1] = number

    _resigned(file, spoil)
    _refused(file, r"levels\.1\.down\.weight .*not finite")


def test_resigning_alone_changes_nothing(file: Path) -> None:
    _resigned(file, lambda tensors: None)
    load_network(file)


def test_missing_additional_or_mixed_tensors_are_refused(file: Path, whole: bytes) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["entry.bias"]

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["more"] = torch.zeros(1)

    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors["entry.bias"] = tensors["entry.bias"].half()

    def double(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: value.double() for name, value in tensors.items()})

    for change in (drop, add, halve, double):
        file.write_bytes(whole)
        _resigned(file, change)
        _refused(file, "not those its manifest describes")


class _Marker:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.path, "ran"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".PT", ".safetensors"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_are_refused_and_never_run(tmp_path: Path, suffix: str, zipped: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"weights{suffix}"
    content = pickle.dumps(_Marker(marker))
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)
    _refused(path, "can run code")
    assert not marker.exists()


def test_other_suffixes_folders_and_missing_files_are_refused(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "weights.h5").write_bytes(whole)
    _refused(tmp_path / "weights.h5", "expected a .safetensors file, got '.h5'")
    _refused(tmp_path / "absent.safetensors", "no such file")
    (tmp_path / "folder.safetensors").mkdir()
    _refused(tmp_path / "folder.safetensors", "no such file")


def test_a_file_too_large_for_weights_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with path.open("wb") as sparse:
        sparse.truncate(checkpoint.MAXIMUM_BYTES + 1)
    _refused(path, "at most 512 MiB")


def test_named_weights_are_those_that_ship(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: R2N2) -> None:
    monkeypatch.setattr(shipped_weights, "weights_folder", lambda: tmp_path)
    assert named_weights() == ()
    with pytest.raises(ResourceError, match="no weights ship; use --method fit or give a"):
        load_network("general")
    save_network(tmp_path / "cine.safetensors", network)
    (tmp_path / "card.md").write_text("about the weights")
    assert named_weights() == ("cine",)
    assert load_network("cine").config == CONFIG
    assert read_manifest("cine").ndim == 2
    with pytest.raises(ResourceError, match="no weights are called 'general': there are: cine"):
        load_network("general")


def test_what_weights_are_for_is_the_row_of_their_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: R2N2) -> None:
    monkeypatch.setattr(shipped_weights, "weights_folder", lambda: tmp_path)
    save_network(tmp_path / "cine.safetensors", network)
    assert shipped_weights.domain_of("cine") == ""
    card = "# cine\n\n| | |\n| --- | --- |\n| for | hearts in `short` axis; nothing else |\n"
    (tmp_path / "cine.md").write_text(card, encoding="utf-8")
    assert shipped_weights.domain_of("cine") == "hearts in short axis; nothing else"
    assert shipped_weights.domain_of("../cine") == ""
    monkeypatch.undo()
    for name in named_weights():
        assert len(shipped_weights.domain_of(name)) > 20, name


def test_the_folder_of_named_weights_is_the_packages() -> None:
    assert shipped_weights.weights_folder().is_dir()
    assert "general" in named_weights()
    for name in named_weights():
        load_network(name, ndim=2)
        with shipped_weights.shipped_file(name).open("rb") as stream:
            assert len(stream.read()) <= 8 * 2**20


def test_a_failed_save_leaves_the_older_file(file: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _network()
    with torch.no_grad():
        broken.entry.bias[1] = float("nan")
    with pytest.raises(ValueError, match=r"entry\.bias holds a number that is not finite"):
        save_network(file, broken)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="no space"):
        save_network(file, _network())
    assert file.read_bytes() == whole
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_only_safetensors_are_written(tmp_path: Path, network: R2N2) -> None:
    with pytest.raises(ArgumentError, match="ends in it"):
        save_network(tmp_path / "weights.pt", network)
    assert not list(tmp_path.iterdir())


def test_weights_of_a_version_that_did_not_say_how_it_takes_pixel_sizes_are_taken(file: Path) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header["__metadata__"]["spacing"] == checkpoint.SPACING
    network = load_network(file)
    metadata = {name: value for name, value in header["__metadata__"].items() if name not in ("spacing", "sha256")}
    metadata["sha256"] = checkpoint._digest(metadata, dict(network.state_dict()))
    header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    assert load_network(file).config == network.config


def test_weights_are_read_once_until_the_file_changes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(file, (1e9, 1e9))
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    first = load_network(file)
    with torch.no_grad():
        next(first.parameters()).fill_(7.0)  # as a training does: what is kept must not change with it
    again = load_network(file)
    assert read == [file]
    assert not (next(again.parameters()) == 7.0).any()
    os.utime(file, (2e9, 1e9 + 1))
    load_network(file)
    assert read == [file, file]
