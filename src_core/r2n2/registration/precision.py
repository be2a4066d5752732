"""In which precision the network's convolutions are quickest on this machine: measured once, remembered in a file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from r2n2.config import RegistrationConfig
from r2n2.errors import ResourceError
from r2n2.io.atomic import atomic_write
from r2n2.network import RecurrentNetwork

__all__ = ["measured_precision", "remembered_in", "resolve_precision"]

_BATCH = 8
_RUNS = 5
# Less is not worth results that differ in their last digits.
_WORTHWHILE = 1.2


def resolve_precision(config: RegistrationConfig, network: RecurrentNetwork) -> torch.dtype:
    """The precision that the settings ask for, on the device of the network; for "auto" the remembered or newly measured one.

    A machine that cannot remember measures anew in every process.
    """
    if config.precision != "auto":
        return torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    device = network.entry.weight.device
    if device.type == "cpu" and not _has_instructions():
        return torch.float32  # emulated, it can only be slower
    key = _key(network, device)
    file = remembered_in()
    known = _read(file)
    if known.get(key) not in ("float32", "bfloat16"):
        known[key] = "bfloat16" if measured_precision(network) is torch.bfloat16 else "float32"
        _write(file, known)
    return torch.bfloat16 if known[key] == "bfloat16" else torch.float32


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
    """The file: ``R2N2_CACHE`` or the user's cache folder, ``r2n2/precision.json``."""
    given = os.environ.get("R2N2_CACHE")
    if given:
        return Path(given) / "precision.json"
    local = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return (Path(local) if local else Path.home() / ".cache") / "r2n2" / "precision.json"


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


def _key(network: RecurrentNetwork, device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    channels = "-".join(map(str, network.config.channels))
    return f"{name} | {torch.get_num_threads()} threads | torch {torch.__version__} | {channels} on {network.config.working_size}"


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
