"""Heart, great vessels, windpipe and gullet."""

from __future__ import annotations

import itertools

import numpy as np

from r2n2.simulation.person.anatomy import PersonAnatomy, PersonLabel
from r2n2.simulation.person.canvas import Canvas
from r2n2.simulation.person.cavity import Cavity
from r2n2.simulation.person.tissues import Tones
from r2n2.simulation.texture import FloatArray

__all__ = ["paint_airways", "paint_great_vessels", "paint_heart", "paint_sleeves"]

Tube = tuple[float, ...]

# z, y, x, radius of every bend, in mm of the body.
_AORTA = (
    (-8.0, -30.0, 4.0, 14.0),
    (14.0, -40.0, -6.0, 15.0),
    (40.0, -38.0, -10.0, 14.5),
    (58.0, -22.0, -4.0, 13.5),
    (65.0, -4.0, 6.0, 13.0),
    (60.0, 18.0, 15.0, 12.5),
    (46.0, 28.0, 20.0, 12.0),
)
_PULMONARY = (
    ((-2.0, -58.0, 12.0, 13.0), (18.0, -48.0, 18.0, 14.0), (32.0, -26.0, 20.0, 13.0)),
    ((30.0, -26.0, 18.0, 11.5), (22.0, -8.0, -6.0, 10.0), (14.0, 2.0, -36.0, 8.5)),
    ((32.0, -26.0, 20.0, 12.0), (29.0, -6.0, 32.0, 10.0), (18.0, 6.0, 38.0, 8.5)),
)
_VEINS = (
    ((118.0, -6.0, -16.0, 8.0), (72.0, -24.0, -24.0, 9.0), (30.0, -28.0, -27.0, 10.0), (0.0, -24.0, -28.0, 11.0)),
    ((76.0, -26.0, -22.0, 7.0), (88.0, -36.0, 6.0, 6.5), (108.0, -18.0, 30.0, 6.5)),
    ((-28.0, -8.0, -24.0, 12.0), (-52.0, -2.0, -22.0, 11.5), (-90.0, 8.0, -20.0, 11.0), (-180.0, 12.0, -16.0, 11.0)),
)
_BRANCHES = (
    ((70.0, -12.0, -2.0, 6.5), (92.0, -10.0, -12.0, 6.0), (130.0, 2.0, -26.0, 5.0)),
    ((70.0, -4.0, 6.0, 4.5), (100.0, 0.0, 14.0, 4.2), (190.0, 4.0, 26.0, 4.2)),
    ((68.0, 8.0, 13.0, 5.0), (98.0, 14.0, 24.0, 5.0), (122.0, 6.0, 50.0, 4.5)),
    ((130.0, 2.0, -26.0, 4.5), (190.0, 4.0, -26.0, 4.2)),
    ((108.0, -18.0, 30.0, 6.0), (190.0, -2.0, 36.0, 6.0)),
    ((118.0, -6.0, -18.0, 6.5), (190.0, -2.0, -36.0, 6.5)),
)
_BRONCHI = (
    ((42.0, 12.0, 0.0, 7.5), (30.0, 12.0, -14.0, 6.8), (12.0, 13.0, -34.0, 5.6), (4.0, 13.0, -40.0, 4.5)),
    ((42.0, 12.0, 0.0, 7.0), (32.0, 14.0, 16.0, 6.0), (18.0, 15.0, 36.0, 5.2), (8.0, 15.0, 44.0, 4.2)),
)
# Chambers: middle, half axes, whether along the heart's axes, tissue.
_SAC_GROWTH = 5.0


def _line(bends: tuple[tuple[float, ...], ...], grow_mm: float = 0.0) -> list[Tube]:
    grown = [(*bend[:3], bend[3] + grow_mm) for bend in bends]
    return [(*a, *b) for a, b in itertools.pairwise(grown)]


def _windpipe(cavity: Cavity) -> tuple[tuple[float, ...], ...]:
    heights = (205.0, 150.0, 100.0, 60.0)
    bends = tuple((z, float(cavity.spine_front(np.asarray(z))) - (21.0 if z < 120 else 24.0), 0.0, 8.6) for z in heights)
    return (*bends, (42.0, 14.0, 0.0, 8.4))


def _descending(cavity: Cavity) -> tuple[tuple[float, ...], ...]:
    heights = (46.0, 20.0, -20.0, -60.0, -110.0, -160.0, -260.0)
    sideways = (20.0, 21.0, 19.0, 14.0, 8.0, 7.0, 6.0)
    fronts = (float(cavity.spine_front(np.asarray(z))) for z in heights)
    return tuple((z, front - 11.0, x, 11.5) for z, front, x in zip(heights, fronts, sideways, strict=True))


def paint_sleeves(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones) -> None:
    """The fat around the great vessels and the windpipe, which gives the mediastinum its outline."""
    tubes = [*_line(_AORTA), *_line(_descending(anatomy.cavity)), *_line(_BRONCHI[0][:3]), *_line(_BRONCHI[1][:3])]
    for bends in (*_PULMONARY, *_VEINS, *_BRANCHES):
        tubes += _line(bends)
    cover = np.maximum(canvas.tubes(tubes, 4.0), canvas.tubes(_line(_windpipe(anatomy.cavity)), 6.0))
    cover *= canvas.soft(canvas.z + 60.0)
    canvas.paint(cover, tones["fat"] + tones.grain * canvas.noise("middle"), label=PersonLabel.BODY)


def paint_great_vessels(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones) -> None:
    """Aorta, its branches, pulmonary trunk, venae cavae, each with a thin wall."""
    arteries = [*_line(_AORTA), *_line((_AORTA[-1], *_descending(anatomy.cavity)[1:]))]
    for bends in (*_PULMONARY, *_BRANCHES[:4]):
        arteries += _line(bends)
    veins = [tube for bends in (*_VEINS, *_BRANCHES[4:]) for tube in _line(bends)]
    canvas.paint(canvas.tubes([*arteries, *veins], 1.4), tones["muscle"])
    canvas.paint(canvas.tubes(veins), tones["vein"] + tones.grain * canvas.noise("middle"))
    canvas.paint(canvas.tubes(arteries), tones["blood"] + tones.grain * canvas.noise("middle"))


def paint_airways(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones) -> None:
    """Windpipe, main bronchi and the gullet behind them."""
    tubes = [*_line(_windpipe(anatomy.cavity)), *_line(_BRONCHI[0]), *_line(_BRONCHI[1])]
    gullet = []
    for z, x in ((205.0, 3.0), (120.0, 5.0), (60.0, 4.0), (0.0, 5.0), (-50.0, 12.0), (-72.0, 26.0), (-84.0, 44.0)):
        gullet.append((z, float(anatomy.cavity.spine_front(np.asarray(z))) - (7.0 if z > 0 else 14.0), x, 6.0))
    canvas.paint(canvas.tubes(_line(tuple(gullet))), tones["oesophagus"])
    canvas.paint(canvas.tubes(tubes, 1.6), tones["muscle"])
    canvas.paint(canvas.tubes(tubes), tones["airway"])


def paint_heart(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones) -> None:
    """Sac with fat, muscle, and the four chambers: a thick left ventricle, a thin right one that embraces it, and the atria."""
    heart, scale = anatomy.heart, anatomy.heart_scale
    axes = np.array(heart.axes)
    middle = np.array(heart.centre_mm)

    def place(along: float, right_front: float, third: float) -> FloatArray:
        return middle + scale * (np.array([along, right_front, third]) @ axes)

    def sized(*radii: float) -> FloatArray:
        return np.array(radii) * scale

    blood = tones["blood"] + 1.5 * tones.grain * canvas.noise("middle")
    vein = tones["vein"] + 1.5 * tones.grain * canvas.noise("middle")
    muscle = tones["myocardium"] + tones.grain * canvas.noise("fine")
    left, right = place(6.0, -13.0, 0.0), place(2.0, 9.0, 0.0)
    left_atrium, right_atrium = place(-38.0, -21.0, 4.0), place(-30.0, 20.0, -22.0)
    outflow = place(-20.0, 22.0, 18.0)
    bodies = (
        (left, sized(45, 31, 31)),
        (right, sized(42, 34, 37)),
        (left_atrium, sized(20, 21, 31)),
        (right_atrium, sized(25, 19, 26)),
        (outflow, sized(26, 16, 16)),
    )
    # The fat in the angles between heart, diaphragm and chest wall.
    for pad in ((-56.0, -62.0, 34.0), (-54.0, -56.0, -22.0)):
        canvas.fill(pad, (15.0, 22.0, 30.0), tones["fat"], label=PersonLabel.BODY)
    for grow, tone in ((_SAC_GROWTH, tones["pericardium"]), (_SAC_GROWTH - 1.5, tones["fat"]), (0.0, muscle)):
        for centre, radii in bodies:
            label = PersonLabel.BODY if grow else PersonLabel.HEART
            canvas.fill(centre, radii + grow, tone, axes, label=label)
    canvas.fill(right_atrium, sized(22.5, 16.5, 23.5), vein, axes)
    canvas.fill(left_atrium, sized(17.5, 18.5, 28.5), blood, axes)
    canvas.fill(outflow, sized(23.5, 13.5, 13.5), vein, axes)
    canvas.fill(right, sized(38.5, 30.5, 33.5), vein, axes)
    canvas.fill(left, sized(45, 30, 30), muscle, axes)
    canvas.fill(place(2.0, -13.0, 0.0), sized(37, 19.5, 19.5), blood, axes)
    for turn in (0.6, 3.4):  # papillary muscles
        offset = 13.0 * np.array([np.cos(turn), np.sin(turn)])
        canvas.fill(place(10.0, -13.0 + offset[0], offset[1]), sized(13, 4.5, 4.5), muscle, axes)
    valve = place(-24.0, -14.0, -1.0)
    canvas.fill(valve, sized(9, 14, 14), blood, axes)
