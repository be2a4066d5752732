"""Targets made of the aligned series: known medians and components, and registration to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_factory as make
import torch
from torch import Tensor

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, ResourceError
from r2n2.geometry import Grid, Space
from r2n2.registration import FrameResult, FrameStatus, register_series
from r2n2.registration.batch import LoadedFrame, unregistered
from r2n2.registration.target import AlignedSeries, components_of, make_targets
from r2n2.series import ImageSeries
from r2n2.transform import GaussianSequence

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = Grid((19, 26), (1.3, 0.8))


def _stack(frames: int = 7, seed: int = 0) -> AlignedSeries:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(frames, *GRID.shape, generator=generator)
    return AlignedSeries(images, torch.ones(images.shape, dtype=torch.bool), torch.ones(frames, dtype=torch.bool))


def _reference(index: int = 2) -> LoadedFrame:
    return LoadedFrame(index, torch.zeros(1, *GRID.shape), torch.ones(1, *GRID.shape, dtype=torch.bool))


def test_the_median_is_of_what_is_measured_in_frames_that_are_sound() -> None:
    aligned = _stack(6)
    aligned.sound[4] = False
    aligned.valid[1, :5] = False
    aligned.valid[:, 7, 9] = False
    made = make_targets(aligned, "median", _reference())
    values = aligned.images.numpy()
    sound = [0, 1, 2, 3, 5]
    assert made[0] is made[5]
    assert made[0].index == 2
    # torch takes the lower of two middle values.
    expected = np.sort(values[[0, 2, 3, 5]], axis=0)[1]
    np.testing.assert_allclose(made[0].image[0, :5].numpy(), expected[:5])
    below = np.sort(values[sound], axis=0)[2]
    rest = np.ones(GRID.shape, dtype=bool)
    rest[:5], rest[7, 9] = False, False
    np.testing.assert_allclose(made[0].image[0].numpy()[rest], below[rest])
    assert not bool(made[0].valid[0, 7, 9])
    assert int(made[0].valid.sum()) == made[0].valid.numel() - 1


def test_the_mean_is_of_what_is_measured_in_frames_that_are_sound() -> None:
    aligned = _stack(5)
    aligned.sound[3] = False
    aligned.valid[1, :4] = False
    aligned.valid[:, 7, 9] = False
    made = make_targets(aligned, "mean", _reference())
    values = aligned.images.numpy()
    assert made[0] is made[4]
    np.testing.assert_allclose(made[0].image[0, :4].numpy(), values[[0, 2, 4], :4].mean(0), atol=1e-6)
    rest = np.ones(GRID.shape, dtype=bool)
    rest[:4], rest[7, 9] = False, False
    np.testing.assert_allclose(made[0].image[0].numpy()[rest], values[[0, 1, 2, 4]].mean(0)[rest], atol=1e-6)
    assert not bool(made[0].valid[0, 7, 9])


@pytest.mark.parametrize("components", [1, 3])
def test_principal_components_are_those_of_numpy(components: int) -> None:
    aligned = _stack(8)
    made = make_targets(aligned, f"pca:{components}", _reference())
    flat = aligned.images.flatten(1).double().numpy()
    deviation = flat - flat.mean(0)
    u, s, v = np.linalg.svd(deviation, full_matrices=False)
    expected = flat.mean(0) + (u[:, :components] * s[:components]) @ v[:components]
    found = np.stack([made[k].image.flatten().numpy() for k in range(8)])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - flat).max() > 0.1


def test_contrast_of_low_rank_is_kept_whole_and_noise_is_not() -> None:
    """A recovery curve over two tissues is two components; each frame's target is the frame without its noise."""
    generator = torch.Generator().manual_seed(3)
    tissue = (torch.rand(2, *GRID.shape, generator=generator) > 0.5).float()
    curves = torch.stack([1 - 2 * torch.exp(-torch.linspace(0.1, 4, 9)), torch.linspace(0, 1, 9).square()], 1)
    clean = torch.einsum("tk,kyx->tyx", curves, tissue)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=generator)
    aligned = replace(_stack(9), images=noisy)
    made = make_targets(aligned, "pca:2", _reference())
    found = torch.stack([made[k].image[0] for k in range(9)])
    assert float((found - clean).std()) < 0.7 * float((noisy - clean).std())
    assert float((found - clean).abs().mean()) < 0.03
    median = make_targets(aligned, "median", _reference())[0].image[0]
    assert float((median - clean).abs().mean()) > 0.2


def test_a_frame_that_is_not_sound_shapes_nothing_and_is_still_shown_its_own_contrast() -> None:
    aligned = _stack(6)
    pattern = aligned.images[0].clone()
    scale = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0])
    images = 5 + scale.view(-1, 1, 1) * pattern
    spoilt = images.clone()
    spoilt[5] += 40 * torch.randn(GRID.shape, generator=torch.Generator().manual_seed(8))
    aligned = replace(aligned, images=spoilt)
    aligned.sound[5] = False
    made = make_targets(aligned, "pca:1", _reference())
    for k in range(5):
        torch.testing.assert_close(made[k].image[0], images[k], atol=1e-3, rtol=1e-4)
    ratio = (made[5].image[0] - 5) / pattern
    assert float(ratio.std()) < 1e-2  # along the one component, however far


def test_frames_are_put_in_the_references_place() -> None:
    fixed, moving, exact = make.moved_pair()
    grid = make.GRID
    aligned = AlignedSeries.empty(2, grid)
    frame = LoadedFrame(1, moving, torch.ones_like(moving, dtype=torch.bool))
    identity = GaussianSequence.identity(grid)
    before = unregistered(1, grid, FrameStatus.WORSE, "")
    aligned.put(frame, before)
    torch.testing.assert_close(aligned.images[1], moving[0], rtol=0, atol=1e-3)
    aligned.put(frame, replace(before, transform=exact, status=FrameStatus.DOUBTFUL))
    both = aligned.valid[1]
    assert 0.5 < float(both.float().mean()) <= 1
    assert float((aligned.images[1] - fixed[0])[both].abs().mean()) < 0.2 * float((moving - fixed).abs().mean())
    assert aligned.sound.tolist() == [False, True]
    aligned.put(frame, replace(before, transform=identity, status=FrameStatus.FAILED))
    assert not bool(aligned.sound[1])


def test_more_than_fits_is_said_before_anything_is_registered() -> None:
    with pytest.raises(ResourceError, match=r"target: 9000 aligned frames of 512 x 512 would take 11.0 GiB"):
        AlignedSeries.empty(9000, Grid((512, 512)))


@pytest.mark.parametrize(
    ("target", "count"), [("reference", 0), ("mean", 0), ("previous", 0), ("median", 0), ("pca:1", 1), ("pca:20", 20)]
)
def test_names_of_targets(target: str, count: int) -> None:
    assert components_of(RegistrationConfig(target=target).target) == count


@pytest.mark.parametrize("target", ["first", "pca", "pca:0", "pca:21", "pca:x", "pca:2 "])
def test_other_names_are_refused(target: str) -> None:
    with pytest.raises(ArgumentError, match="target"):
        RegistrationConfig.parse({"target": target})


def _noisy_series(frames: int = 7, noise: float = 25.0) -> tuple[ImageSeries, Tensor]:
    """Shifted by known amounts (T, 2) in pixels, with much noise of their own."""
    grid = Grid((40, 53), (1.1, 1.4))
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid.shape), indexing="ij")
    shifts = torch.tensor([[0.0, 0.0], [1.2, -0.7], [-0.8, 1.1], [0.5, 0.9], [-1.3, -0.4], [0.9, 0.2], [-0.3, -1.2]])[:frames]
    generator = torch.Generator().manual_seed(2)
    made = []
    for dy, dx in shifts:
        v, u = y - dy, x - dx
        image = 100 * torch.sin(v / 5) + 80 * torch.cos(u / 4 + v / 9)
        made.append(image + noise * torch.randn(grid.shape, generator=generator))
    return ImageSeries(torch.stack(made)[:, None].float().numpy(), grid), shifts


def _register(series: ImageSeries, target: str) -> tuple[dict[int, FrameResult], list[float]]:
    config = RegistrationConfig(method="fit", steps=2, reference=0, target=target, uncertainty="off", fit=make.FAST_FIT)
    found: dict[int, FrameResult] = {}
    shares = []
    for progress in register_series(series, config):
        found |= {result.frame: result for result in progress.finished}
        shares.append(progress.fraction)
    return found, shares


def _error(found: dict[int, FrameResult], shifts: Tensor) -> float:
    """Mean distance to the shifts in the middle of the frames, in pixels."""
    errors = []
    for k, shift in enumerate(shifts):
        if k:
            field = found[k].transform.displacement_field()
            vectors = field.grid.convert_vectors(field.vectors.movedim(0, -1), field.space, Space.INDEX)[8:-8, 8:-8]
            errors.append(float((vectors - shift).norm(dim=-1).mean()))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("target", ["mean", "median"])
def test_noise_does_less_harm_against_the_mean_and_the_median(target: str) -> None:
    series, shifts = _noisy_series()
    plain, _ = _register(series, "reference")
    found, shares = _register(series, target)
    assert sorted(found) == list(range(7))
    assert found[0].status is FrameStatus.REFERENCE
    assert _error(found, shifts) < 0.9 * _error(plain, shifts)
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] == 1
    # The target is less noisy than a frame.
    assert found[3].similarity_after > plain[3].similarity_after + 0.02
