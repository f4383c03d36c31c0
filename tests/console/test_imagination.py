"""Predictions wait for the real frames of their instants, and both stand alike on the canvas."""

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.serialization import serialize_message

from wam_console.imagination import ImaginationPairs, compose, describe_tiles
from wam_policy.core.observation.view_tiles import LAYOUTS, make_layout
from wam_policy.model.encoders import view_layout
from wam_policy.nodes.images import image_conversion
from wam_policy.nodes.images.cdr_image import read_image

CAMERAS = ('head', 'left', 'right')
MS = 1_000_000


def image(shade, stamp_ms):
    rgb = np.full((48, 64, 3), shade, np.uint8)
    return serialize_message(image_conversion.image_to_msg(rgb, stamp_ms * MS, 'camera'))


def decode(raw, camera):
    return image_conversion.frame_from_msg(read_image(raw), camera).rgb


def add_images(pairs, *stamps_ms):
    for camera in CAMERAS:
        for stamp_ms in stamps_ms:
            pairs.add_image(camera, stamp_ms * MS, image(stamp_ms // 10, stamp_ms))


@pytest.mark.parametrize('name', sorted(LAYOUTS))
def test_real_frames_stand_where_the_model_puts_them(name):
    count = LAYOUTS[name][0]
    layout = make_layout(name, CAMERAS[:count], 64, 96)
    random = np.random.default_rng(0)
    views = {
        camera: cv2.resize(random.integers(0, 256, (12, 16, 3), np.uint8), (320, 240))
        for camera in CAMERAS[:count]
    }
    ours = compose(views, layout)
    tensors = {camera: torch.from_numpy(rgb[None]) for camera, rgb in views.items()}
    theirs = view_layout.compose_views(tensors, layout)[0].numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 3.0


@pytest.mark.parametrize('name', sorted(LAYOUTS))
def test_the_page_cuts_out_what_was_placed(name):
    cameras = CAMERAS[: LAYOUTS[name][0]]
    layout = make_layout(name, cameras, 64, 96)
    views = {
        camera: np.full((48, 64, 3), shade, np.uint8)
        for camera, shade in zip(cameras, (50, 120, 190), strict=False)
    }
    canvas = compose(views, layout)
    tiles = describe_tiles(name, cameras)
    for (left, top, width, height), camera in zip(tiles, cameras, strict=True):
        rows = slice(round(top * layout.height), round((top + height) * layout.height))
        columns = slice(round(left * layout.width), round((left + width) * layout.width))
        assert canvas[rows, columns].size and (canvas[rows, columns] == views[camera][0, 0]).all()


@pytest.mark.parametrize('name, cameras', [('', CAMERAS), ('other', CAMERAS), ('single', CAMERAS)])
def test_a_canvas_of_unknown_layout_stays_whole(name, cameras):
    assert describe_tiles(name, cameras) is None


def test_a_prediction_is_shown_at_once_and_paired_when_its_instant_has_come():
    pairs = ImaginationPairs(CAMERAS, decode)
    add_images(pairs, 100, 200)
    predicted = np.full((64, 96, 3), 7, np.uint8)
    pairs.add_prediction(400 * MS, predicted, 'head_beside_hands')
    (first,) = pairs.take_ready()
    assert not first.is_real and first.rgb is predicted
    add_images(pairs, 300)
    assert pairs.take_ready() == []
    add_images(pairs, 390, 480)
    (real,) = pairs.take_ready()
    assert real.is_real and real.number == first.number and real.rgb.shape == predicted.shape
    assert (real.rgb == 39).all()  # of the nearest frame, 390 ms
    assert pairs.take_ready() == []


def test_without_a_layout_or_after_closing_nothing_is_paired():
    pairs = ImaginationPairs(CAMERAS, decode)
    pairs.add_prediction(100 * MS, np.zeros((64, 96, 3), np.uint8), '')
    add_images(pairs, 50, 150)
    assert [frame.is_real for frame in pairs.take_ready()] == [False]
    pairs.add_prediction(200 * MS, np.zeros((64, 96, 3), np.uint8), 'head_beside_hands')
    pairs.clear()
    add_images(pairs, 150, 250)
    assert pairs.take_ready() == []


def test_memory_is_bounded_whatever_the_rate():
    pairs = ImaginationPairs(CAMERAS, decode)
    for stamp_ms in range(0, 20_000, 5):
        pairs.add_image('head', stamp_ms * MS, b'image')
        pairs.add_prediction(10**15, np.zeros((2, 3, 3), np.uint8), 'head_beside_hands')
    assert len(pairs._images['head']) < 80 and len(pairs._pending) < 50 and len(pairs._ready) < 20
    pairs.add_image('head', 0, b'image')  # the clock was set back
    assert len(pairs._images['head']) == 1
