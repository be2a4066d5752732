"""Which plane of a volume is on the screen: its axis, its voxel, and whether the volume is seen in space instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_r2n2.layers.place import Place

__all__ = ["ShownPlane"]


@dataclass(frozen=True)
class ShownPlane:
    """A plane of voxels of a volume, or all of it.

    Parameters
    ----------
    across
        Axis that is not seen: 0, 1, 2 for z, y, x.
    index
        Voxel along it.
    in_space
        Whether the 3D view shows the whole volume; the plane is then the one that its slider stood at.
    """

    across: int
    index: int
    in_space: bool = False

    @classmethod
    def of(cls, dims: Any, place: Place, shape: tuple[int, ...]) -> ShownPlane | None:
        """Of a viewer's dims; None where the screen shows another axis than z, y and x, such as time.

        Parameters
        ----------
        place
            Where the layer of the volumes lies.
        shape
            Voxels along z, y, x.
        """
        first = dims.ndim - 3
        seen = {axis - first for axis in dims.displayed}
        if first < 0 or not seen <= {0, 1, 2}:
            return None
        in_space = len(seen) == 3
        across = 0 if in_space else ({0, 1, 2} - seen).pop()
        at = (dims.point[first + across] - place.translate[across - 3]) / place.scale[across - 3]
        return cls(across, min(max(round(at), 0), shape[across] - 1), in_space)

    @property
    def axes(self) -> tuple[int, int]:
        """The two axes that lie in the plane."""
        first, second = (axis for axis in range(3) if axis != self.across)
        return first, second
