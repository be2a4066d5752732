"""What this installation can do: versions, processor, device, memory, weights, optional packages and a short self-test."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from r2n2.errors import R2N2Error
from r2n2.results.manifest import versions

__all__ = ["Check", "examine"]

_EXTRAS = {
    "plugin": ("napari", "magicgui", "qtpy"),
    "training": ("tensorboard",),
    "benchmark": ("itk", "ants"),
    "batch": ("dask", "distributed"),
}
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16")
_LEAST_MEMORY_GIB = 2.0


@dataclass(frozen=True)
class Check:
    """One line of the examination.

    Parameters
    ----------
    name, value
        What was looked at and what was found.
    fine
        False where r2n2 cannot work with it.
    hint
        What to do about it, "" where there is nothing to do.
    """

    name: str
    value: str
    fine: bool = True
    hint: str = ""


def examine() -> tuple[Check, ...]:
    """Look at everything; a look that itself fails is a line that is not fine."""
    looks: tuple[Callable[[], tuple[Check, ...]], ...] = (
        _versions,
        _processor,
        _device,
        _memory,
        _weights,
        _extras,
        _self_test,
    )
    checks: list[Check] = []
    for look in looks:
        try:
            checks += look()
        except Exception as error:
            name = look.__name__.strip("_").replace("_", " ")
            checks.append(Check(name, f"{type(error).__name__}: {error}", False, "please report this line"))
    return tuple(checks)


def _versions() -> tuple[Check, ...]:
    import torch

    checks = [Check(name, version) for name, version in versions().items()]
    new_enough = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) >= (2, 10)
    return (*checks, *([] if new_enough else [Check("torch", torch.__version__, False, "install torch 2.10 or newer")]))


def _processor() -> tuple[Check, ...]:
    import torch

    path = Path("/proc/cpuinfo")
    flags = set(path.read_text(encoding="utf-8", errors="replace").split()) if path.exists() else set()
    found = [name for name in _CPU_FEATURES if name in flags]
    value = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used"
    return (Check("processor", value + (f", {' '.join(found)}" if found else f", {platform.processor() or 'features unknown'}")),)


def _device() -> tuple[Check, ...]:
    import torch

    from r2n2.registration import resolve_device

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    checks = [Check("torch build", build)]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            checks.append(Check(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    driver = _driver()
    if driver and not torch.version.cuda:
        checks.append(Check("driver", driver, hint="a GPU is here but torch is built for the CPU; install the CUDA build of torch"))
    elif driver:
        usable = torch.cuda.is_available()
        checks.append(Check("driver", driver, usable, "" if usable else "too old for this build of torch; update the driver"))
    return (*checks, Check("device used by auto", str(resolve_device("auto"))))


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"
    return answer.stdout.strip().splitlines()[0] if answer.returncode == 0 and answer.stdout.strip() else ""


def _memory() -> tuple[Check, ...]:
    if sys.platform == "win32" or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return (Check("memory", "unknown on this system"),)
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page / 2**30, os.sysconf("SC_AVPHYS_PAGES") * page / 2**30
    enough = total >= _LEAST_MEMORY_GIB
    return (Check("memory", f"{free:.1f} of {total:.1f} GiB free", enough, "" if enough else "at least 2 GiB are needed"),)


def _weights() -> tuple[Check, ...]:
    from r2n2.network.checkpoint import load_network, named_weights, shipped_bytes

    checks = []
    for name in named_weights():
        try:
            network = load_network(name)
        except R2N2Error as error:
            checks.append(Check(f"weights {name}", str(error), False, "install napari-r2n2 again, or use --method fit"))
            continue
        numbers = sum(value.numel() for value in network.state_dict().values())
        checks.append(
            Check(
                f"weights {name}", f"{shipped_bytes(name) / 2**20:.1f} MiB, {numbers:,} numbers for {network.ndim}D images, hash ok"
            )
        )
    return tuple(checks) or (Check("weights", "none shipped", False, "install napari-r2n2 again, or use --method fit"),)


def _extras() -> tuple[Check, ...]:
    checks = []
    for extra, packages in _EXTRAS.items():
        absent = [name for name in packages if importlib.util.find_spec(name) is None]
        hint = f'pip install "napari-r2n2[{extra}]"' if absent else ""
        checks.append(Check(f"extra {extra}", f"{', '.join(absent)} absent" if absent else "present", hint=hint))
    return tuple(checks)


def _self_test() -> tuple[Check, ...]:
    import torch

    from r2n2.geometry import Grid
    from r2n2.transform import DisplacementField, warp_image

    grid = Grid((24, 31), (1.5, 1.0))
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(31.0), indexing="ij")
    image = torch.exp(-((rows - 11) ** 2 + (columns - 14) ** 2) / 40)[None]
    error = float((warp_image(image, DisplacementField.identity(grid)) - image).abs().max())
    exact = Check("identity warp", f"largest error {error:.1e}", error < 1e-5, "" if error < 1e-5 else "please report this line")
    return exact, _tiny_fit(image.numpy())


def _tiny_fit(image: object) -> Check:
    import numpy as np

    from r2n2.config import RegistrationConfig
    from r2n2.geometry import Grid
    from r2n2.registration import register_series
    from r2n2.series import ImageSeries

    still = np.asarray(image, dtype=np.float32)
    series = ImageSeries(np.stack([still, np.roll(still, 2, axis=1)]), Grid((24, 31), (1.5, 1.0)))
    started = time.monotonic()
    settings = RegistrationConfig.parse({"method": "fit", "reference": 0, "device": "cpu", "steps": 4})
    try:
        results = [result for progress in register_series(series, settings) for result in progress.finished]
    except R2N2Error as error:
        return Check("tiny fit", str(error), False, "please report this line")
    moved = results[-1]
    better = moved.similarity_after > moved.similarity_before
    value = f"correlation {moved.similarity_before:.3f} -> {moved.similarity_after:.3f} in {time.monotonic() - started:.1f} s"
    return Check("tiny fit", value, better, "" if better else "please report this line")
