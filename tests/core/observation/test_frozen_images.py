"""A camera that repeats its picture, or shows one color, is noticed; a quiet scene is not."""

import numpy as np
import pytest

from wam_policy.core.observation.frozen_images import FROZEN_NS, FrozenImageMonitor
from wam_policy.core.observation.observation_buffer import ObservationBuffer, ObservationRejection
from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.core.session.policy_session import PolicySession, SessionSettings
from wam_policy.core.types import Frame, JointState

MS, START_NS = 1_000_000, 100 * 1_000_000_000
ROBOT = load_embodiment('yam')
TOP = ROBOT.cameras[0].key
RNG = np.random.default_rng(3)


def draw_picture() -> np.ndarray:
    return RNG.integers(0, 255, (48, 64, 3), np.uint8)


def show(monitor: FrozenImageMonitor, pictures, period_ms: float = 33.3, start_ms: float = 0):
    """Show pictures one after the other; return what was said after each."""
    answers = []
    for k, rgb in enumerate(pictures):
        stamp_ns = START_NS + round((start_ms + k * period_ms) * MS)
        monitor.update(Frame(TOP, stamp_ns, rgb))
        answers.append(monitor.check(TOP))
    return answers


@pytest.mark.parametrize('hz', [10, 15, 30, 60])
def test_the_same_picture_under_new_stamps_is_noticed_within_0_7_s(hz):
    monitor, picture = FrozenImageMonitor([TOP]), draw_picture()
    answers = show(monitor, [picture.copy() for _ in range(hz)], 1000 / hz)
    first = next(k for k, answer in enumerate(answers) if answer)
    assert FROZEN_NS / 1e9 <= first / hz <= 0.65
    assert 'the same picture' in answers[first] and 'detect_frozen_images' in answers[first]
    assert not show(monitor, [draw_picture()], start_ms=1100)[0]  # it works again


def test_one_value_of_noise_in_a_picture_is_enough():
    picture = draw_picture()
    pictures = []
    for k in range(60):
        pictures.append(picture.copy())
        pictures[-1].reshape(-1)[k] ^= 1
    assert not any(show(FrozenImageMonitor([TOP]), pictures))


def test_a_frame_that_comes_twice_is_no_frozen_camera():
    pictures = [picture for picture in (draw_picture() for _ in range(5)) for _ in range(2)]
    assert not any(show(FrozenImageMonitor([TOP]), pictures, 300))


@pytest.mark.parametrize('level', [0, 128, 255])
def test_a_covered_lens_is_noticed_noise_included(level):
    dark = np.clip(level + RNG.integers(-3, 4, (40, 48, 64, 3)), 0, 255).astype(np.uint8)
    answers = show(FrozenImageMonitor([TOP]), dark)
    assert 'of one color (brightness' in answers[-1] and 'lens covered' in answers[-1]
    assert answers[3] is None  # a flicker is none


def test_one_bright_spot_is_a_picture():
    dark = np.zeros((40, 48, 64, 3), np.uint8)
    for k, picture in enumerate(dark):
        picture[5, 7] = 100 + k
    assert not any(show(FrozenImageMonitor([TOP]), dark))


@pytest.mark.parametrize(
    'stamps_ms', [[0] * 40, [-100 * k for k in range(40)]], ids=['the same stamp', 'going back']
)
def test_frames_that_are_not_newer_say_nothing(stamps_ms):
    monitor, picture = FrozenImageMonitor([TOP]), draw_picture()
    for ms in stamps_ms:
        monitor.update(Frame(TOP, START_NS + ms * MS, picture))
    assert monitor.check(TOP) is None


def test_a_picture_of_another_size_is_another_picture():
    pictures = [np.full((k, 8, 3), 7, np.uint8) for k in range(1, 30)]
    for picture in pictures:
        picture[0, 0] = 200
    assert not any(show(FrozenImageMonitor([TOP]), pictures))


def fill(observations: ObservationBuffer, picture: np.ndarray) -> ObservationBuffer:
    for ms in range(0, 800, 33):
        for camera in ROBOT.cameras:
            rgb = picture if camera.key == TOP else draw_picture()
            frame = Frame(camera.key, START_NS + ms * MS, rgb)
            observations.image_monitor.update(frame)
            observations.camera_buffers[camera.key].put(frame)
        observations.joint_buffer.put(
            JointState(START_NS + ms * MS, ROBOT.observed, ROBOT.home_positions(ROBOT.observed))
        )
    return observations


def test_a_frozen_camera_makes_no_observation_and_is_named():
    seen = fill(ObservationBuffer(ROBOT, detect_frozen_images=True), draw_picture())
    rejection = seen.latest_observation(START_NS + 800 * MS)
    assert isinstance(rejection, ObservationRejection) and rejection.source == TOP
    assert not rejection.missing and ROBOT.cameras[0].topic in rejection.reason
    seen.clear()
    assert seen.image_monitor.check(TOP) is None


def test_a_simulator_without_noise_can_say_so():
    seen = fill(ObservationBuffer(ROBOT, detect_frozen_images=False), draw_picture())
    assert not isinstance(seen.latest_observation(START_NS + 800 * MS), ObservationRejection)


def test_the_session_watches_what_its_settings_say():
    for enabled in (False, True):
        session = PolicySession(ROBOT, SessionSettings(detect_frozen_images=enabled), 'one')
        picture = draw_picture()
        for ms in range(0, 800, 33):
            session.on_frame(Frame(TOP, START_NS + ms * MS, picture), START_NS + ms * MS)
        assert bool(session.observations.image_monitor.check(TOP)) is enabled
