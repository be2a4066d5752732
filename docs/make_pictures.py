"""Draw docs/images/*.png from a simulated breathing series: the pictures of the README and the documentation.

usage: python docs/make_pictures.py
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from r2n2.config import RegistrationConfig
from r2n2.registration import register_series
from r2n2.report.data import gather
from r2n2.report.figures import difference_figure, sequence_figure, time_figure
from r2n2.report.page import render_report
from r2n2.results.writer import ResultWriter
from r2n2.simulation import ThoraxConfig, thorax_series

IMAGES = Path(__file__).with_name("images")


def save(name: str, uri: str) -> None:
    """Write the picture of a data URI."""
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / name).write_bytes(base64.b64decode(uri.partition(",")[2]))


def main() -> None:
    """Simulate, register, draw."""
    truth = thorax_series(ThoraxConfig(seed=7))
    config = RegistrationConfig(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        with ResultWriter(Path(folder) / "result", truth.series, config, landmarks=truth.landmarks) as writer:
            for progress in register_series(truth.series, config):
                for result in progress.finished:
                    writer.add(result)
            registered = writer.finish(render_report)
        data = gather(truth.series, registered)
        example = data.examples[0]
        save("sequence.png", sequence_figure(data, example, registered.transforms[example.frame]))
        save("difference.png", difference_figure(data))
        save("time.png", time_figure(data, truth.series.times_s))


if __name__ == "__main__":
    main()
