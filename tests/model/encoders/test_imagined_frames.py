"""Imagined frames: what moves is the prediction, what does not has the pixels of the camera."""

import torch

from wam_policy.model.encoders.imagined_frames import draw_onto

HEIGHT, WIDTH = 64, 96


def make_frames(seed: int, frames: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, HEIGHT, WIDTH, 3), generator=generator).byte()


def test_errors_of_the_autoencoder_do_not_reach_a_still_image() -> None:
    last = make_frames(0, 1)
    rebuilt = (last.float() * 0.8 + 20).byte()  # a blurred copy
    drawn = draw_onto(last, rebuilt, rebuilt.expand(4, -1, -1, -1))
    assert torch.equal(drawn, last.expand_as(drawn)) and drawn.dtype == torch.uint8


def test_what_moves_is_the_prediction_and_only_there() -> None:
    last = torch.full((1, HEIGHT, WIDTH, 3), 200, dtype=torch.uint8)
    rebuilt = last - 4
    predicted = rebuilt.repeat(4, 1, 1, 1)
    predicted[2:, :, :40] = 90  # an arm enters from the left in the third frame
    drawn = draw_onto(last, rebuilt, predicted)
    assert torch.equal(drawn[:2], last.expand(2, -1, -1, -1))
    assert (drawn[2:, :, :30] == 90).all() and (drawn[2:, :, 60:] == 200).all()
    edge = drawn[3, HEIGHT // 2, :, 0].int()
    assert (edge.diff() >= 0).all()  # from one to the other without a seam of its own
