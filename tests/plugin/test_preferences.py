"""The page of napari's Preferences: drawn, changed with real keys, and read by widgets; defaults wherever it is missing."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QCheckBox, QComboBox, QLineEdit, QListWidget, QPushButton

from napari_r2n2.preferences import PLUGIN_NAME, Preferences, read_preferences

DEFAULTS = Preferences()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is set; what is, is kept in the folder of the test."""
    import napari.settings

    monkeypatch.setattr(napari.settings, "_CFG_PATH", str(tmp_path / "settings.yaml"))
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {})
    return tmp_path / f"{PLUGIN_NAME}.yaml"


def _fake(monkeypatch: pytest.MonkeyPatch, **groups: dict[str, Any]) -> None:
    import napari.settings

    found = SimpleNamespace(**{name: SimpleNamespace(**values) for name, values in groups.items()})
    monkeypatch.setattr(napari.settings, "get_plugin_settings", lambda _name: found)


def test_page_starts_with_the_defaults_of_the_code(settings: Path) -> None:
    from napari.settings import get_plugin_settings

    page = get_plugin_settings(PLUGIN_NAME).model_dump()
    shown = {name: value for group in ("registration", "compute", "display", "reading") for name, value in page[group].items()}
    assert shown == dataclasses.asdict(DEFAULTS)
    assert read_preferences() == DEFAULTS


def test_every_choice_of_the_page_is_understood(settings: Path) -> None:
    from napari.settings import get_plugin_settings
    from napari.utils.colormaps import AVAILABLE_COLORMAPS

    from r2n2.config import RegistrationConfig

    schema = type(get_plugin_settings(PLUGIN_NAME)).model_json_schema()["$defs"]
    for method in schema["registration"]["properties"]["method"]["enum"]:
        assert RegistrationConfig.parse({"method": method}).method == method
    assert set(schema["display"]["properties"]["colormap"]["enum"]) <= set(AVAILABLE_COLORMAPS)
    assert schema["compute"]["properties"]["device"]["enum"] == ["auto", "cpu", "cuda"]


def test_what_is_set_on_the_page_is_read_at_once_and_after_a_restart(
    viewer: Any, settings: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialog = viewer.window._open_preferences_dialog()
    qtbot.waitExposed(dialog)
    pages = dialog.findChild(QListWidget, "Preferences")
    (row,) = [k for k in range(pages.count()) if pages.item(k).text() == "R2N2"]
    pages.setCurrentRow(row)
    page = dialog._stack.currentWidget()
    qtbot.waitUntil(page.isVisible)
    combos = {combo.itemText(0): combo for combo in page.findChildren(QComboBox)}
    for first, key in (("r2n2", Qt.Key.Key_F), ("auto", Qt.Key.Key_C), ("turbo", Qt.Key.Key_V)):
        QTest.keyClick(combos[first], key)
    (weights,) = [edit for edit in page.findChildren(QLineEdit) if edit.text() == "general"]
    weights.selectAll()
    QTest.keyClicks(weights, "paper")
    (refine,) = page.findChildren(QCheckBox)
    QTest.mouseClick(refine, Qt.MouseButton.LeftButton, pos=refine.rect().center().__class__(8, refine.height() // 2))
    chosen = dataclasses.replace(DEFAULTS, method="fit", device="cpu", colormap="viridis", weights="paper", refine=False)
    assert read_preferences() == chosen
    (ok,) = [button for button in dialog.findChildren(QPushButton) if button.text() == "OK"]
    QTest.mouseClick(ok, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dialog.isVisible())
    import napari.settings

    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {})
    assert settings.is_file()
    assert read_preferences() == chosen


def test_older_napari_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    import napari.settings

    monkeypatch.delattr(napari.settings, "get_plugin_settings")
    assert read_preferences() == DEFAULTS


def test_without_napari_the_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "napari.settings", None)
    assert read_preferences() == DEFAULTS


def test_missing_and_misshapen_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch, compute={"device": 3}, registration={"method": "fit", "refine": "no", "weights": "  "})
    assert read_preferences() == dataclasses.replace(DEFAULTS, method="fit")


def test_a_truth_is_no_distance_and_names_lose_their_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch, registration={"weights": " paper "}, display={"arrow_spacing_px": True})
    assert read_preferences() == dataclasses.replace(DEFAULTS, weights="paper")


def test_a_disabled_plugin_has_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import napari.settings

    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {"another": None})
    assert read_preferences() == DEFAULTS


def test_settings_that_cannot_be_read_keep_no_widget_from_opening(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import napari.settings

    def broken(_name: str) -> None:
        raise RuntimeError("another plugin's file is damaged")

    monkeypatch.setattr(napari.settings, "get_plugin_settings", broken)
    assert read_preferences() == DEFAULTS
    assert "defaults are used" in caplog.text
