"""Wan autoencoders: continued encoding, shapes, normalization."""

from collections.abc import Iterator

import pytest
import torch

from wam_policy.model.encoders.wan_vae import WAN21, WAN22, Vae, VaeConfig


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def toy(residual: bool) -> Vae:
    torch.manual_seed(3)
    mean, std = tuple(0.1 * i for i in range(4)), tuple(0.5 + 0.1 * i for i in range(4))
    return Vae(VaeConfig(4, 8, 8, 1, residual, 2 if residual else 1, mean, std))


def clip(frames: int, size: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, size, size) * 2 - 1


@pytest.mark.parametrize('residual', [False, True])
def test_a_clip_encoded_piece_by_piece_equals_the_library_at_once(residual) -> None:
    vae, video = toy(residual), clip(13, 32)
    whole = vae.net.encode(video).latent_dist.mode()
    mean = torch.tensor(vae.config.mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.std).view(1, -1, 1, 1, 1)
    latents, context = vae.encode_first_frame(video[:, :, :1])
    pieces = [latents]
    for start, stop in ((1, 5), (5, 13)):
        latents, context = vae.encode_next_frames(context, video[:, :, start:stop])
        pieces.append(latents)
    assert torch.allclose(torch.cat(pieces, dim=2), (whole - mean) / std, atol=1e-5)
    assert torch.allclose(vae.encode(video), (whole - mean) / std, atol=1e-5)


def test_the_past_matters_and_a_context_can_be_continued_twice() -> None:
    vae, video = toy(False), clip(9, 16)
    _, context = vae.encode_first_frame(video[:, :, :1])
    first, _ = vae.encode_next_frames(context, video[:, :, 1:5])
    again, _ = vae.encode_next_frames(context, video[:, :, 1:5])
    assert torch.equal(first, again)
    _, elsewhere = vae.encode_first_frame(-video[:, :, :1])
    other, _ = vae.encode_next_frames(elsewhere, video[:, :, 1:5])
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(('residual', 'stride'), [(False, 8), (True, 16)])
def test_shapes_and_range(residual, stride) -> None:
    vae = toy(residual)
    latents = vae.encode(clip(5, 32))
    assert latents.shape == (1, 4, 2, 32 // stride, 32 // stride)
    assert vae.config.stride == stride
    video = vae.decode(latents * 10)
    assert video.shape == (1, 3, 5, 32, 32)
    assert video.abs().max() <= 1


def test_wrong_frame_counts_are_refused() -> None:
    vae = toy(False)
    with pytest.raises(ValueError, match='begins with one frame, got 2'):
        vae.encode_first_frame(clip(2, 16))
    _, context = vae.encode_first_frame(clip(1, 16))
    with pytest.raises(ValueError, match='multiple of 4 frames, got 3'):
        vae.encode_next_frames(context, clip(3, 16))


def test_constants_of_the_public_autoencoders_match_their_channels() -> None:
    assert (WAN21.channels, WAN21.stride) == (16, 8)
    assert (WAN22.channels, WAN22.stride) == (48, 16)
    with pytest.raises(ValueError, match='as many means'):
        VaeConfig(4, 8, 8, 1, False, 1, (0.0,) * 3, (1.0,) * 4)
    with pytest.raises(ValueError, match='not positive'):
        VaeConfig(1, 8, 8, 1, False, 1, (0.0,), (0.0,))
