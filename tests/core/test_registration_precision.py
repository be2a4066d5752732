"""Which precision is used: the one asked for, else the one measured to be clearly quicker, measured once and remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from r2n2.config import NetworkConfig, RegistrationConfig
from r2n2.network.r2n2 import R2N2
from r2n2.registration import precision
from r2n2.registration.precision import measured_precision, precision_of_run, remembered_in, resolve_precision

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def network() -> R2N2:
    return R2N2(NetworkConfig(channels=(2, 3, 4, 6), working_size=32)).eval()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2N2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "_has_instructions", lambda: True)
    return tmp_path / "cache" / "precision.json"


class _Clock:
    """Says that a step takes so long in float32 and in bfloat16, in turn; the first of each is slow, as when code is loaded."""

    def __init__(self, single: float, half: float) -> None:
        self.durations = [50.0, 1.0, *[single, half] * 5]
        self.now, self.asked = 0.0, 0

    def __call__(self) -> float:
        if self.asked % 2:
            self.now += self.durations[self.asked // 2]
        self.asked += 1
        return self.now


@pytest.mark.parametrize(
    ("single", "half", "expected"), [(3.0, 1.0, torch.bfloat16), (1.0, 2.0, torch.float32), (1.1, 1.0, torch.float32)]
)
def test_bfloat16_must_be_clearly_quicker(network: R2N2, single: float, half: float, expected: torch.dtype) -> None:
    assert measured_precision(network, _Clock(single, half)) is expected


def test_it_is_measured_for_real(network: R2N2) -> None:
    assert measured_precision(network) in (torch.float32, torch.bfloat16)


def test_what_is_asked_for_is_not_measured(network: R2N2, cache: Path) -> None:
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        assert resolve_precision(RegistrationConfig(precision=name), network) is dtype
    assert not cache.exists()


def test_it_is_measured_once_for_each_network_and_remembered(network: R2N2, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(asked: R2N2) -> torch.dtype:
        measured.append(asked)
        return torch.bfloat16

    monkeypatch.setattr(precision, "measured_precision", measure)
    for _ in range(3):
        assert resolve_precision(RegistrationConfig(), network) is torch.bfloat16
    assert len(measured) == 1
    assert remembered_in() == cache
    (key,) = json.loads(cache.read_text())
    assert "2-3-4-6 on 32" in key
    assert torch.__version__ in key
    other = R2N2(NetworkConfig(channels=(2, 3, 4, 8), working_size=32)).eval()
    resolve_precision(RegistrationConfig(), other)
    assert len(measured) == 2
    assert len(json.loads(cache.read_text())) == 2


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 3}'])
def test_a_damaged_memory_is_measured_anew(network: R2N2, cache: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    monkeypatch.setattr(precision, "measured_precision", lambda asked: torch.float32)
    assert resolve_precision(RegistrationConfig(), network) is torch.float32
    assert "float32" in json.loads(cache.read_text()).values()


def test_where_nothing_can_be_remembered_it_still_works(network: R2N2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("R2N2_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(precision, "measured_precision", lambda asked: torch.bfloat16)
    assert resolve_precision(RegistrationConfig(), network) is torch.bfloat16


def test_a_processor_without_the_instructions_is_not_measured(network: R2N2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_instructions", lambda: False)
    monkeypatch.setattr(precision, "measured_precision", lambda asked: pytest.fail("measured"))
    assert resolve_precision(RegistrationConfig(), network) is torch.float32


def test_the_precision_of_a_run_is_what_the_network_will_compute_in(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    measured: list[R2N2] = []

    def measure(asked: R2N2) -> torch.dtype:
        measured.append(asked)
        return torch.bfloat16

    monkeypatch.setattr(precision, "measured_precision", measure)
    assert precision_of_run(RegistrationConfig(), cpu) == "bfloat16"
    monkeypatch.setattr(precision, "load_network", lambda name: pytest.fail("what is remembered needs no weights"))
    assert precision_of_run(RegistrationConfig(), cpu) == "bfloat16"
    assert len(measured) == 1
    assert precision_of_run(RegistrationConfig(precision="float32"), cpu) == "float32"
    assert precision_of_run(RegistrationConfig(method="fit"), cpu) == "float32", "only the network has another precision"
