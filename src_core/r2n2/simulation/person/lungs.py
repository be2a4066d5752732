"""The lungs: tissue, fissures, trees of vessels and airways, and the places by which they can be recognised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r2n2.simulation.person.anatomy import LOBES, PersonAnatomy, PersonLabel
from r2n2.simulation.person.canvas import Canvas
from r2n2.simulation.person.tissues import Tones
from r2n2.simulation.person.trees import Tree, fill_territory
from r2n2.simulation.texture import FloatArray

__all__ = ["LungTrees", "grow_lung_trees", "paint_lung_trees", "paint_lungs"]

_VOLUME_A_POINT_MM3 = 950.0
_END_MM = 0.57
_VEINS_SHARE = 0.7
_AIRWAYS_A_LOBE = 70
_AIRWAY_END_MM = 0.95
_SMALLEST_AIRWAY_MM = 1.25
_THIN_MM = 1.6
_AIRWAY_SHIFT_MM = np.array([1.0, 6.0, 0.0])
_HILA = ((10.0, 6.0, -36.0), (17.0, 8.0, 37.0))
_VEIN_ROOTS = ((-6.0, 10.0, -28.0), (-4.0, 12.0, 30.0))


@dataclass(frozen=True, eq=False)
class LungTrees:
    """What branches in the lungs, as tubes (N, 8).

    Parameters
    ----------
    arteries, veins, airways
        z, y, x, radius in mm of both ends.
    branchings
        Of the arteries and veins in each of ``LOBES``: (M, 4) z, y, x and radius.
    """

    arteries: FloatArray
    veins: FloatArray
    airways: FloatArray
    branchings: tuple[FloatArray, ...]


def grow_lung_trees(rng: np.random.Generator, anatomy: PersonAnatomy) -> LungTrees:
    """Grow the trees of all lobes."""
    low, high = np.array([-170.0, -100.0, -140.0]), np.array([145.0, 110.0, 140.0])
    points = rng.uniform(low, high, (int(np.prod(high - low) / _VOLUME_A_POINT_MM3), 3))
    points = points[_well_inside(anatomy, points)]
    lobes = anatomy.lobe(*points.T)
    arteries: list[FloatArray] = []
    veins: list[FloatArray] = []
    airways: list[FloatArray] = []
    branchings: list[FloatArray] = []
    for number in range(len(LOBES)):
        fed = points[lobes == number]
        side = int(number > 2)
        here = []
        for roots, count, kept in ((_HILA, len(fed), arteries), (_VEIN_ROOTS, int(_VEINS_SHARE * len(fed)), veins)):
            root = np.array(roots[side]) + rng.normal(0, 2.0, 3)
            tree = fill_territory(rng, root, rng.permutation(fed)[:count], _END_MM)
            kept.append(tree.segments)
            here.append(tree.branchings)
        tree = fill_territory(rng, np.array(_HILA[side]) + _AIRWAY_SHIFT_MM, rng.permutation(fed)[:_AIRWAYS_A_LOBE], _AIRWAY_END_MM)
        airways.append(_thick(tree))
        branchings.append(np.concatenate(here))
    return LungTrees(np.concatenate(arteries), np.concatenate(veins), np.concatenate(airways), tuple(branchings))


def paint_lungs(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones) -> None:
    """Tissue over everything between chest wall, diaphragm and mediastinum, with its fissures."""
    z, y, x = canvas.z, canvas.y, canvas.x
    cover = canvas.soft(anatomy.lung_depth_mm(z, y, x))
    # Denser where it lies below: the person lies on the back.
    grain = 0.10 * canvas.noise("fine") + 0.08 * canvas.noise("middle")
    tissue = (tones["lung"] - tones["air"]) * np.clip(1 + 0.0026 * y + grain, 0.4, 2.0)
    on_left = np.broadcast_to(x > 0, cover.shape)
    labels = np.where(on_left, PersonLabel.LEFT_LUNG, PersonLabel.RIGHT_LUNG).astype(np.uint8)
    canvas.paint(cover, tones["air"] + tissue, share=tissue)
    inside = cover > 0.5
    canvas.labels[inside] = labels[inside]
    oblique = anatomy.above_fissure_mm(z, y, x)
    horizontal = canvas.sheet(anatomy.above_horizontal_mm(z, y, x), 1.3) * (x < 0) * (oblique > 0)
    sheets = np.maximum(canvas.sheet(oblique, 1.3), horizontal) * cover
    canvas.paint(sheets, tones["fissure"], share=tones["fissure"] - tones["air"])


def paint_lung_trees(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones, trees: LungTrees) -> None:
    """Airways and vessels, in the lungs and at the hila."""
    cover = canvas.soft(anatomy.lung_depth_mm(canvas.z, canvas.y, canvas.x))
    z, x = canvas.z, canvas.x
    reach = np.clip(cover + canvas.soft(np.broadcast_to(30.0 - abs(z - 8.0), cover.shape)) * canvas.soft(62.0 - abs(x)), 0, 1)
    canvas.paint(canvas.tubes(trees.airways, 1.1) * reach, tones["airway wall"])
    vessels = np.concatenate((trees.arteries, trees.veins))
    thin = vessels[:, 3] < _THIN_MM
    # What a scan cannot tell from the tissue around it thins with it; blood in thick vessels does not.
    canvas.paint(canvas.tubes(vessels[thin]) * cover, tones["blood"], share=tones["blood"] - tones["air"])
    canvas.paint(canvas.tubes(vessels[~thin]) * reach, tones["blood"])
    canvas.paint(canvas.tubes(trees.airways) * reach, tones["airway"])


def _well_inside(anatomy: PersonAnatomy, points: FloatArray) -> FloatArray:
    """Whether points (N, 3) lie in a lung, away from its edges and fissures."""
    z, y, x = points.T
    u, v = anatomy.cavity.section(z, y, x)
    good = (anatomy.lung_depth_mm(z, y, x) > 3.0) & (anatomy.cavity.depth_mm(z, u, v) > 3.0)
    local = anatomy.heart.local(z, y, x)
    good &= sum(q * q for q in local) > 0.95
    right_upper = (x < 0) & (anatomy.above_fissure_mm(z, y, x) > 0)
    good &= abs(anatomy.above_fissure_mm(z, y, x)) > 2.0
    return np.asarray(good & ~(right_upper & (abs(anatomy.above_horizontal_mm(z, y, x)) < 2.0)))


def _thick(tree: Tree) -> FloatArray:
    return tree.segments[tree.segments[:, 3] > _SMALLEST_AIRWAY_MM]
