"""The reader as people meet it: files and folders dropped on a real window; as scripts do: through viewer.open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_factory
import npe2
import numpy as np
import pytest
from napari.settings import get_settings
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QApplication, QDialog, QInputDialog, QRadioButton

from napari_r2n2.layers.place import METADATA_KEY
from napari_r2n2.layers.to_series import layer_to_series
from napari_r2n2.preferences import Preferences
from napari_r2n2.reading.reader import get_reader
from r2n2.errors import ReadError
from r2n2.geometry import Grid
from r2n2.io import write_series
from r2n2.series import ImageSeries

PLUGIN = "napari-r2n2"


@pytest.fixture(autouse=True)
def remembered() -> Iterator[None]:
    """Nobody has told napari yet which reader to take; what a test tells it is forgotten."""
    plugins = get_settings().plugins
    before = dict(plugins.extension2reader)
    plugins.extension2reader = {}
    yield
    plugins.extension2reader = before


@pytest.fixture
def drop(viewer: Any, qtbot: Any) -> Callable[..., list[Any]]:
    """Drop files on the window, and answer napari's question for the reader where it asks; gives the layers."""

    def dropped(
        *paths: Path, answer: str = "R2N2", meaning: str = "", modifiers: Any = Qt.KeyboardModifier.NoModifier
    ) -> list[Any]:
        mime, done = QMimeData(), []
        mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        event = QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, mime, Qt.MouseButton.LeftButton, modifiers)

        def release() -> None:
            # Inside Qt's own loop, as a real drop is.
            QTimer.singleShot(0, choose)
            try:
                viewer.window._qt_viewer.dropEvent(event)
            finally:
                done.append(True)

        def choose() -> None:
            dialogs = [widget for widget in QApplication.topLevelWidgets() if isinstance(widget, QDialog) and widget.isVisible()]
            if not done:
                QTimer.singleShot(20, choose)
            for dialog in dialogs[:1]:
                if isinstance(dialog, QInputDialog):
                    said = next((text for text in dialog.comboBoxItems() if meaning and text.startswith(meaning)), None)
                    if said is None:
                        dialog.reject()
                        continue
                    dialog.setTextValue(said)
                for button in dialog.findChildren(QRadioButton):
                    if button.text() == answer:
                        button.click()
                dialog.accept()

        QTimer.singleShot(0, release)
        qtbot.waitUntil(lambda: bool(done), timeout=20_000)
        return list(viewer.layers)

    return dropped


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What napari's window told."""
    texts: list[str] = []

    def note(notification: Any) -> None:
        texts.append(notification.message)

    notification_manager.notification_ready.connect(note)
    yield texts
    notification_manager.notification_ready.disconnect(note)


def _written(folder: Path, series: ImageSeries, kind: str, **changes: Any) -> Path:
    source = replace(series, source={"format": kind, "path": f"disc.{kind}"}, **changes)
    return write_series(folder, "disc", source, (series.frame(index) for index in range(len(series))))


@pytest.mark.parametrize("kind", ["mha", "nii", "ome-zarr", "ome-tiff", "npz"])
def test_dropped_series_has_values_scale_units_times_and_name(
    drop: Callable[..., list[Any]], told: list[str], series: ImageSeries, tmp_path: Path, kind: str
) -> None:
    (layer,) = drop(_written(tmp_path, series, kind))
    np.testing.assert_array_equal(np.asarray(layer.data), np.asarray(series.frames)[:, 0])
    np.testing.assert_allclose(layer.scale, (0.5, 2.0, 1.5), rtol=1e-6)
    assert tuple(str(unit) for unit in layer.units) == ("second", "millimeter", "millimeter")
    assert layer.axis_labels == ("time", "y", "x")
    assert layer.name == "disc"
    (back,) = layer_to_series(layer)
    np.testing.assert_allclose(back.times_s or (), (0.0, 0.5, 1.0, 1.5), atol=1e-6)
    assert told == []


def test_dropped_imagej_movie_keeps_its_calibration(drop: Callable[..., list[Any]], series: ImageSeries, tmp_path: Path) -> None:
    frames = np.asarray(series.frames).astype(np.uint16)
    (layer,) = drop(_written(tmp_path, replace(series, frames=frames), "imagej", frames=frames))
    np.testing.assert_array_equal(np.asarray(layer.data), frames[:, 0])
    np.testing.assert_allclose(layer.scale, (0.5, 2.0, 1.5), rtol=1e-5)


def test_dropped_gif_movie_counts_pixels(drop: Callable[..., list[Any]], series: ImageSeries, tmp_path: Path) -> None:
    from PIL import Image

    pages = [Image.fromarray((np.asarray(frame[0]) // 4).astype(np.uint8)) for frame in series.frames]
    pages[0].save(tmp_path / "disc.gif", save_all=True, append_images=pages[1:])
    (layer,) = drop(tmp_path / "disc.gif")
    assert layer.data.shape == (4, 27, 35)
    assert {str(unit) for unit in layer.units} == {"pixel"}


def test_tiff_without_a_time_axis_opens_as_napari_opens_it(
    viewer: Any, drop: Callable[..., list[Any]], told: list[str], tmp_path: Path
) -> None:
    import tifffile

    stack = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)
    for name, options in (("plain", {}), ("depth", {"imagej": True, "metadata": {"axes": "ZYX"}}), ("one", {})):
        tifffile.imwrite(tmp_path / f"{name}.tif", stack[0] if name == "one" else stack, photometric="minisblack", **options)
    for name in ("plain", "depth", "one"):
        ours = drop(tmp_path / f"{name}.tif")[-1]
        napari = viewer.open(tmp_path / f"{name}.tif", plugin="napari")[0]
        np.testing.assert_array_equal(np.asarray(ours.data), np.asarray(napari.data))
        assert ours.name == name
        assert METADATA_KEY not in ours.metadata
    assert told == []


def test_remembered_for_tiff_it_asks_no_more(
    viewer: Any, drop: Callable[..., list[Any]], series: ImageSeries, tmp_path: Path
) -> None:
    import tifffile

    get_settings().plugins.extension2reader = {"*.tif": PLUGIN}
    tifffile.imwrite(tmp_path / "photo.tif", np.eye(5, dtype=np.uint8))
    drop(_written(tmp_path, series, "ome-tiff"), answer="nobody is asked")
    drop(tmp_path / "photo.tif", answer="nobody is asked")
    assert [(layer.name, layer.data.shape) for layer in viewer.layers] == [("disc", (4, 27, 35)), ("photo", (5, 5))]


def test_tiffs_to_be_stacked_are_left_to_napari(viewer: Any, tmp_path: Path) -> None:
    import tifffile

    files = [tmp_path / f"{k}.tif" for k in range(3)]
    for k, file in enumerate(files):
        tifffile.imwrite(file, np.full((5, 7), k, np.uint8))
    (layer,) = viewer.open(files, stack=True, plugin=PLUGIN)
    assert np.asarray(layer.data)[:, 0, 0].tolist() == [0, 1, 2]


def test_slice_positions_become_one_layer(drop: Callable[..., list[Any]], tmp_path: Path) -> None:
    folder = tmp_path / "heart"
    for k, z in enumerate((0.0, 9.0)):
        dicom_factory.write_series(
            folder / str(k), 3, ImageOrientationPatient=dicom_factory.AXIAL, ImagePositionPatient=[10.0, 20.0, z]
        )
    _unique(folder)
    (layer,) = drop(folder)
    assert layer.data.shape == (2, 3, 5, 7)
    assert layer.axis_labels == ("slice", "time", "y", "x")
    np.testing.assert_allclose(layer.scale, (9.0, 0.04, 1.2, 2.5))
    assert layer.name == "heart"


@pytest.mark.parametrize("kind", ["dicom", "nii", "zarr"])
def test_stacks_open_as_volumes_where_that_is_preferred(
    drop: Callable[..., list[Any]], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_r2n2.preferences.read_preferences", lambda: Preferences(stacks="volumes"))
    path = tmp_path / "lung"
    expected = np.stack([np.stack([dicom_factory.pixels_of(10 * t + z) for z in range(4)]) for t in range(3)])
    if kind == "dicom":
        for t, z in np.ndindex(3, 4):
            place = {"ImageOrientationPatient": dicom_factory.AXIAL, "ImagePositionPatient": [10.0, 20.0, 3.0 * z]}
            times = {"TriggerTime": f"{40 * t}", "AcquisitionTime": None, "ContentTime": None}
            dataset = dicom_factory.dataset_of(4 * t + z, expected[t, z], **place, **times)
            dicom_factory.save(dataset, _made(path) / f"{t}{z}.dcm")
        dicom_factory.write_series(path / "cine", 2, SeriesInstanceUID=f"{dicom_factory.SERIES}.5")
    else:
        grid = Grid((4, 5, 7), (3.0, 1.2, 2.5), (0.0, 20.0, 10.0))
        form = {"nii": "nifti", "zarr": "ome-zarr"}[kind]
        source = ImageSeries(expected[:, None], grid, times_s=(0, 0.04, 0.08), source={"format": form, "path": "lung.nii"})
        path = write_series(tmp_path, "lung", source, (volume[None] for volume in expected))
    layer, *others = drop(path)
    assert len(others) == (kind == "dicom")
    np.testing.assert_array_equal(layer.data, expected)
    assert layer.axis_labels == ("time", "z", "y", "x")
    np.testing.assert_allclose(layer.scale, (0.04, 3.0, 1.2, 2.5), rtol=1e-5)
    np.testing.assert_allclose(layer.translate, (0, 0, 20, 10), atol=1e-5)
    assert layer.metadata[METADATA_KEY]["series"][0]["source"]["asked"]["volumes"] is True


def test_how_a_stack_is_read_is_said(viewer: Any, drop: Callable[..., list[Any]], told: list[str], tmp_path: Path) -> None:
    """By the rule of the command, without a question, and with the way to change it."""
    pixels = np.stack([np.stack([dicom_factory.pixels_of(10 * t + z) for z in range(5)]) for t in range(3)])
    written = []
    for name, apart in (("near", 3.0), ("far", 9.0)):
        grid = Grid((5, 5, 7), (apart, 1.2, 2.5))
        source = ImageSeries(pixels[:, None], grid, times_s=(0, 0.04, 0.08), source={"format": "nifti", "path": "lung.nii"})
        written.append(write_series(tmp_path, name, source, (volume[None] for volume in pixels)))
    (near,) = drop(written[0])
    assert near.axis_labels == ("time", "z", "y", "x")
    viewer.layers.clear()
    (far,) = drop(written[1])
    assert far.axis_labels == ("slice", "time", "y", "x")
    assert told[0].startswith("near: read as a volume: 5 slices 3 mm apart")
    assert told[1].startswith("far: read slice by slice: 5 slices 9 mm apart")
    assert all("'Taken as' in the Align widget" in text and "--" not in text for text in told)


def _unique(folder: Path) -> None:
    """Give every file its own SOPInstanceUID."""
    import pydicom

    for k, file in enumerate(sorted(folder.rglob("*.dcm"))):
        dataset = pydicom.dcmread(file)
        dataset.SOPInstanceUID = f"{dicom_factory.SERIES}.8.{k + 1}"
        dicom_factory.save(dataset, file)


def _study(folder: Path) -> Path:
    """Two cines and a localiser in one folder."""
    for k, (count, shape) in enumerate([(4, (5, 7)), (1, (5, 7)), (3, (6, 9))]):
        place, uid = _made(folder / f"s{k}"), f"{dicom_factory.SERIES}.{k + 1}"
        for t in range(count):
            dataset = dicom_factory.dataset_of(t, dicom_factory.pixels_of(t, shape), SeriesInstanceUID=uid)
            dicom_factory.save(dataset, place / f"{t}.dcm")
    _unique(folder)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_every_series_of_a_folder_is_shown_and_single_images_are_named(
    drop: Callable[..., list[Any]], told: list[str], tmp_path: Path
) -> None:
    layers = drop(_study(tmp_path / "study"))
    assert sorted((layer.name, layer.data.shape) for layer in layers) == [
        ("study series 1", (4, 5, 7)),
        ("study series 3", (3, 6, 9)),
    ]
    assert told == ["study: 1 of 3 series hold single images only and are not shown"]


def test_a_series_that_cannot_be_read_does_not_hide_the_others(
    drop: Callable[..., list[Any]], told: list[str], tmp_path: Path
) -> None:
    folder = _study(tmp_path / "study")
    import pydicom

    for file in (folder / "s2").iterdir():
        dataset = pydicom.dcmread(file)
        for tag in ("TriggerTime", "AcquisitionTime", "ContentTime", "InstanceNumber", "TemporalPositionIdentifier"):
            if tag in dataset:
                delattr(dataset, tag)
        dicom_factory.save(dataset, file)
    (layer,) = drop(folder)
    assert layer.data.shape == (4, 5, 7)
    assert any("Series 3 of 3 is not shown" in text and "nothing in the headers orders" in text for text in told)


def test_damaged_dicom_frame_is_left_out_and_named(drop: Callable[..., list[Any]], told: list[str], tmp_path: Path) -> None:
    files = dicom_factory.write_series(tmp_path / "cine", 5)
    files[2].write_bytes(files[2].read_bytes()[:-20])
    (layer,) = drop(tmp_path / "cine")
    assert layer.data.shape == (4, 5, 7)
    np.testing.assert_array_equal(np.asarray(layer.data)[2], dicom_factory.pixels_of(3))
    assert len(told) == 1
    assert "02.dcm" in told[0]


def test_one_dicom_file_stands_for_its_series_and_many_for_one(viewer: Any, drop: Callable[..., list[Any]], tmp_path: Path) -> None:
    files = dicom_factory.write_series(tmp_path / "cine", 5)
    (layer,) = drop(*files[1:4])
    assert layer.data.shape == (5, 5, 7)
    viewer.layers.clear()
    (layer,) = drop(files[3])
    assert layer.data.shape == (5, 5, 7)


@pytest.mark.parametrize(
    ("window", "limits"),
    [(("40", "400"), (-160, 240)), ((["300", "40"], ["100", "9"]), (250, 350)), (("5", "0"), None), ((None, None), None)],
)
def test_a_dicom_series_is_shown_with_the_window_of_its_file(
    viewer: Any, tmp_path: Path, window: tuple[Any, Any], limits: tuple[float, float] | None
) -> None:
    for k in range(3):
        tags = {} if window[0] is None else {"WindowCenter": window[0], "WindowWidth": window[1]}
        dicom_factory.save(dicom_factory.dataset_of(k, **tags), _made(tmp_path / "cine") / f"{k}.dcm")
    (layer,) = viewer.open(tmp_path / "cine", plugin=PLUGIN)
    low, high = np.percentile(np.asarray(layer.data), (0.5, 99.5))
    assert tuple(layer.contrast_limits) == pytest.approx(limits or (low, high))


def test_dicom_files_opened_as_a_stack_are_their_folder(viewer: Any, tmp_path: Path) -> None:
    files = dicom_factory.write_series(tmp_path / "cine", 4)
    (layer,) = viewer.open(files, stack=True, plugin=PLUGIN)
    assert layer.data.shape == (4, 5, 7)


@pytest.mark.parametrize("name", ["broken.nii", "broken.mha", "broken.tif", "broken.gif", "broken.dcm", "broken.npz"])
def test_damaged_file_is_told_in_one_plain_line(drop: Callable[..., list[Any]], told: list[str], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\0" * 400)
    assert drop(tmp_path / name) == []
    (text,) = told
    assert name in text
    assert "Traceback" not in text
    assert "\n" not in text


def test_damaged_file_with_a_remembered_reader_is_told_too(drop: Callable[..., list[Any]], told: list[str], tmp_path: Path) -> None:
    get_settings().plugins.extension2reader = {"*.nii": PLUGIN}
    (tmp_path / "broken.nii").write_bytes(b"\0" * 400)
    assert drop(tmp_path / "broken.nii", answer="nobody is asked") == []
    assert len(told) == 1
    assert "broken.nii" in told[0]


def test_in_a_script_a_damaged_file_is_an_error(viewer: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.nii").write_bytes(b"\0" * 400)
    with pytest.raises(ReadError, match=r"broken\.nii"):
        viewer.open(tmp_path / "broken.nii", plugin=PLUGIN)


def test_options_of_the_command_line_are_called_so(drop: Callable[..., list[Any]], told: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", frames=np.zeros((2, 2, 3, 4, 5, 6)))
    assert drop(tmp_path / "odd.npz") == []
    assert told[0].startswith("Not opened, as what its axes mean is not known")
    assert "odd.npz" in told[0]


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        ("a.npz", (3, 2, 8, 9), "TZYX"),
        ("a.npz", (2, 3, 8, 9), "ZTYX"),
        ("a.mha", (4, 8, 9), "TYX"),
        ("a.nii.gz", (4, 8, 9), "TYX"),
    ],
)
def test_what_axes_mean_is_asked_in_the_window(
    drop: Callable[..., list[Any]], told: list[str], tmp_path: Path, name: str, shape: tuple[int, ...], axes: str
) -> None:
    import SimpleITK

    data = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    file = tmp_path / name
    np.savez(file, frames=data) if name.endswith("npz") else SimpleITK.WriteImage(SimpleITK.GetImageFromArray(data), str(file))
    (layer,) = drop(file, meaning=axes)
    np.testing.assert_array_equal(np.asarray(layer.data), data.swapaxes(0, 1) if axes == "TZYX" else data)
    assert layer_to_series(layer)[0].source["asked"] == {"axes": axes}, "so that the result can be opened again"
    assert not [text for text in told if "--axes" in text]


def test_a_message_begins_with_its_reason(drop: Callable[..., list[Any]], told: list[str], tmp_path: Path) -> None:
    folder = _made(tmp_path / "a rather long name of a folder" / "and another one")
    (folder / "broken.nii").write_bytes(b"\0" * 400)
    drop(folder / "broken.nii")
    assert str(tmp_path) not in told[0][:80]
    assert told[0][0].isupper()
    assert "broken.nii" in told[0]


def test_single_images_are_shown_with_a_word_that_nothing_moves(
    drop: Callable[..., list[Any]], told: list[str], tmp_path: Path
) -> None:
    folder = _made(tmp_path / "volume")
    for k in range(3):
        place = {"ImageOrientationPatient": dicom_factory.AXIAL, "ImagePositionPatient": [0.0, 0.0, 5.0 * k]}
        dicom_factory.save(dicom_factory.dataset_of(k, **place), folder / f"{k}.dcm")
    (layer,) = drop(folder)
    assert layer.data.shape == (1, 3, 5, 7)
    assert len(told) == 1
    assert "'volume'" in told[0] or "volume:" in told[0]
    assert "nothing to align" in told[0]


def test_foreign_folder_is_explained_in_a_window_and_declined_in_a_script(
    drop: Callable[..., list[Any]], told: list[str], tmp_path: Path
) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "notes.txt").write_text("no image" * 100)
    assert drop(tmp_path / "papers") == []
    assert "No readable DICOM image" in told[0]
    assert get_reader(str(tmp_path / "papers")) is None


def test_an_unreadable_file_does_not_hide_the_dicom_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "gone.dcm")
    dicom_factory.write_series(tmp_path / "cine", 2)
    assert get_reader(str(tmp_path)) is not None


def test_npe2_finds_one_reader_of_ours_for_every_format() -> None:
    manager = npe2.PluginManager.instance()
    for name in ("a.dcm", "a.IMA", "a.nii", "a.v1.nii.gz", "a.mha", "a.MHD", "a.zarr", "a.npz", "a.gif", "a.TIF", "a.ome.tiff"):
        ours = [reader for reader in manager.iter_compatible_readers([name]) if reader.plugin_name == PLUGIN]
        assert len(ours) == 1, name


def test_real_dicom_folder_becomes_one_layer_of_slices(viewer: Any, real_data: Path) -> None:
    folder = real_data / "sunnybrook-cine" / "final_data" / "dicoms" / "SCD0000301"
    if not folder.is_dir():
        pytest.skip("the DICOM series is not here")
    layers = viewer.open(str(folder), plugin=PLUGIN)
    assert layers
    assert {layer.data.shape[-3:] for layer in layers} == {(20, 256, 256)}
    for layer in layers:
        np.testing.assert_allclose(layer.scale[-2:], (1.289, 1.289), atol=1e-3)
        assert layer.axis_labels[-3:] == ("time", "y", "x")
