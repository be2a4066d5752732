"""In which precision the network's convolutions are quickest on this machine: measured once, remembered in a file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import platformdirs
import torch

from r2n2.config import NetworkConfig, Precision, RegistrationConfig
from r2n2.errors import ResourceError
from r2n2.io.atomic import atomic_write
from r2n2.network import RecurrentNetwork
from r2n2.network.checkpoint import load_network, read_manifest

__all__ = ["measured_precision", "precision_of_run", "remembered_in", "resolve_precision"]

_BATCH = 8
_RUNS = 5
# Less is not worth results that differ in their last digits.
_WORTHWHILE = 1.2


def precision_of_run(config: RegistrationConfig, device: torch.device) -> Precision:
    """The precision that a run with these settings computes in, to be recorded and, as ``config.precision``, to be held to.

    What "auto" means can change from one process to the next, and with it the result: ask once, before the run. The weights are
    loaded only where this machine has to measure.

    Raises
    ------
    R2N2Error
        If the weights cannot be used, as ``load_network``.
    """
    if config.method != "r2n2":
        return "float32"
    if config.precision != "auto":
        return config.precision
    known = _remembered(read_manifest(config.weights).config, device)
    if known is not None:
        return known
    return _name(resolve_precision(config, load_network(config.weights).to(device).eval()))


def resolve_precision(config: RegistrationConfig, network: RecurrentNetwork) -> torch.dtype:
    """The precision that the settings ask for, on the device of the network; for "auto" the remembered or newly measured one.

    A machine that cannot remember measures anew in every process.
    """
    if config.precision != "auto":
        return torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    device = network.entry.weight.device
    known = _remembered(network.config, device)
    if known is None:
        known = _name(measured_precision(network))
        file = remembered_in()
        _write(file, {**_read(file), _key(network.config, device): known})
    return torch.bfloat16 if known == "bfloat16" else torch.float32


def measured_precision(network: RecurrentNetwork, clock: Callable[[], float] = time.perf_counter) -> torch.dtype:
    """bfloat16 where the network's steps take clearly less time in it, else float32.

    Parameters
    ----------
    network
        On the device that is asked about, in evaluation mode.
    clock
        Seconds from any origin.
    """
    # Runs in turn, so that a busy moment hits both.
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    step = _trial(network)
    for run in range(_RUNS + 1):
        for dtype, found in seconds.items():
            began = clock()
            step(dtype)
            took = clock() - began
            if run:  # the first loads and compiles
                found.append(took)
    gain = statistics.median(seconds[torch.float32]) / statistics.median(seconds[torch.bfloat16])
    return torch.bfloat16 if gain >= _WORTHWHILE else torch.float32


def remembered_in() -> Path:
    """The file ``precision.json`` in ``R2N2_CACHE`` or the user's cache folder."""
    given = os.environ.get("R2N2_CACHE")
    return (Path(given) if given else platformdirs.user_cache_path("r2n2", appauthor=False)) / "precision.json"


def _remembered(config: NetworkConfig, device: torch.device) -> Precision | None:
    """What is known without measuring."""
    if device.type == "cpu" and not _has_instructions():
        return "float32"  # emulated, bfloat16 can only be slower
    known = _read(remembered_in()).get(_key(config, device))
    return "bfloat16" if known == "bfloat16" else "float32" if known == "float32" else None


def _name(dtype: torch.dtype) -> Precision:
    return "bfloat16" if dtype is torch.bfloat16 else "float32"


def _trial(network: RecurrentNetwork) -> Callable[[torch.dtype], None]:
    """The convolutions of one step on noise."""
    like = network.entry.weight
    size = network.config.working_size
    features = torch.zeros(_BATCH, network.config.channels[0], *(size // 2,) * network.ndim, device=like.device)
    features = features.contiguous(memory_format=torch.channels_last if network.ndim == 2 else torch.channels_last_3d)

    def step(dtype: torch.dtype) -> None:
        with torch.inference_mode(), torch.autocast(like.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            passed = features.to(dtype)
            for level in network.levels:
                passed = level(passed, torch.zeros_like(passed)).features
        if like.device.type == "cuda":
            torch.cuda.synchronize(like.device)

    return step


def _key(config: NetworkConfig, device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    channels = "-".join(map(str, config.channels))
    return f"{name} | {torch.get_num_threads()} threads | torch {torch.__version__} | {channels} on {config.working_size}"


def _has_instructions() -> bool:
    """Whether the processor has instructions for bfloat16; true where torch cannot tell."""
    told = getattr(torch.cpu, "get_capabilities", None)
    found = told() if told is not None else {}
    return any(bool(able) for name, able in found.items() if "bf16" in name) if found else True


def _processor() -> str:
    """What tells processors apart: their name and, as a virtual machine may not give it in full, what torch found them able to."""
    return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}".strip()


def _read(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, known: dict[str, str]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    except (OSError, ResourceError):
        # Documented: it is then measured anew.
        return
