"""Where the next Gaussian goes: positions stay exact between levels, the best gain is place at first, scores can be learnt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from r2n2.network.gaussian import coordinate_lattice
from r2n2.network.least_squares import WIDTHS, LeastSquares
from r2n2.network.placement import Place, Placement, _enlarged, features_at

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, SCALES, CHANNELS = 32, 2, (3, 2, 4)
SIDE = SIZE // 2
PIXEL = 2 / (SIZE - 1)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _lattice() -> Tensor:
    return coordinate_lattice(SIZE, 2, torch.zeros(1, dtype=torch.float64))[:, ::2, ::2]


def _ramp(stride: int) -> Tensor:
    """Maps (1, 2, SIZE / stride, ...) whose value is the row and the column of the pixel of the square they are centred at."""
    index = torch.arange(0, SIZE, stride, dtype=torch.float64)
    return torch.stack(torch.meshgrid(index, index, indexing="ij"))[None]


def _problem(seed: int = 0, batch: int = 2, peak: tuple[int, int, int, int] | None = None) -> LeastSquares:
    gains = _random(batch, SCALES, len(WIDTHS), SIDE, SIDE, seed=seed).abs()
    if peak is not None:
        gains[(slice(None), *peak)] = 30.0
    amplitudes = 0.1 * _random(batch, SCALES, len(WIDTHS), 2, SIDE, SIDE, seed=seed + 1)
    nothing = torch.zeros(0)
    return LeastSquares(nothing, gains, amplitudes, nothing)


def _features(seed: int = 5, batch: int = 2) -> list[Tensor]:
    return [_random(batch, width, SIDE >> level, SIDE >> level, seed=seed + level) for level, width in enumerate(CHANNELS)]


def _place(placement: Placement, features: list[Tensor], solved: LeastSquares) -> Place:
    with torch.no_grad():
        return placement(features, solved, _lattice())  # type: ignore[no-any-return]


def _head(spread: float = 0.0) -> Placement:
    placement = Placement(CHANNELS, SCALES).double()
    torch.manual_seed(0)
    for head in placement.heads:
        for parameter in head.parameters() if spread else ():
            torch.nn.init.normal_(parameter, std=spread)
    return placement


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_maps_of_every_level_are_enlarged_at_their_pixels_positions(stride: int) -> None:
    # The first level's pixels are two apart; the enlarged map has its lattice.
    enlarged = _enlarged(_ramp(stride), SIDE)
    assert enlarged.shape == (1, 2, SIDE, SIDE)
    last = (SIZE - stride) // 2 + 1
    torch.testing.assert_close(enlarged[..., :last, :last], _ramp(2)[..., :last, :last])
    # Behind the last pixel of a level there is nothing to interpolate with: its rows go on as they are.
    assert (enlarged[:, 0, last:] == SIZE - stride).all()


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_features_are_read_where_the_place_lies(stride: int) -> None:
    index = torch.tensor([[0.0, 0.0], [3.7, 11.2], [16.0, 8.0], [1.1, float(SIZE - stride)]], dtype=torch.float64)
    found = features_at(_ramp(stride).expand(4, -1, -1, -1), index * PIXEL - 1, SIZE)
    torch.testing.assert_close(found, index)
    outside = features_at(_ramp(stride), torch.tensor([[1.2, -1.3]], dtype=torch.float64), SIZE)
    torch.testing.assert_close(outside, torch.tensor([[float(SIZE - stride), 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("peak", [(1, 2, 5, 9), (0, 3, 12, 4), (1, 0, 7, 7)])
def test_the_best_gain_is_the_place_as_long_as_nothing_is_learnt(peak: tuple[int, int, int, int]) -> None:
    scale, width, row, column = peak
    solved = _problem(peak=peak)
    place = _place(_head(), _features(), solved)
    expected = torch.tensor([row, column], dtype=torch.float64) * 2 * PIXEL - 1
    # The average over the neighbours hardly moves a clear peak.
    assert float((place.centres - expected).abs().max()) < 0.5 * PIXEL
    torch.testing.assert_close(place.widths, torch.full((2, 1), WIDTHS[width], dtype=torch.float64))
    assert place.scales.tolist() == [[float(k == scale) for k in range(SCALES)]] * 2
    _check_description(place, solved, peak)


def _check_description(place: Place, solved: LeastSquares, peak: tuple[int, int, int, int]) -> None:
    scale, width, row, column = peak
    which, centres, amplitude, strength = place.description.split((SCALES * len(WIDTHS), 2, 2, 1), dim=1)
    assert which.argmax(1).tolist() == [scale * len(WIDTHS) + width] * 2
    torch.testing.assert_close(centres, place.centres)
    torch.testing.assert_close(amplitude * WIDTHS[width], solved.amplitudes[:, scale, width, :, row, column])
    torch.testing.assert_close(10 ** (4 * strength), torch.full((2, 1), 30.0, dtype=torch.float64))


def test_two_equal_neighbours_share_the_place() -> None:
    solved = _problem(peak=(1, 2, 5, 9))
    solved.gains[0, 1, 2, 5, 10] = 30.0
    place = _place(_head(), _features(), solved)
    between = torch.tensor([5.0, 9.5], dtype=torch.float64) * 2 * PIXEL - 1
    torch.testing.assert_close(place.centres[0], between, rtol=0, atol=0.3 * PIXEL)
    assert float((place.centres[1] - between).abs().max()) > 0.8 * PIXEL


@pytest.mark.parametrize(("row", "column"), [(0, 0), (15, 3), (7, 15)])
def test_a_place_at_the_edge_stays_on_the_lattice(row: int, column: int) -> None:
    place = _place(_head(), _features(), _problem(peak=(0, 1, row, column)))
    expected = _lattice()[:, row, column]
    assert float((place.centres - expected).abs().max()) < 0.5 * PIXEL


def test_no_gain_at_all_is_still_a_choice() -> None:
    solved = _problem()
    place = _place(_head(), _features(), solved._replace(gains=torch.zeros_like(solved.gains)))
    assert all(part.isfinite().all() for part in place)


def test_what_is_learnt_can_overrule_the_gain_by_kind_and_by_place() -> None:
    placement, solved, features = _head(), _problem(peak=(1, 2, 5, 9)), _features()
    with torch.no_grad():
        placement.heads[1].bias[3] = 50.0  # type: ignore[index,union-attr]
    by_kind = _place(placement, features, solved)
    assert by_kind.scales.tolist() == [[1.0, 0.0]] * 2
    torch.testing.assert_close(by_kind.widths, torch.full((2, 1), WIDTHS[3], dtype=torch.float64))
    with torch.no_grad():
        placement.heads[1].bias.zero_()  # type: ignore[union-attr]
        placement.heads[0].weight[6, 1] = 1.0  # type: ignore[index,union-attr]
    features[0][:, 1] = 0
    features[0][:, 1, 12, 3] = 50.0
    by_place = _place(placement, features, solved)
    assert float((by_place.centres - _lattice()[:, 12, 3]).abs().max()) < 0.5 * PIXEL
    assert by_place.scales.tolist() == [[0.0, 1.0]] * 2


def test_scores_are_the_logarithm_of_the_gain_plus_what_all_levels_say() -> None:
    placement, solved, features = _head(0.3), _problem(), _features()
    scores = _place(placement, features, solved).scores
    assert scores.shape == solved.gains.shape
    pair, scale, width, row, column = 1, 1, 0, 4, 8
    largest = solved.gains[pair].max()
    expected = 6.0 * torch.log(solved.gains[pair, scale, width, row, column] / largest + 1e-3)
    for level, head in enumerate(placement.heads):
        # Row 4 and column 8 of the first level are pixels of all three.
        here = features[level][pair, :, row >> level, column >> level]
        kind = scale * len(WIDTHS) + width
        expected = expected + 10 * (head.weight[kind, :, 0, 0] @ here + head.bias[kind])  # type: ignore[index,operator]
    torch.testing.assert_close(scores[pair, scale, width, row, column], expected)


def test_the_place_teaches_gains_factor_features_and_heads() -> None:
    placement, solved, features = _head(0.3), _problem(), _features()
    names = [name for name, _ in placement.named_parameters()]

    def centres(*values: Tensor) -> Tensor:
        parameters = dict(zip(names, values[3:], strict=True))
        return torch.func.functional_call(placement, parameters, (list(values[:3]), solved, _lattice())).centres

    inputs = [value.detach().requires_grad_() for value in (*features, *placement.parameters())]
    assert torch.autograd.gradcheck(centres, inputs, fast_mode=True)
    gradients = torch.autograd.grad(centres(*inputs).square().sum(), inputs)
    for name, gradient in zip(["level 0", "level 1", "level 2", *names], gradients, strict=True):
        # A bias is the same at every place and cannot move one.
        assert ("bias" in name) != bool(gradient.abs().max() > 1e-9), name


def test_every_pair_chooses_on_its_own() -> None:
    placement, solved, features = _head(0.3), _problem(batch=3), _features(batch=3)
    together = _place(placement, features, solved)
    order = [2, 0, 1]
    turned = LeastSquares(*(part[order] if len(part) else part for part in solved))
    moved = _place(placement, [part[order] for part in features], turned)
    for one, other in zip(together, moved, strict=True):
        torch.testing.assert_close(one[order], other)
    alone = _place(placement, [part[1:2] for part in features], LeastSquares(*(part[1:2] for part in solved)))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[1:2], other)
