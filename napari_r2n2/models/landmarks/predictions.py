"""Where a registration expects the landmarks of the reference, in pixels; what was computed once is kept until it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_r2n2.models.session import FrameKey, Session

__all__ = ["Predictions"]


class Predictions:
    """p + f(p) of every landmark and frame.

    Evaluating all Gaussians of all frames takes longer than a step of a drag; a dragged point changes one landmark only.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kept: dict[FrameKey, dict[tuple[float, ...], tuple[float, ...]]] = {}

    def forget(self, key: FrameKey | None = None) -> None:
        """The transform of a frame changed, or those of all."""
        if key is None:
            self._kept.clear()
        else:
            self._kept.pop(key, None)

    def at(self, key: FrameKey, points: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """(P, n) positions in the frame of (P, n) positions (z,) y, x in the reference; None while it is not registered."""
        if key not in self._session.results:
            return None
        known = self._kept.get(key, {})
        wanted = [tuple(point) for point in points.tolist()]
        new = [point for point in dict.fromkeys(wanted) if point not in known]
        if new:
            known = {point: known[point] for point in wanted if point in known}
            known.update(zip(new, self._compute(key, new), strict=True))
            self._kept[key] = known
        return np.array([known[point] for point in wanted], dtype=np.float64).reshape(-1, points.shape[1])

    def _compute(self, key: FrameKey, points: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        import torch

        from r2n2.geometry import Space
        from r2n2.transform import map_points

        transform = self._session.transform(key)
        assert transform is not None
        return [tuple(point) for point in map_points(transform, torch.tensor(points, dtype=torch.float64), Space.INDEX).tolist()]
