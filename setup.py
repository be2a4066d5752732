"""Packaging of the fixed top-level layout: one distribution, the core from src_core/, the plugin and the resources beside it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "src_core/r2n2/__init__.py").read_text())[1]

PACKAGE_DIR = {
    "napari_r2n2": "napari_r2n2",
    "r2n2": "src_core/r2n2",
    "r2n2.resources": "resources",
    "r2n2.resources.icons": "resources/icons",
}
for _top in ("napari_r2n2", "r2n2"):
    _folder = ROOT / PACKAGE_DIR[_top]
    for _init in sorted(_folder.glob("**/__init__.py")):
        _inside = _init.parent.relative_to(_folder).parts
        PACKAGE_DIR[".".join((_top, *_inside))] = _init.parent.relative_to(ROOT).as_posix()


class BuildWithManifest(build_py):
    """Bring the top-level napari.yaml, the one source of the manifest, into the plugin package where npe2 looks for it."""

    def run(self) -> None:
        inside = ROOT / "napari_r2n2" / "napari.yaml"
        if self.editable_mode:
            inside.unlink(missing_ok=True)
            try:
                inside.symlink_to(os.path.join("..", "napari.yaml"))
            except OSError:
                shutil.copyfile(ROOT / "napari.yaml", inside)
            super().run()
            return
        super().run()
        target = Path(self.build_lib) / "napari_r2n2" / "napari.yaml"
        target.unlink(missing_ok=True)
        shutil.copyfile(ROOT / "napari.yaml", target)


CORE = [
    "torch>=2.10",
    "numpy>=2.0",
    "scikit-image>=0.25",
    "pydantic>=2.10",
    "typer>=0.15",
    "rich>=13.9",
    "pydicom>=3.0.2",
    "pylibjpeg>=2.0",
    "pylibjpeg-openjpeg>=2.3",
    "pylibjpeg-rle>=2.0",
    "nibabel>=5.3",
    "tifffile>=2025.1.10",
    "pynrrd>=1.1",
    "h5py>=3.12",
    "scipy>=1.14",
    "imagecodecs>=2025.8.2",
    "pillow>=11",
    "zarr>=3.0",
    "ngff-zarr>=0.20",
    "SimpleITK>=2.4",
    "safetensors>=0.5",
    "matplotlib>=3.10",
    "jinja2>=3.1",
    "filelock>=3.20",
    "platformdirs>=4",
    "tomli-w>=1.1",
]
PLUGIN = ["napari>=0.9", "npe2>=0.8", "magicgui>=0.10", "psygnal>=0.11", "qtpy>=2.4", "superqt>=0.7"]
TEST = ["pytest>=8", "opencv-python-headless>=4.11", "hypothesis>=6.130", "ruff", "mypy", "build", "psutil"]
BATCH = ["dask>=2025.1", "distributed>=2025.1"]

setup(
    name="napari-r2n2",
    version=VERSION,
    description="Align every frame of a moving image series by a short, readable sequence of local Gaussian deformations",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author="napari-r2n2 developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=list(PACKAGE_DIR),
    package_dir=PACKAGE_DIR,
    include_package_data=False,
    package_data={
        "napari_r2n2": ["napari.yaml"],
        "r2n2": ["py.typed"],
        "r2n2.report": ["templates/*"],
        "r2n2.resources": ["weights/*", "uncertainty/*"],
        "r2n2.resources.icons": ["*.svg"],
    },
    install_requires=CORE,
    extras_require={
        "plugin": PLUGIN,
        "all": [*PLUGIN, "napari[all]>=0.9"],
        "training": ["tensorboard>=2.18"],
        "benchmark": ["itk-elastix>=0.21", "antspyx>=0.5"],
        "video": ["opencv-python-headless>=4.11"],
        "batch": BATCH,
        "test": [*TEST, *BATCH],
        "docs": ["sphinx>=8", "myst-parser>=4", "furo"],
    },
    entry_points={
        "console_scripts": ["r2n2 = r2n2.cli:main"],
        "napari.manifest": ["napari-r2n2 = napari_r2n2:napari.yaml"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: napari",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    cmdclass={"build_py": BuildWithManifest},
)
