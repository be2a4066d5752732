"""Registration from neighbour to neighbour: composed exactly, passed over what shows nothing, told where the way is in doubt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import registration_factory as make
import SimpleITK
import torch
from numpy.typing import NDArray

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError
from r2n2.evaluation import target_registration_error
from r2n2.geometry import Space
from r2n2.io.fields import read_field, write_field
from r2n2.mask import NO_MASKS, Mask, Masks
from r2n2.registration import FrameResult, FrameStatus, register_series, unregistered
from r2n2.registration.batch import LoadedFrame
from r2n2.registration.chain import Chain, Predecessors
from r2n2.registration.measures import measure_of
from r2n2.registration.passes import Frames, load_frame
from r2n2.results.export import export_transforms
from r2n2.results.reader import read_result
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import (
    DisplacementField,
    GaussianSequence,
    compose,
    folding_percent,
    inverse,
    jacobian_determinant,
    map_points,
    warp_image,
)
from r2n2.workflow import register_to_folder

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = make.GRID
CONFIG = make.FAST.model_copy(update={"reference": 0, "target": "previous"})


def _series(count: int = 6, *, blank: int | None = None) -> ImageSeries:
    series, _ = make.moving_series(count, size=0.03)
    frames = np.array(series.frames)
    if blank is not None:
        frames[blank] = 7.0
    return ImageSeries(frames, GRID)


def _frames(series: ImageSeries, reference: int, masks: Masks = NO_MASKS) -> tuple[Frames, LoadedFrame]:
    loaded = load_frame(series, reference, masks.fixed)
    assert isinstance(loaded, LoadedFrame)
    return Frames(series, True, reference, 2, masks), loaded


def _link(frame: int, status: FrameStatus = FrameStatus.OK, message: str = "", seed: int | None = None) -> FrameResult:
    own = unregistered(frame, GRID, status, message)
    return own if seed is None else replace(own, transform=make.motion(GRID, 0.07, seed=seed))


def _links(numbers: list[int]) -> list[FrameResult]:
    return [_link(number, seed=number) for number in numbers]


def _chain(series: ImageSeries, reference: int, done: dict[int, FrameResult] | None = None, *, proven: bool = False) -> Chain:
    return Chain(*_frames(series, reference), measure_of("ssd"), done or {}, proven=proven)


@pytest.mark.parametrize(("reference", "way"), [(0, [1, 2, 3, 4]), (5, [4, 3, 2, 1])])
def test_a_point_is_carried_from_frame_to_frame(reference: int, way: list[int]) -> None:
    """At pixel centres a composition is the chain of its exact maps: nothing is interpolated in between."""
    links = _links(way)
    *_, last = (result for result in _chain(_series(), reference).add(links) if result.frame == way[-1])
    points = torch.tensor([[0.0, 0.0], [17.0, 23.0], [60.0, 82.0], [31.0, 9.0]], dtype=torch.float64)
    expected = points
    for link in links:
        expected = map_points(link.transform, expected, Space.INDEX)
    found = map_points(last.transform, points, Space.INDEX)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert float((found - points).norm(dim=1).max()) > 1.0


def test_both_sides_of_the_reference_are_chains_of_their_own() -> None:
    links = {number: _link(number, seed=number) for number in (0, 1, 3, 4)}
    found = {result.frame: result for result in _chain(_series(), 2).add(list(links.values()))}
    for near, far in ((1, 0), (3, 4)):
        expected = compose(links[near].transform, links[far].transform)
        torch.testing.assert_close(found[far].transform.displacement_field().to_space(Space.NORMALISED).vectors, expected.vectors)


def test_each_frame_is_registered_to_the_next_one_towards_the_reference_that_can_be_used() -> None:
    series = _series(6, blank=3)
    targets = Predecessors(*_frames(series, 2))
    assert {frame: targets[frame].index for frame in targets} == {0: 1, 1: 2, 3: 2, 4: 2, 5: 4}
    assert len(targets) == 5
    torch.testing.assert_close(targets[5].image.numpy(), series.frame(4))


def test_masks_of_the_reference_and_of_the_neighbour_both_count() -> None:
    fixed, moving = np.zeros((2, 1, *GRID.shape), np.float32)
    fixed[:, 10:40], moving[:, :, 20:50] = 0.5, 1.0
    masks = Masks(Mask.of(fixed), Mask.of(moving))
    targets = Predecessors(*_frames(_series(), 0, masks))
    weight = targets[4].weight
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), fixed * moving)
    assert targets[1].index == 0
    np.testing.assert_array_equal(targets[1].weight.numpy(), fixed)  # type: ignore[union-attr]
    apart = Masks(Mask.of(fixed), Mask.of(1 - (fixed > 0)))
    np.testing.assert_array_equal(Predecessors(*_frames(_series(), 0, apart))[4].weight.numpy(), 1 - (fixed > 0))  # type: ignore[union-attr]


def test_what_comes_after_a_doubtful_step_is_doubtful() -> None:
    doubt = _link(2, FrameStatus.DOUBTFUL, "frame 2: the frames stay unlike; look at it before using it", seed=2)
    found = _chain(_series(), 0).add([_link(1, seed=1), doubt, _link(3, seed=3)])
    by_frame = {result.frame: result for result in found}
    assert "the way to it" not in by_frame[1].message
    assert by_frame[2].status is by_frame[3].status is FrameStatus.DOUBTFUL
    start = "frame 2: to its neighbour: the frames stay unlike; the way to it is in doubt from frame 2 on"
    assert by_frame[2].message.startswith(start)
    assert by_frame[3].message.startswith("frame 3: the way to it is in doubt from frame 2 on")
    assert by_frame[3].message.endswith("; look at it before using it")


def test_a_frame_that_shows_nothing_is_passed_over_and_one_that_failed_breaks_the_way() -> None:
    blank = _series(6, blank=2)
    links = [_link(1, seed=1), _link(2, FrameStatus.CONSTANT, "blank"), _link(3, seed=3)]
    found = {result.frame: result for result in _chain(blank, 0).add(links)}
    assert found[2].status is FrameStatus.CONSTANT
    assert "the way" not in found[3].message
    expected = compose(links[0].transform, links[2].transform).vectors
    torch.testing.assert_close(found[3].transform.displacement_field().to_space(Space.NORMALISED).vectors, expected)
    links[1] = _link(2, FrameStatus.FAILED, "frame 2: no finite result")
    found = {result.frame: result for result in _chain(_series(), 0).add(links)}
    assert found[2].message == "frame 2: no finite result"
    assert "the way to it is in doubt from frame 2 on" in found[3].message


def test_a_step_that_was_kept_back_leaves_the_frame_where_its_neighbour_lies() -> None:
    worse = _link(2, FrameStatus.WORSE, "frame 2: the similarity fell from 0.9 to 0.8; it is left as it is")
    found = {result.frame: result for result in _chain(_series(), 0).add([_link(1, seed=1), worse])}
    torch.testing.assert_close(*(found[k].transform.displacement_field().vectors for k in (1, 2)))
    assert found[2].status is FrameStatus.DOUBTFUL
    assert found[2].message.startswith("frame 2: to its neighbour: the similarity fell from 0.9 to 0.8; the way to it")


def test_folding_of_the_composition_is_seen_though_no_step_folds() -> None:
    squeeze = GaussianSequence(
        torch.zeros(1, 2), torch.full((1, 2), 0.15), torch.zeros(1, 1), torch.tensor([[0.0, 0.15 * 1.7]]), GRID
    )
    steps = [replace(_link(k), transform=squeeze) for k in (1, 2, 3)]
    field = compose(compose(squeeze, squeeze), squeeze)
    found = _chain(_series(), 0).add(steps)[-1]
    determinants = jacobian_determinant(field.vectors[None], GRID)
    assert found.folding_percent == pytest.approx(float(folding_percent(determinants)))
    assert found.min_jacobian == pytest.approx(float(determinants.min()), abs=1e-4)
    assert found.folding_percent > 0
    proven = _chain(_series(), 0, proven=True).add(steps)[-1]
    assert proven.folding_percent == 0
    assert proven.min_jacobian_proven >= 0.02
    assert re.match(
        r"frame 3: composed, its Jacobian determinant fell to -\d\.\d\d; limited at \d+ places?, it is proven", proven.message
    )
    change = (proven.transform.displacement_field().vectors - found.transform.displacement_field().vectors).norm(dim=0)
    assert float(change.max()) < 0.15 * found.max_displacement_mm, "no more than a little of it, and nothing elsewhere"
    assert float((change > 0.01).float().mean()) < 0.1
    small = _chain(_series(), 0, proven=True).add([_link(1, seed=1)])[-1]
    assert "composed" not in small.message
    torch.testing.assert_close(
        small.transform.displacement_field().vectors,
        _chain(_series(), 0).add([_link(1, seed=1)])[-1].transform.displacement_field().vectors,
    )


def _moving(count: int) -> tuple[ImageSeries, NDArray[np.float64]]:
    """A texture that goes round an ellipse of some pixels, and where it is in every frame, (T, 2) in pixels."""
    turn = 2 * np.pi * np.arange(count) / count
    places = np.stack([3 * np.sin(turn), 2 * (np.cos(turn) - 1)], 1)
    image = make.texture(GRID.shape, 5)
    made = []
    for dy, dx in places:
        vectors = torch.tensor([-dy, -dx]).view(2, 1, 1).expand(2, *GRID.shape).float()
        made.append(_warped(image, DisplacementField(vectors, GRID, Space.INDEX)))
    return ImageSeries(np.stack(made), GRID), places


def _warped(image: torch.Tensor, field: DisplacementField) -> NDArray[np.float32]:
    return warp_image(image, field).numpy()


def _register(series: ImageSeries, config: RegistrationConfig = CONFIG) -> Iterator[FrameResult]:
    for progress in register_series(series, config):
        yield from progress.finished


@pytest.mark.parametrize("reference", [0, 3])
def test_a_series_is_registered_along_its_way(reference: int) -> None:
    series, places = _moving(7)
    found = {
        result.frame: result for result in _register(series, CONFIG.model_copy(update={"reference": reference, "batch_size": 2}))
    }
    assert sorted(found) == list(range(7))
    assert found[reference].status is FrameStatus.REFERENCE
    middle = torch.tensor([[30.0, 41.0], [22.0, 50.0], [38.0, 35.0]])
    for k in set(found) - {reference}:
        moved = map_points(found[k].transform, middle, Space.INDEX) - middle
        expected = torch.from_numpy(places[k] - places[reference]).float()
        assert float((moved - expected).norm(dim=1).max()) < 0.6, k
        assert found[k].uncertainty is None
        assert found[k].gaussians is None


def test_a_run_that_goes_on_from_files_gives_the_same_to_the_bit(tmp_path: Path) -> None:
    series = _series(6, blank=2)
    config = CONFIG.model_copy(update={"batch_size": 1, "reference": 1})
    whole = {result.frame: result for result in _register(series, config)}
    done: dict[int, FrameResult | None] = {}
    for number in (1, 0, 2, 3):
        path = tmp_path / f"{number}.mha"
        field = whole[number].transform.displacement_field()
        done[number] = replace(whole[number], transform=read_field(write_field(path, field)))
    # As if the way had broken at frame 3, what follows is told so.
    broken = whole[3].message or "frame 3: the way to it is in doubt from frame 3 on"
    done[3] = replace(done[3], status=FrameStatus.DOUBTFUL, message=broken)  # type: ignore[type-var]
    rest = {result.frame: result for progress in register_series(series, config, done=done) for result in progress.finished}
    assert sorted(rest) == [4, 5]
    for number, result in rest.items():
        assert torch.equal(result.transform.displacement_field().vectors, whole[number].transform.displacement_field().vectors)
        assert result.similarity_after == whole[number].similarity_after
        assert "in doubt from frame 3 on" in result.message


def test_the_folder_of_a_composed_result_is_read_evaluated_inverted_and_applied(tmp_path: Path) -> None:
    series, places = _moving(5)
    names, frames, points = [], [], []
    for k in range(5):
        for number, start in enumerate(((30.0, 41.0), (22.0, 50.0), (38.0, 35.0))):
            names.append(f"L{number}")
            frames.append(k)
            points.append(np.add(start, places[k]))
    marks = LandmarkSet(tuple(names), np.array(frames), np.array(points), Space.INDEX)
    config = RegistrationConfig.parse({**CONFIG.model_dump(mode="json", exclude={"target", "reference"}), "reference": "previous"})
    *_, last = register_to_folder(series, tmp_path, config, landmarks=marks)
    assert last.result is not None
    assert not (tmp_path / "uncertainty").exists()
    result = read_result(tmp_path)
    assert result.manifest.uncertainty is None
    assert result.manifest.settings.target == "previous"
    assert result.reference == 0
    assert any(note.startswith("target: each frame is registered to its neighbour") for note in result.manifest.input.notes)
    errors = target_registration_error(result.transforms, marks, 0, GRID)
    assert errors.after().mean_mm < 0.3 * errors.before().mean_mm
    assert result.metrics[3].tre_mm == pytest.approx(errors.after(3).mean_mm, rel=1e-4)
    assert result.metrics[3].gaussians is None
    back = inverse(result.transforms[3])
    assert back.residual_mm < 1e-2
    start = marks.in_frame(0)
    there = map_points(result.transforms[3], torch.from_numpy(start.points), Space.INDEX)
    again = map_points(back.field, there, Space.INDEX)
    np.testing.assert_allclose(again.numpy(), start.points, atol=0.02)
    (exported,) = export_transforms(result, tmp_path / "itk", frames=[3])
    world = GRID.convert_points(torch.tensor([[30.0, 41.0]]).double(), Space.INDEX, Space.WORLD)
    found = SimpleITK.ReadTransform(str(exported.path)).TransformPoint(world[0].flip(0).tolist())
    np.testing.assert_allclose(found[::-1], map_points(result.transforms[3], world, Space.WORLD)[0].numpy(), atol=1e-3)
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"reference": "mean"}, ("auto", "mean")),
        ({"reference": "previous"}, (0, "previous")),
        ({"reference": "previous", "target": "previous"}, (0, "previous")),
        ({"reference": 4, "target": "previous"}, (4, "previous")),
    ],
)
def test_words_for_the_reference(given: dict[str, object], expected: tuple[object, str]) -> None:
    config = RegistrationConfig.parse(given)
    assert (config.reference, config.target) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"reference": "mean", "target": "median"}, "reference mean means target mean, got 'median'"),
        ({"reference": "first"}, "reference"),
        ({"target": "previous", "warm_start": True}, "warm_start"),
        ({"target": "previous", "uncertainty": "full"}, "uncertainty full"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        RegistrationConfig.parse(given)
