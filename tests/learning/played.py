"""Data that is made in a moment: a lamp in the head's picture says where the arms should go."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch

from wam_learning.data.episode_arrays import PIXEL, PLACE, SUPERVISED
from wam_learning.data.lerobot_writer import LeRobotWriter
from wam_learning.data.time_sync import SynchronizedSample
from wam_policy.core.robot import embodiment
from wam_policy.core.types import Frame, JointState, Observation
from wam_policy.model.checkpoint import checkpoint_folder, model_spec
from wam_policy.model.checkpoint.checkpoint_folder import WorldActionModel
from wam_policy.model.encoders.conv_vae import ConvVaeConfig
from wam_policy.model.encoders.encoder_stack import EncoderConfig, Encoders
from wam_policy.model.encoders.text_encoder import ByteTokenizer, TextConfig
from wam_policy.model.network.video_action_dit import VideoActionDiT

SIZE = (64, 48)
ROWS = 70
TEXTS = ('touch the red lamp', 'touch the blue lamp')
PERTURBED_ROWS = range(30, 36)  # rows of every third episode


def write_dataset(
    folder: Path,
    episodes: int = 6,
    rows: int = ROWS,
    labels: bool = True,
    robot_name: str = 'agibot_g1',
) -> Path:
    """Write episodes; every second one changes its text at row 40."""
    robot = embodiment.load_embodiment(robot_name)
    into = LeRobotWriter(folder, robot)
    for number in range(episodes):
        right = number % 2
        for row in range(rows):
            told = {
                SUPERVISED: not (number % 3 == 0 and row in PERTURBED_ROWS),
                PIXEL: np.array([0.25 + 0.5 * right, 0.5], np.float32),
                PLACE: np.array([0.7, -0.1 + 0.2 * right], np.float32),
            }
            text = TEXTS[(right + (right and row >= 40)) % 2]
            into.add_sample(_make_sample(robot, row, right, text), told if labels else {})
        into.end_episode({'family': ('touch', 'recall')[right]})
    return into.finalize({})


def read_frames(path: Path) -> np.ndarray:
    """Decode a complete short video: uint8 [frames height width 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])


def _make_sample(robot, index: int, right: int, text: str) -> SynchronizedSample:
    names, rest = robot.observed, robot.home_positions(robot.observed).copy()
    rest[:3] += 0.004 * index * (1 if right else -1)
    targets = rest[: len(robot.commanded)].copy()
    targets[:3] += 0.05 * (1 if right else -1)
    pictures = []
    for camera in robot.cameras:
        rgb = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
        rgb[16:32, 8 + 32 * right : 24 + 32 * right, 0] = 160 + index
        pictures.append(Frame(camera.key, index, rgb))
    return SynchronizedSample(
        index, Observation(index, tuple(pictures), JointState(index, names, rest)), targets, text
    )


def make_tiny_policy(seed: int = 0) -> WorldActionModel:
    """Make the smallest policy of our own kind, untrained and without statistics."""
    torch.manual_seed(seed)
    whole = model_spec.make_preset_spec('mini')
    model = replace(
        whole.model,
        dim=32,
        heads=2,
        layers=2,
        ffn_dim=48,
        freq_dim=16,
        text_dim=16,
        action_hidden=32,
        latent_channels=4,
        text_len=32,
    )
    parts = EncoderConfig(
        ConvVaeConfig(4, (8, 8, 8), (0.0,) * 4, (1.0,) * 4),
        TextConfig(ByteTokenizer.VOCAB_SIZE, 16, 2, 8, 32, 1, 8),
        None,
        'bytes',
    )
    made = replace(whole, model=model, encoders=parts)
    return WorldActionModel(
        made,
        VideoActionDiT(model),
        Encoders(parts, model.latent_size, ByteTokenizer(32)),
        {},
        'tiny',
    )


def save_tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    checkpoint_folder.save(make_tiny_policy(seed), folder)
    return folder
