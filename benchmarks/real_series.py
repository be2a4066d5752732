"""Register real series through the command line and print similarity, folding, time and endocardium Dice a series.

usage: python benchmarks/real_series.py DATA OUT [--method fit] [--method bspline] [--limit N]

DATA is a folder with ``sunnybrook-cine/final_data`` (DICOM, contours) and ``tcia-4dlung-103/Real_TCIA_103.gif``. The reference of a
cine series is end-diastole, so that the end-systolic contour, carried over by the registration, can be compared with the
end-diastolic one. No setting was chosen on these series.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.draw import polygon

from r2n2.evaluation import dice, warp_labels
from r2n2.results.reader import read_result, slice_folders

PHASES = 20


@dataclass(frozen=True)
class Patient:
    """A cine study: its folder, the name of its contours, and the phases of end-diastole and end-systole."""

    dicom: str
    contours: str
    diastole: int
    systole: int


PATIENTS = (Patient("SCD0000101", "SC-HF-I-1", 18, 7), Patient("SCD0000301", "SC-HF-I-4", 19, 6))


def register(source: Path, target: Path, method: str, *options: str) -> None:
    program = str(Path(sys.executable).with_name("r2n2"))
    command = [program, "register", str(source), "-o", str(target), "--method", method, "--overwrite", "--quiet"]
    outcome = subprocess.run([*command, *options], check=False, stdout=subprocess.DEVNULL)
    if outcome.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} ended with {outcome.returncode}")


def endocardium(folder: Path, instance: int, shape: tuple[int, int]) -> np.ndarray:
    """Filled contour; its numbers are column, row, taken as 0-based (a common offset does not change a Dice)."""
    xy = np.loadtxt(folder / f"IM-0001-{instance:04d}-icontour-manual.txt")
    mask = np.zeros(shape, dtype=np.uint8)
    mask[polygon(xy[:, 1], xy[:, 0], shape)] = 1
    return mask


def contoured_slices(data: Path, patient: Patient) -> dict[int, tuple[int, int]]:
    """Slice -> instance numbers of the end-diastolic and the end-systolic contour."""
    found: dict[int, dict[int, int]] = {}
    for path in sorted((data / "contourfiles" / patient.contours / "i-contours").glob("*icontour*")):
        number = int(re.search(r"IM-0001-(\d{4})", path.name)[1])
        found.setdefault((number - 1) // PHASES, {})[(number - 1) % PHASES] = number
    wanted = (patient.diastole, patient.systole)
    return {k: (v[wanted[0]], v[wanted[1]]) for k, v in found.items() if set(wanted) <= set(v)}


def instance_slices(data: Path, patient: Patient) -> dict[float, int]:
    """Position along the stack (mm, rounded) -> slice number by instance."""
    import pydicom

    places = {}
    for path in sorted((data / "dicoms" / patient.dicom).glob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["ImagePositionPatient", "InstanceNumber"])
        places[round(float(header.ImagePositionPatient[2]), 2)] = (int(header.InstanceNumber) - 1) // PHASES
    return places


def row(name: str, folder: Path, scores: tuple[float, float] | None) -> dict[str, float | str]:
    with (folder / "metrics.csv").open() as file:
        frames = [line for line in csv.DictReader(file) if line["status"] != "reference"]

    def mean(column: str) -> float:
        return float(np.mean([float(line[column]) for line in frames]))

    return {
        "series": name,
        "frames": len(frames) + 1,
        "similarity before": mean("similarity_before"),
        "after": mean("similarity_after"),
        "folding %": mean("folding_percent"),
        "worst folding %": max(float(line["folding_percent"]) for line in frames),
        "s/frame": mean("seconds"),
        "not ok": sum(line["status"] != "ok" for line in frames),
        "Dice before": scores[0] if scores else float("nan"),
        "Dice after": scores[1] if scores else float("nan"),
    }


def cine(data: Path, out: Path, method: str, patient: Patient, limit: int | None) -> list[dict[str, float | str]]:
    rows = []
    contours, places = contoured_slices(data, patient), instance_slices(data, patient)
    target = out / method / patient.dicom
    options = ["--slice", str(limit)] if limit is not None else []
    register(data / "dicoms" / patient.dicom, target, method, "--reference", str(patient.diastole), *options)
    for folder in slice_folders(target) or (target,):
        result = read_result(folder)
        number = places[round(result.landmark_grid.origin[0], 2)]
        scores = None
        if number in contours:
            ed, es = (
                endocardium(data / "contourfiles" / patient.contours / "i-contours", n, result.grid.shape) for n in contours[number]
            )
            moved = warp_labels(es[None], result.transforms[patient.systole])[0]
            scores = (dice(ed, es)[1], dice(ed, moved)[1])
        rows.append(row(f"{patient.dicom} slice {number}", folder, scores))
    return rows


def show(method: str, rows: list[dict[str, float | str]]) -> None:
    columns = list(rows[0])
    print(f"\n{method}\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for line in rows:
        print("| " + " | ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in line.values()) + " |")
    scored = [line for line in rows if line["Dice after"] == line["Dice after"]]
    for patient in ("SCD0000101", "SCD0000301", ""):
        part = [line for line in scored if str(line["series"]).startswith(patient)]
        if part:
            before, after = (np.mean([float(line[c]) for line in part]) for c in ("Dice before", "Dice after"))
            print(f"Dice, mean of {len(part)} slices {patient}: {before:.4f} -> {after:.4f}")
    print(f"folding: mean {np.mean([line['folding %'] for line in rows]):.4f} % of the cells")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", action="append", choices=["fit", "bspline", "r2n2"])
    parser.add_argument("--slice", type=int, default=None, help="only this slice position")
    arguments = parser.parse_args()
    for method in arguments.method or ["fit", "bspline"]:
        rows = []
        for patient in PATIENTS:
            rows += cine(arguments.data / "sunnybrook-cine" / "final_data", arguments.out, method, patient, arguments.slice)
        gif = arguments.data / "tcia-4dlung-103" / "Real_TCIA_103.gif"
        target = arguments.out / method / "tcia"
        register(gif, target, method, "--spacing", "0.4565,0.4565")
        rows.append(row("TCIA 4D-Lung 103", target, None))
        show(method, rows)


if __name__ == "__main__":
    main()
