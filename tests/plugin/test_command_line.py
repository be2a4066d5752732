"""The copied command does what the widget is set to: the command line itself accepts it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from napari_r2n2.models.alignment import Choice
from napari_r2n2.models.command_line import register_command
from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.series import ImageSeries


def _settings_given(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``r2n2 register`` makes of a command: its settings and its reading options."""
    from typer.testing import CliRunner

    from r2n2 import io
    from r2n2.cli.app import app
    from r2n2.errors import ReadError

    seen: dict[str, Any] = {}

    def read(_path: Path, **options: Any) -> Any:
        seen["reading"] = options
        raise ReadError("far enough")

    original = RegistrationConfig.parse.__func__  # type: ignore[attr-defined]

    def parse(kind: Any, values: dict[str, Any]) -> RegistrationConfig:
        seen["settings"] = original(kind, values)
        return seen["settings"]  # type: ignore[no-any-return]

    monkeypatch.setattr(io, "read_series", read)
    monkeypatch.setattr(RegistrationConfig, "parse", classmethod(parse))
    CliRunner().invoke(app, shlex.split(command)[1:])
    return seen["settings"].model_dump(), seen["reading"]


@pytest.mark.parametrize(
    "config",
    [
        RegistrationConfig(),
        RegistrationConfig.parse({"refine": False, "reference": 2, "steps": 12}),
        RegistrationConfig(method="fit", warm_start=True, no_folding=True, batch_size=3, device="cpu"),
        RegistrationConfig(method="bspline"),
        RegistrationConfig(method="fit", similarity="mind", target="pca:3"),
    ],
    ids=lambda config: config.method,
)
def test_the_command_has_the_same_settings(
    series: ImageSeries, config: RegistrationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a b.nii.gz"
    source.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    command = register_command([replace(series, source={"path": str(source)})], config, spacing_in_file=(2.0, 1.5))
    settings, reading = _settings_given(command, monkeypatch)
    assert settings == config.model_dump()
    assert reading.get("spacing") is None


def test_a_pixel_size_that_was_changed_in_napari_is_said(
    series: ImageSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"")
    source = {"path": "x.npy", "format": "dicom", "series": "1.2.3"}
    command = register_command([replace(series, source=source)], RegistrationConfig(method="fit"), spacing_in_file=(1.0, 1.0))
    _settings, reading = _settings_given(command, monkeypatch)
    assert (reading["spacing"], reading["series"]) == ((2.0, 1.5), "1.2.3")


def test_a_layer_from_no_file_has_no_command(series: ImageSeries, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="'disc' lies in memory only"):
        register_command([series], RegistrationConfig(), spacing_in_file=None)
    gone = replace(series, source={"path": str(tmp_path / "gone.mha")})
    with pytest.raises(ArgumentError, match=r"gone\.mha is not there any more"):
        register_command([gone], RegistrationConfig(), spacing_in_file=None)


@pytest.mark.parametrize(("slices", "words"), [((0, 1, 2), []), ((1,), ["--slice", "1"])])
def test_the_command_names_the_slice_and_what_was_asked(
    series: ImageSeries, tmp_path: Path, slices: tuple[int, ...], words: list[str]
) -> None:
    file = tmp_path / "a.npz"
    file.write_bytes(b"")
    several = [replace(series, source={"path": str(file), "asked": {"axes": "TZYX", "volumes": False}})] * 3
    command = shlex.split(register_command(several, RegistrationConfig(), Choice(slices), spacing_in_file=(2.0, 1.5)))
    assert command[command.index("--axes") + 1] == "TZYX"
    assert command[command.index("--axes") + 2 :] == ["--slices", *words]
    with pytest.raises(ArgumentError, match="one slice position or all"):
        register_command(several, RegistrationConfig(), Choice((0, 2)), spacing_in_file=None)
