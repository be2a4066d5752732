"""The organs painted on a canvas, each from the outlines of a person; numbers are anatomical mm and signal relative to blood."""

from __future__ import annotations

import itertools

import numpy as np

from r2n2.simulation.anatomy import Anatomy, wall_mm
from r2n2.simulation.painting import Blood, Canvas
from r2n2.simulation.texture import FloatArray, smooth_outline

__all__ = ["draw_abdomen", "draw_bones", "draw_heart_and_vessels", "draw_neck", "draw_wall"]

_BEFORE_SPINE = 0.3  # position from which on the spine lies behind the slice
_HEIGHTS = (-95.0, -60.0, -20.0, 20.0, 60.0, 100.0, 150.0, 200.0, 260.0, 340.0, 440.0)


def _mirrored(side: list[tuple[float, float]]) -> FloatArray:
    """Closed outline of a shape that is the same on both sides, from the corners of its left half, top to bottom."""
    return smooth_outline([*side, *((y, -x) for y, x in reversed(side))])


def _trunk(anatomy: Anatomy, margin: float) -> FloatArray:
    inner = wall_mm(np.array(_HEIGHTS), anatomy.wall_half_width_mm)
    sides = [(y, float(w) + margin + 4 * np.sin(y / 70)) for y, w in zip(_HEIGHTS, inner, strict=True)]
    m = margin
    shoulder = [(-420, 62 + m / 2), (-215, 50 + m / 2), (-186, 58 + m / 2), (-168 - m / 3, 92), (-160 - m / 3, 132)]
    return _mirrored([*shoulder, (-148 - m / 3, 168 + m / 3), (-120, 176 + m / 3), (-98, 150 + m / 3), *sides[1:]])


def draw_wall(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Skin, fat, muscle layers and arms."""
    raster, tone = canvas.raster, anatomy.brightness
    rows, columns = raster.axes()
    muscle_edge, skin_edge = 7 + anatomy.muscle_mm, 7 + anatomy.muscle_mm + anatomy.fat_mm
    muscle = 0.26 * tone["muscle"]
    septa = np.clip(1 - 0.28 * np.exp(-((raster.noise(rng, 9) / 0.16) ** 2)), 0, 1)
    fat = 0.74 * tone["fat"] * septa * (1 + 0.07 * raster.noise(rng, 14))
    fibres = np.sin((rows * 0.55 + np.abs(columns) * 0.9) / 3.2 + 2.2 * raster.noise(rng, 22))
    marbled = np.clip(raster.noise(rng, 8) - 1.25, 0, 1)
    for arm in (-1, 1):
        x = arm * (196 + anatomy.fat_mm / 2)
        bend = [(-150, 186 * arm), (-60, x), (120, x + 6 * arm), (430, x + 20 * arm)]
        for thickness, tissue in ((30 + anatomy.fat_mm / 2, "fat"), (28 - 2.0, "muscle")):
            spine = [(y0, x0, thickness, y1, x1, thickness * 0.9) for (y0, x0), (y1, x1) in itertools.pairwise(bend)]
            cover = raster.tubes(spine)
            canvas.body = np.maximum(canvas.body, cover)
            if tissue == "fat":
                canvas.paint(cover, water=0.0, fat=fat)
            else:
                canvas.paint(cover, water=muscle * (1 + 0.12 * fibres), fat=0.3 * marbled)
        bone = [(y0, x0, 10, y1, x1, 9) for (y0, x0), (y1, x1) in itertools.pairwise(bend[1:])]
        for shrink, value in ((0.0, 0.04), (3.5, 0.5)):
            shaft = np.array(bone, dtype=np.float64)
            shaft[:, (2, 5)] -= shrink
            canvas.paint(raster.tubes(shaft), water=0.04 if value < 0.1 else 0.0, fat=0.0 if value < 0.1 else value)
    skin, trunk = raster.fill(_trunk(anatomy, skin_edge)), raster.fill(_trunk(anatomy, muscle_edge))
    gap = raster.fill(_trunk(anatomy, skin_edge + 2.5)) * (np.broadcast_to(rows, raster.shape) > -72)
    canvas.paint(gap, water=0.0, fat=0.0)
    canvas.body = np.maximum(canvas.body * (1 - gap), skin)
    canvas.paint(skin, water=0.34, fat=0.0)
    canvas.paint(raster.fill(_trunk(anatomy, skin_edge - 1.6)), water=0.0, fat=fat)
    canvas.paint(trunk, water=muscle * (1 + 0.16 * fibres + 0.1 * raster.noise(rng, 6)), fat=0.42 * marbled)
    # A thin sheet of fat between the outer muscles and the ribs.
    for margin, water, fatty in ((9.0, 0.0, 0.5), (7.4, muscle, 0.0)):
        canvas.paint(raster.fill(_trunk(anatomy, margin)) * (np.broadcast_to(rows, raster.shape) > -95), water=water, fat=fatty)


def draw_neck(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Soft tissue between shoulders and lungs, mediastinal fat, and the vessels of neck and arms."""
    raster, tone = canvas.raster, anatomy.brightness
    patches = np.clip(0.5 + 0.9 * raster.noise(rng, 13), 0, 1)
    outlet = raster.fill(smooth_outline([(-200, 0), (-185, 40), (-158, 78), (-140, 110), (-112, 96), (-110, 0)]), 2.0)
    outlet = np.maximum(outlet, outlet[:, ::-1])  # the raster is centred
    canvas.paint(outlet * patches, water=0.0, fat=0.58 * tone["fat"])
    middle = raster.fill(
        smooth_outline([(-170, -34), (-170, 34), (-90, 46), (-20, 62), (70, 84), (82, 0), (66, -66), (0, -52), (-90, -40)])
    )
    patches = np.clip(0.35 + 0.8 * raster.noise(rng, 11), 0, 1)
    canvas.paint(middle, water=0.30 * tone["muscle"], fat=0.0)
    canvas.paint(middle * patches, water=0.05, fat=0.55 * tone["fat"])
    sides = []
    for side in (-1, 1):
        sides += [(-420, 24 * side, 5.5, -165, 25 * side, 5.5), (-165, 25 * side, 5.5, -118, 17 * side, 6.5)]
        sides += [(-132, 20 * side, 5.5, -151, 62 * side, 4.6), (-151, 62 * side, 4.6, -146, 110 * side, 4.2)]
        sides += [(-146, 110 * side, 4.2, -112, 158 * side, 3.6)]
        sides += [(-420, 36 * side, 4.0, -150, 35 * side, 4.6)]
    in_slice = np.clip(0.55 + 0.7 * raster.noise(rng, 36), 0, 1)
    canvas.paint(raster.tubes(sides) * in_slice, water=0.62 * tone["blood"], fat=0.0)
    canvas.airways.append(raster.tubes([(-172, 1, 6.0, -120, 0, 7.6), (-120, 0, 7.6, -64, 3, 7.4), (-64, 3, 7.4, -56, 2, 7.0)]))
    main = [(-59, -1, 6.0, -46, -14, 5.2), (-46, -14, 5.2, -33, -27, 4.2), (-33, -27, 4.2, -18, -36, 2.6)]
    main += [(-59, 5, 5.4, -50, 18, 4.8), (-50, 18, 4.8, -40, 33, 3.8), (-40, 33, 3.8, -28, 43, 2.4)]
    canvas.airways.append(raster.tubes(main))


def draw_bones(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Ribs across the lateral wall, collar bones, heads of the humeri."""
    raster, tone = canvas.raster, anatomy.brightness
    marrow = 0.36 * tone["bone"]
    for side in (-1, 1):
        phase = rng.uniform(-5, 5)
        for y in np.arange(-112, 150, 23.0) + phase:
            half = wall_mm(np.array([y - 1, y, y + 1]), anatomy.wall_half_width_mm)
            slope = float(np.rad2deg(np.arctan2(half[2] - half[0], 2.0)))
            centre = (y, side * (float(half[1]) + 3.6))
            height = 6.6 * rng.uniform(0.85, 1.15)
            canvas.paint(raster.ellipse(centre, (height, 3.6), side * slope), water=0.05, fat=0.0)
            canvas.paint(raster.ellipse(centre, (height - 1.9, 1.9), side * slope), water=0.0, fat=marrow)
        for shrink, water, fat in ((0.0, 0.05, 0.0), (1.8, 0.02, marrow * 1.1)):
            bone = [
                (-152, 66 * side, 5.5 - shrink, -158, 92 * side, 5.0 - shrink),
                (-158, 92 * side, 5.0 - shrink, -163, 118 * side, 6 - shrink),
            ]
            canvas.paint(raster.tubes(bone), water=water, fat=fat)
            head = raster.ellipse((-134, side * 166), (25 - shrink, 20 - shrink), -25 * side, 0.6)
            canvas.paint(head, water=water, fat=fat * 1.5 * (1 + 0.1 * raster.noise(rng, 5)))


def draw_abdomen(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Abdominal fat and bowel, spine, then diaphragm, liver, stomach and spleen."""
    raster, tone, outlines = canvas.raster, anatomy.brightness, anatomy.outlines
    rows, _ = raster.axes()
    half = anatomy.wall_half_width_mm
    sides = [(62.0, 30.0), (66.0, half - 18), (92.0, half - 1), *((y, half - 1.0) for y in (130.0, 200.0, 300.0, 440.0))]
    belly = raster.fill(_mirrored(sides))
    canvas.paint(belly, water=0.04, fat=0.48 * tone["fat"] * (1 + 0.15 * raster.noise(rng, 16)))
    chyme = 1 + 0.15 * raster.noise(rng, 6)
    for _ in range(64):
        y, x = rng.uniform(112, 330), rng.uniform(-112, 118)
        if y > rows[-1, 0] + 20:
            continue
        loop = raster.ellipse((y, x), (rng.uniform(8, 15), rng.uniform(10, 24)), rng.uniform(-50, 50), 0.8)
        canvas.paint(loop * belly, water=0.30, fat=0.0)
        filling = rng.choice((0.06, 0.45, 0.62, 0.8), p=(0.2, 0.35, 0.3, 0.15))
        inner = raster.ellipse((y, x), (rng.uniform(5, 11), rng.uniform(7, 18)), rng.uniform(-50, 50), 0.8)
        canvas.paint(inner * belly * loop, water=float(filling) * chyme, fat=0.0)
    for side in (-1, 1) if anatomy.position < _BEFORE_SPINE else ():
        psoas = smooth_outline(
            [(105, 22 * side), (150, 46 * side), (240, 66 * side), (340, 70 * side), (250, 34 * side), (150, 24 * side)]
        )
        canvas.paint(raster.fill(psoas, 1.0), water=0.27 * tone["muscle"], fat=0.0)
    # The spine bends forward below the chest: the middle shows its lower half, the back all of it.
    first = 98.0 if anatomy.position > -0.25 else -154.0
    for y in np.arange(first, 420, 36.0) if anatomy.position < _BEFORE_SPINE else ():
        canvas.paint(raster.ellipse((y + 19, 0), (6.5, 22), 0, 1.0), water=0.50, fat=0.0)
        box = smooth_outline(
            [(y - 12, -20), (y - 13, 0), (y - 12, 20), (y, 18), (y + 12, 21), (y + 12, 0), (y + 12, -21), (y, -18)]
        )
        canvas.paint(raster.fill(box, 0.6), water=0.10, fat=0.0)
        bone = 0.42 * tone["bone"] * (1 + 0.08 * raster.noise(rng, 5))
        canvas.paint(raster.fill(box * [1, 0.92], 1.2), water=0.02, fat=bone)
    # The diaphragm's thin dark muscle under both lungs.
    dome = [raster.fill(outlines[name] + np.array([3.0, 0.0])) for name in ("right_cavity", "left_cavity")]
    for cover in dome:
        canvas.paint(cover, water=0.24, fat=0.0)
    canvas.liver = raster.fill(outlines["liver"])
    texture = 1 + 0.05 * raster.noise(rng, 4) + 0.05 * raster.noise(rng, 40)
    canvas.paint(canvas.liver, water=0.43 * tone["liver"] * texture, fat=0.0)
    spleen = raster.fill(outlines["spleen"])
    canvas.paint(spleen, water=0.52 * tone["spleen"] * (1 + 0.05 * raster.noise(rng, 5)), fat=0.0)
    stomach = raster.fill(outlines["stomach"])
    canvas.paint(stomach, water=0.32, fat=0.0)
    middle = outlines["stomach"].mean(axis=0)
    content = raster.fill(middle + 0.86 * (outlines["stomach"] - middle), 1.0)
    food = np.clip(0.5 + 0.12 * raster.noise(rng, 10) + 0.1 * raster.noise(rng, 30), 0.05, 1)
    canvas.paint(content, water=food * tone["stomach"], fat=0.0)


def draw_heart_and_vessels(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> Blood:
    """Pericardial fat, muscle and chambers of the heart, and the great vessels."""
    raster, tone, outlines = canvas.raster, anatomy.brightness, anatomy.outlines
    if not anatomy.heart_share:
        return _draw_aorta(canvas, anatomy)
    heart = raster.fill(outlines["heart"])
    middle = outlines["heart"].mean(axis=0)
    fatty = raster.fill(middle + 1.06 * (outlines["heart"] - middle) + [1.5, 1.0], 1.0)
    canvas.paint(fatty, water=0.0, fat=0.55 * tone["fat"])
    canvas.paint(heart, water=0.36 * tone["myocardium"] * (1 + 0.06 * raster.noise(rng, 6)), fat=0.0)
    swirl = 1 + 0.07 * raster.noise(rng, 12) + 0.07 * raster.noise(rng, 40)
    chambers = np.zeros(raster.shape)
    for name, brightness in (("right_atrium", 0.86), ("right_ventricle", 0.84), ("outflow", 0.9), ("left_ventricle", 0.97)):
        cover = raster.fill(outlines[name], 2.4)
        canvas.paint(cover, water=brightness * tone["blood"] * swirl, fat=0.0)
        chambers = np.maximum(chambers, cover)
    muscles = raster.noise(rng, 7) > 1.35
    canvas.paint(raster.fill(outlines["left_ventricle"]) * raster.blur(muscles.astype(np.float64), 1.6) * 0.6, water=0.5, fat=0.0)
    wall = raster.tubes(
        [(-118, -22, 9.5, -20, -25, 11), (-72, 23, 15.5, -71, 26, 15.5), (-42, 20, 14, -36, 34, 13), (-38, 14, 11, -36, -34, 9)]
    )
    ascending = [(-20, 2, 14.5, -64, -8, 14.5), (-64, -8, 14.5, -78, 12, 12)]
    cava = [(40, -22, 8, 58, -21, 9.5), (58, -21, 9.5, 74, -16, 8), (74, -16, 8, 88, -14, 6)]
    wall = np.maximum(wall, np.maximum(raster.tubes(ascending), raster.tubes(cava)))
    canvas.paint(raster.blur(wall, 2.0), water=0.36, fat=0.0)
    lumen = raster.tubes(
        [
            (-118, -22, 8, -20, -25, 9.5),
            (-72, 23, 13.8, -71, 26, 13.8),
            (-42, 20, 12.5, -36, 34, 11.5),
            (-38, 14, 9.5, -36, -34, 7.6),
        ]
    )
    in_slice = np.clip(0.85 + 0.3 * raster.noise(rng, 26), 0, 1)
    inner = np.array(ascending + cava, dtype=np.float64)
    inner[:, (2, 5)] -= 1.5
    lumen = np.maximum(lumen, raster.tubes(inner))
    canvas.paint(raster.blur(lumen, 2.2) * in_slice, water=0.74 * tone["blood"] * swirl, fat=0.0)
    return Blood(np.maximum(chambers, lumen) * 0.9, np.maximum(np.maximum(heart, fatty), wall), heart)


def _draw_aorta(canvas: Canvas, anatomy: Anatomy) -> Blood:
    """Where the slice misses the heart: behind it the descending aorta, before it nothing."""
    raster = canvas.raster
    lumen = np.zeros(raster.shape)
    if anatomy.position < 0:
        lumen[...] = raster.blur(raster.tubes([(-62, 12, 10, 60, 15, 9.5), (60, 15, 9.5, 400, 10, 8)]), 1.5)
        canvas.paint(lumen, water=0.78 * anatomy.brightness["blood"], fat=0.0)
    return Blood(lumen * 0.9, lumen, np.zeros(raster.shape))
