"""Guiding pairs: their terms against automatic differentiation, what their strength means, what a pair mends and what it leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.guides import Guides, GuidingPairs, misfit_mm, strength_mm
from r2n2.registration import FrameStatus, build_method, refit_frame, register_series
from r2n2.registration.fit.guiding import GuideTerms
from r2n2.registration.fit.held import HeldFit
from r2n2.registration.fit.independence import noise_share
from r2n2.registration.fit.refit import GuidedRefit
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.series import ImageSeries, LandmarkSet
from r2n2.transform import GaussianSequence, map_points, warp_image

VOLUME = Grid((9, 21, 17), (3.0, 1.5, 1.2), (1.0, 2.0, 3.0))
FIT = make.FAST_FIT.model_copy(update={"guided_steps": (4, 4, 6)})


def _model(ndim: int, batch: int = 2, count: int = 3) -> WhitenedGaussians:
    generator = torch.Generator().manual_seed(5)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, count, *shape, generator=generator, dtype=torch.float64) - 0.5

    return WhitenedGaussians(1.4 * uniform(ndim), 4 * torch.eye(ndim).double() + 2 * uniform(ndim, ndim), 0.4 * uniform(ndim))


def _pairs(ndim: int, count: int, strength: float = 0.02, seed: int = 0) -> GuidingPairs:
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.rand(count, ndim, generator=generator, dtype=torch.float64) - 0.5
    moved = fixed + 0.2 * (torch.rand(count, ndim, generator=generator, dtype=torch.float64) - 0.5)
    return GuidingPairs(tuple(map(str, range(count))), fixed, moved, strength)


def _changed(model: WhitenedGaussians, change: Tensor) -> WhitenedGaussians:
    """As ``WhitenedGaussians.changed``, differentiable and without limits."""
    ndim = model.ndim
    parts = change.unflatten(1, (len(model), model.freedom))
    amplitude, move, shape = parts.split((ndim, ndim, model.freedom - 2 * ndim), dim=-1)
    rows, columns = torch.triu_indices(ndim, ndim)
    basis = torch.zeros(len(rows), ndim, ndim, dtype=shape.dtype)
    basis[torch.arange(len(rows)), rows, columns] = 1
    basis = torch.maximum(basis, basis.mT)
    factors = torch.linalg.matrix_exp(torch.einsum("bkn,nij->bkij", shape, basis)) @ model.factors
    centres = model.centres + torch.linalg.solve(model.factors, move.unsqueeze(-1)).squeeze(-1)
    return WhitenedGaussians(centres, factors, model.amplitudes + amplitude)


def _displacement(model: WhitenedGaussians, points: Tensor) -> Tensor:
    whitened = model.factors @ (points.unsqueeze(1) - model.centres.unsqueeze(-1))
    return model.amplitudes.mT @ torch.exp(-0.5 * whitened.square().sum(2))


@pytest.mark.parametrize("ndim", [2, 3])
def test_equations_are_those_of_the_penalty(ndim: int) -> None:
    model, guides = _model(ndim), (_pairs(ndim, 2), _pairs(ndim, 1, 0.05, seed=1))
    terms = GuideTerms.of(guides, torch.tensor([0.3, 0.7]).double())
    linear = 0.1 * torch.arange(2 * ndim * (ndim + 1)).double().view(2, ndim, ndim + 1) / (2 * ndim * (ndim + 1))

    def penalty(change: Tensor) -> Tensor:
        moved = linear[:, :, :-1] @ terms.points + linear[:, :, -1:]
        off = _displacement(_changed(model, change), terms.points) + moved - terms.wanted
        return (terms.weight * off.square().sum(1)).sum(1)

    none = torch.zeros(2, len(model) * model.freedom, dtype=torch.float64)
    torch.testing.assert_close(terms.penalty(model, linear), penalty(none))
    matrix, vector = terms.linearised(model, linear).equations()
    slope = torch.autograd.functional.jacobian(lambda change: penalty(change).sum(), none)
    torch.testing.assert_close(2 * vector, slope)

    def residuals(change: Tensor) -> Tensor:
        return _displacement(_changed(model, change), terms.points) * terms.weight.sqrt().unsqueeze(1)

    jacobian = torch.autograd.functional.jacobian(residuals, none)
    for row in range(2):
        own = jacobian[row, :, :, row].flatten(0, 1)
        torch.testing.assert_close(matrix[row], own.mT @ own)


def test_a_pair_of_images_without_pairs_feels_nothing() -> None:
    terms = GuideTerms.of((None, _pairs(2, 2)), torch.tensor([0.3, 0.7]).double())
    matrix, vector = terms.linearised(_model(2)).equations()
    assert not matrix[0].any()
    assert not vector[0].any()
    assert float(terms.penalty(_model(2))[0]) == 0
    assert matrix[1].any()


def test_amplitudes_take_up_what_a_step_does_beyond_first_order_but_those_held_stay() -> None:
    model = _model(2, batch=1)
    near = replace(_pairs(2, 2), fixed=model.centres[0, 1:] + 0.05)  # where the free ones reach
    terms = GuideTerms.of((near,), torch.ones(1).double())
    before, change = terms.linearised(model), 0.3 * torch.ones(1, 21).double()
    held = torch.tensor([[True, False, False]])
    change[:, :7] = 0
    tried = _changed(model, change)
    off = (terms.misfit(tried) - before.expected(change)).abs().max()
    found = terms.returned(tried, change, before, held, None)
    assert float((terms.misfit(found) - before.expected(change)).abs().max()) < 0.1 * float(off)
    torch.testing.assert_close(found.amplitudes[:, 0], tried.amplitudes[:, 0], rtol=0, atol=0)


def test_strength_weighs_a_pair_against_the_noise_of_independent_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    residual = 0.4 * torch.randn(1, 1, 60 * 80, generator=generator, dtype=torch.float64)
    share = noise_share(residual, torch.full_like(residual, 1 / residual.numel()), (60, 80))
    torch.testing.assert_close(share, torch.tensor([0.16 / 4800]).double(), rtol=0.1, atol=0)
    (one,), (other,) = (GuideTerms.of((_pairs(2, 1, strength),), share).weight[0] for strength in (0.02, 0.04))
    torch.testing.assert_close(one, share[0] / 0.02**2)
    torch.testing.assert_close(other, one / 4)


def test_insisting_weighs_only_what_is_not_met_more() -> None:
    model, pairs = WhitenedGaussians.none(1, torch.zeros(1).double(), 2), _pairs(2, 2)
    pairs = replace(pairs, moving=pairs.fixed + torch.tensor([[0.01, 0.0], [0.0, 0.06]]).double())
    terms = GuideTerms.of((pairs,), torch.ones(1).double())
    torch.testing.assert_close(terms.insisting(model).weight / terms.weight, torch.tensor([[1.0, 9.0]]).double())


def _guides(points: dict[int, dict[str, tuple[float, ...]]], space: Space = Space.INDEX, strength: float = 1.0) -> Guides:
    rows = [(name, frame, place) for frame, named in points.items() for name, place in named.items()]
    ids, frames, places = zip(*rows, strict=True)
    return Guides(LandmarkSet(ids, np.array(frames), np.array(places), space), strength)


def test_pairs_are_matched_by_id_and_mean_the_same_in_mm_and_pixels() -> None:
    index = {0: {"a": (10.0, 20.0), "b": (30.0, 40.0)}, 2: {"b": (31.0, 42.0), "c": (1.0, 1.0)}, 3: {"a": (9.0, 18.5)}}
    world = {
        frame: {
            name: tuple(make.GRID.convert_points(torch.tensor([at]).double(), Space.INDEX, Space.WORLD)[0].tolist())
            for name, at in named.items()
        }
        for frame, named in index.items()
    }
    for guides in (_guides(index), _guides(world, Space.WORLD)):
        found = guides.pairs(0, make.GRID)
        assert {frame: pairs.ids for frame, pairs in found.items()} == {2: ("b",), 3: ("a",)}
        moved = make.GRID.convert_vectors(found[2].moving - found[2].fixed, Space.NORMALISED, Space.INDEX)
        torch.testing.assert_close(moved, torch.tensor([[1.0, 2.0]]).double())
        assert found[2].strength * make.GRID.unit_mm == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ({0: {"a": (10.0, 20.0)}, 2: {"b": (31.0, 42.0)}}, "has a partner"),
        ({0: {"a": (10.0, 20.0)}, 2: {"a": (31.0, 142.0)}}, "point 'a' of frame 2 lies outside"),
    ],
)
def test_points_that_cannot_guide_are_refused(points: dict[int, dict[str, tuple[float, ...]]], words: str) -> None:
    with pytest.raises(ReadError, match=words):
        _guides(points).pairs(0, make.GRID)


def test_what_guides_measures_no_error_whatever_it_is_called() -> None:
    guides = _guides({0: {"g": (10.0, 20.0)}, 2: {"g": (12.0, 21.0)}})
    marks = _guides(
        {0: {"a": (10.3, 20.2), "b": (30.0, 40.0)}, 2: {"a": (12.1, 21.2), "b": (31.0, 42.0)}, 3: {"a": (9.0, 18.5)}}
    ).landmarks
    kept, said = guides.left_out_of(marks, 0, make.GRID)
    assert list(zip(kept.ids, kept.frames.tolist(), strict=True)) == [("a", 0), ("b", 0), ("b", 2), ("a", 3)]
    assert "'a' in frame 2" in said
    assert guides.left_out_of(kept, 0, make.GRID) == (kept, "")


def test_the_usual_strength_is_the_longer_side_of_a_pixel() -> None:
    assert strength_mm("auto", make.GRID) == 1.7
    assert strength_mm("auto", VOLUME) == 1.5
    assert strength_mm(0.25, VOLUME) == 0.25
    with pytest.raises(ArgumentError, match="guide_strength_mm"):
        _guides({0: {"a": (1.0, 1.0)}}, strength=0.0)


def _mistaken(grid: Grid) -> tuple[Tensor, Tensor, GaussianSequence, GaussianSequence]:
    """Fixed, moving, the exact displacement and a start that was led astray in one place."""
    fixed, moving, exact = make.moved_pair(grid, size=0.04)
    ndim = grid.ndim
    wrong = GaussianSequence(
        torch.full((1, ndim), 0.1),
        torch.full((1, ndim), 0.12 if ndim == 2 else 0.25),
        torch.zeros(1, 1 if ndim == 2 else 3),
        torch.tensor([[0.15] + [-0.1] * (ndim - 1)]),
        grid,
    )
    start = replace(
        exact,
        **{
            name: torch.cat((getattr(exact, name), getattr(wrong, name)))
            for name in ("centres", "sigmas", "orientation", "amplitudes")
        },
    )
    return fixed, moving, exact, start


@pytest.mark.parametrize("grid", [make.GRID, VOLUME])
def test_one_pair_brings_a_frame_that_was_led_astray_back(grid: Grid) -> None:
    fixed, moving, exact, start = _mistaken(grid)
    place = torch.full((1, grid.ndim), 0.1).double()
    true = map_points(exact, place, Space.NORMALISED)
    pair = GuidingPairs(("1",), place, true, min(grid.spacing) / grid.unit_mm)
    pairs = replace(make.pairs_of((fixed, moving), grid=grid), guides=(pair,))
    steps = list(GuidedRefit(FIT).register(pairs, start))
    assert [step.index for step in steps] == list(range(1, 15))
    assert steps[0].total == 14
    (found,) = steps[-1].transforms()
    assert misfit_mm(start, pair)[0] > 2.5 * pair.strength * grid.unit_mm
    assert misfit_mm(found, pair)[0] < 1.2 * pair.strength * grid.unit_mm
    before, after = (float(make.error_px(one, exact, margin=1).mean()) for one in (start, found))
    assert after < (0.4 if grid.ndim == 2 else 0.7) * before
    assert isinstance(found, GaussianSequence)
    assert len(found) <= len(start) + FIT.guided_gaussians


def test_gaussians_far_from_the_pair_stay_as_they_are() -> None:
    fixed, moving, _exact, start = _mistaken(make.GRID)
    far = replace(start, centres=torch.tensor([[-0.5, -0.8], [0.5, -0.75], [0.1, 0.4]]))
    place = torch.tensor([[0.1, 0.4]]).double()
    pair = GuidingPairs(("1",), place, place, 0.01)
    pairs = replace(make.pairs_of((fixed, moving)), guides=(pair,))
    *_, last = GuidedRefit(FIT.model_copy(update={"guided_left_out": 0})).register(pairs, far)
    (found,) = last.transforms()
    assert isinstance(found, GaussianSequence)
    for centre in far.centres[:2]:
        assert float((found.centres - centre).norm(dim=1).min()) < 1e-5
    assert float((found.centres - far.centres[2]).norm(dim=1).min()) > 1e-4 or len(found) > 3


def test_a_start_of_another_kind_is_refused() -> None:
    fixed, moving, exact, _start = _mistaken(make.GRID)
    pairs = replace(make.pairs_of((fixed, moving)), guides=(_pairs(2, 1),))
    with pytest.raises(ArgumentError, match="no sum of Gaussians"):
        list(GuidedRefit(FIT).register(pairs, exact.displacement_field()))


def _series() -> tuple[ImageSeries, GaussianSequence]:
    fixed, moving, exact = make.moved_pair(size=0.05)
    return ImageSeries(torch.stack((fixed, moving, 0.5 * moving + 0.5 * fixed)).numpy(), make.GRID), exact


def test_only_frames_with_pairs_change_and_they_say_so() -> None:
    series, exact = _series()
    config = make.FAST.model_copy(update={"reference": 0, "similarity": "ssd", "fit": FIT, "initial": "none"})
    place = (30.0, 50.0)
    there = map_points(exact, torch.tensor([place]).double(), Space.INDEX)[0].tolist()
    guides = _guides({0: {"a": place}, 1: {"a": (there[0] + 3, there[1])}})
    plain, guided = (
        {r.frame: r for progress in register_series(series, config, guides=given) for r in progress.finished}
        for given in (None, guides)
    )
    torch.testing.assert_close(guided[2].transform.amplitudes, plain[2].transform.amplitudes, rtol=0, atol=0)
    assert plain[2].message == guided[2].message
    (pairs,) = guides.pairs(0, make.GRID).values()
    assert misfit_mm(guided[1].transform, pairs)[0] < 0.5 * misfit_mm(plain[1].transform, pairs)[0]
    assert "guid" in guided[1].message
    # Fitted again later, with the frame on the screen, it comes out the same.
    running = refit_frame(series, 0, plain[1], guides, config)
    shares = []
    while True:
        try:
            shares.append(next(running))
        except StopIteration as end:
            again = end.value
            break
    assert shares == sorted(shares)
    torch.testing.assert_close(again.transform.amplitudes, guided[1].transform.amplitudes)
    assert (again.message, again.status) == (guided[1].message, guided[1].status)
    assert again.uncertainty.median_mm == pytest.approx(guided[1].uncertainty.median_mm)
    with pytest.raises(ArgumentError, match="frame 2 has no guiding pair"):
        list(refit_frame(series, 0, plain[2], guides, config))
    assert guided[1].status in (FrameStatus.OK, FrameStatus.DOUBTFUL)


def test_what_takes_no_pairs_says_so() -> None:
    series, _exact = _series()
    guides = _guides({0: {"a": (30.0, 50.0)}, 1: {"a": (33.0, 50.0)}})
    config = make.FAST.model_copy(update={"reference": 0, "similarity": "ssd"})
    with pytest.raises(ArgumentError, match="target previous"):
        list(register_series(series, config.model_copy(update={"target": "previous"}), guides=guides))
    with pytest.raises(ArgumentError, match="bspline takes no guiding pairs"):
        build_method(config.model_copy(update={"method": "bspline"}), guided=True)
    beyond = _guides({0: {"a": (30.0, 50.0)}, 7: {"a": (33.0, 50.0)}})
    with pytest.raises(ArgumentError, match="frame 7 does not exist"):
        list(register_series(series, config, guides=beyond))


def test_a_frame_without_structure_follows_its_pair() -> None:
    blank = torch.zeros(1, *make.GRID.shape)
    blank[0, 5:9, 5:9] = 100
    place = torch.tensor([[0.2, 0.3]]).double()
    pair = GuidingPairs(("1",), place, place + 0.2, 0.01)
    pairs = replace(make.pairs_of((blank, blank)), guides=(pair,))
    *_, last = GuidedRefit(FIT).register(pairs, GaussianSequence.identity(make.GRID))
    (found,) = last.transforms()
    assert misfit_mm(found, pair)[0] < 2 * pair.strength * make.GRID.unit_mm
    assert warp_image(blank, found).isfinite().all()


def test_settings_of_the_refit_are_checked() -> None:
    with pytest.raises(ArgumentError, match="guided_steps"):
        FitConfig.parse({"guided_steps": (0, 1, 1)})


def test_others_follow_a_gaussian_that_a_person_set() -> None:
    fixed, moving, exact = make.moved_pair(size=0.05)
    # The second Gaussian is right and held; the first was spoilt and has to come back to it.
    spoilt = replace(exact, centres=exact.centres + torch.tensor([[0.06, -0.05], [0.0, 0.0]]))
    *_, last = HeldFit(FIT).register(make.pairs_of((fixed, moving)), spoilt, [1])
    (found,) = last.transforms()
    assert isinstance(found, GaussianSequence)
    for name in ("centres", "sigmas", "orientation", "amplitudes"):
        torch.testing.assert_close(getattr(found, name)[1], getattr(exact, name)[1], rtol=0, atol=0)
    before, after = (float(make.error_px(one, exact).mean()) for one in (spoilt, found))
    assert after < 0.5 * before
    with pytest.raises(ArgumentError, match="Gaussians from 0 to 1"):
        list(HeldFit(FIT).register(make.pairs_of((fixed, moving)), spoilt, [2]))
