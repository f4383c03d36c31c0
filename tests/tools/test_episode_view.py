"""Pages of episodes: what a reader of the file finds in it, also of bags that are not ours."""

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from wam_tools.episode_view import episode_command
from wam_tools.episode_view.page_writer import MAX_MB_PER_MINUTE, find_tone

ROOT = Path(__file__).resolve().parents[2]
START_NS, DURATION_S, RATE_HZ = 1_700_000_000_000_000_000, 6, 20
HOSTILE = 'take </script><b onclick="x()">the cube'
CHROMIUM = shutil.which('chromium')


def make_store() -> Any:
    """Return Jazzy's message types and ours, by their definitions."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in (ROOT / 'src/wam_msgs/msg').glob('*.msg'):
        store.register(get_types_from_msg(path.read_text(), f'wam_msgs/msg/{path.stem}'))
    store.register(
        get_types_from_msg(
            'std_msgs/Header header\nstring[] joint_names\n'
            'trajectory_msgs/JointTrajectoryPoint reference\n'
            'trajectory_msgs/JointTrajectoryPoint feedback\n',
            'control_msgs/msg/JointTrajectoryControllerState',
        )
    )
    return store


class BagMaker:
    """Write messages given as plain values; what is not given is zero or empty."""

    def __init__(self, path: Path) -> None:
        self.store = make_store()
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> 'BagMaker':
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, topic: str, kind: str, at_s: float, **values: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self.store
            )
        at_ns = START_NS + round(at_s * 1e9)
        message = self._build(kind, {'header': {'stamp': at_ns}, **values})
        self._writer.write(
            self._connections[topic], at_ns, self.store.serialize_cdr(message, kind)
        )

    def _build(self, kind: str, values: Mapping[str, Any]) -> Any:
        constants, fields = self.store.fielddefs[kind]
        filled = {}
        for name, (node, detail) in fields:
            value = values.get(name)
            if node == 1 and detail[0] in ('string',) and value is None:
                value = ''
            elif node == 1:
                value = value if value is not None else (False if detail[0] == 'bool' else 0)
            elif node == 2:
                value = (
                    self._build_stamp(value)
                    if detail == 'builtin_interfaces/msg/Time'
                    else self._build(detail, value or {})
                )
            elif value is None or not len(value):
                value = [] if detail[0][1][0] == 'string' or detail[0][0] == 2 else np.zeros(0)
            elif isinstance(value, list) and not isinstance(value[0], str):
                value = np.array(value)
            filled[name] = value
        return self.store.types[kind](**filled)

    def _build_stamp(self, at_ns: int | None) -> Any:
        sec, nanosec = divmod(at_ns or 0, 1_000_000_000)
        return self.store.types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)


def make_image(at_s: float) -> np.ndarray:
    """Return a gray image whose value tells the time: 30 per second."""
    return np.full((48, 64, 3), 20 + round(30 * at_s), np.uint8)


def write_foreign_bag(path: Path) -> None:
    with BagMaker(path) as bag:
        for number in range(DURATION_S * RATE_HZ):
            at_s = number / RATE_HZ
            bag.write(
                '/front/image_raw',
                'sensor_msgs/msg/Image',
                at_s,
                height=48,
                width=64,
                encoding='rgb8',
                step=192,
                data=make_image(at_s).reshape(-1),
            )
            jpeg = cv2.imencode('.png', make_image(at_s))[1].reshape(-1)
            bag.write(
                '/wrist/color/compressed',
                'sensor_msgs/msg/CompressedImage',
                at_s,
                format='png',
                data=jpeg[:9] if number == 60 else jpeg,
            )
            bag.write(
                '/joint_states',
                'sensor_msgs/msg/JointState',
                at_s,
                name=['a', 'b'],
                position=[at_s, float('nan')],
            )
        bag.write(
            '/depth',
            'sensor_msgs/msg/Image',
            1.0,
            height=2,
            width=2,
            encoding='16UC1',
            step=4,
            data=np.zeros(8, np.uint8),
        )
        bag.write('/task/instruction', 'std_msgs/msg/String', 1.0, data=HOSTILE)


def read_page(path: Path) -> dict[str, Any]:
    """Return the data of a page, taken out as a browser does."""
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL
    )
    return json.loads(text)


def decode_video(camera: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Yield time in s and mean value of every frame."""
    with av.open(io.BytesIO(base64.b64decode(camera['video'])), 'r') as container:
        for frame in container.decode(video=0):
            yield float(frame.time or 0.0), float(frame.to_ndarray(format='rgb24').mean())


@pytest.fixture(scope='module')
def foreign_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('foreign')
    write_foreign_bag(folder / 'of others')
    assert episode_command.main(['view', str(folder / 'of others'), '-o', str(folder)]) == 0
    return folder / 'of others.html'


def test_a_bag_of_others_is_shown_as_far_as_its_topics_allow(foreign_page: Path) -> None:
    data = read_page(foreign_page)
    assert data['title'] == HOSTILE and data['duration'] == pytest.approx(DURATION_S, abs=0.1)
    assert [camera['title'] for camera in data['cameras']] == ['front', 'wrist']
    for camera in data['cameras']:
        assert camera['note'] == '20 images/s'
        frames = list(decode_video(camera))
        assert len(frames) == round(data['duration'] * 10)
        for at_s, value in frames:
            assert value == pytest.approx(20 + 30 * at_s, abs=8)
    (joints,) = data['joints']
    assert joints['names'] == ['a', 'b'] and joints['commanded'] is None
    for at_s, (a, b) in zip(joints['times'], joints['measured'], strict=True):
        assert a == pytest.approx(at_s, abs=1e-3) and b == 0.0
    assert [text for _, _, text in data['events']] == [HOSTILE]
    assert sorted(data['remarks']) == [
        '/depth: images of encoding 16UC1 are not shown',
        '/wrist/color: 1 images cannot be read',
    ]


def test_a_page_needs_no_network_and_is_small(foreign_page: Path) -> None:
    text = foreign_page.read_text()
    assert not re.search(r'(?:src|href)=|https?://|@import|url\(', text)
    assert len(re.findall('<script', text)) == 2 and HOSTILE not in text
    assert foreign_page.stat().st_size < MAX_MB_PER_MINUTE * 1e6 * DURATION_S / 60


def test_the_size_is_bounded_for_pictures_that_do_not_compress(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with BagMaker(tmp_path / 'noise') as bag:
        for number in range(DURATION_S * 10):
            for camera in range(4):
                jpeg = cv2.imencode('.jpg', rng.integers(0, 255, (240, 320, 3)).astype(np.uint8))
                bag.write(
                    f'/camera{camera}/compressed',
                    'sensor_msgs/msg/CompressedImage',
                    number / 10,
                    format='jpeg',
                    data=jpeg[1].reshape(-1),
                )
    page = episode_command.write_page(tmp_path / 'noise', tmp_path)
    assert page.stat().st_size < MAX_MB_PER_MINUTE * 1e6 * DURATION_S / 60


def test_our_states_commands_and_predictions_are_shown(tmp_path: Path) -> None:
    with BagMaker(tmp_path / 'ours') as bag:
        for number in range(40):
            at_s, moving = number / 20, number >= 20
            bag.write(
                '/left_arm_controller/controller_state',
                'control_msgs/msg/JointTrajectoryControllerState',
                at_s,
                joint_names=['a'],
                reference={'positions': [at_s]},
                feedback={'positions': [at_s - 0.1]},
            )
            bag.write(
                '/joint_states',
                'sensor_msgs/msg/JointState',
                at_s,
                name=['a', 'head'],
                position=[0.0, 1.0],
            )
            bag.write(
                '/wam/motion_status',
                'wam_msgs/msg/MotionStatus',
                at_s,
                state_name='ESTOPPED' if moving else 'TRACKING',
                reason='e-stop on request' if moving else '',
            )
            bag.write(
                '/wam/status',
                'wam_msgs/msg/PolicyStatus',
                at_s,
                state_name='RUNNING',
                trained=False,
                instruction='wave',
            )
            bag.write(
                '/wam/predicted_video/compressed',
                'sensor_msgs/msg/CompressedImage',
                at_s,
                header={'stamp': START_NS + round((at_s + 0.5) * 1e9)},
                format='png',
                data=cv2.imencode('.png', make_image(at_s + 0.5))[1].reshape(-1),
            )
    data = read_page(episode_command.write_page(tmp_path / 'ours', tmp_path))
    joints, rest = data['joints']  # those with commands first
    assert rest['names'] == ['head']  # of joint_states, what no controller has
    assert joints['source'] == 'left arm controller'
    for at_s, (commanded,), (measured,) in zip(
        joints['times'], joints['commanded'], joints['measured'], strict=True
    ):
        assert commanded == pytest.approx(at_s, abs=1e-3)
        assert measured == pytest.approx(at_s - 0.1, abs=1e-3)
    tracks = {track['title']: track['parts'] for track in data['tracks']}
    assert [(part[2], part[3]) for part in tracks['motion']] == [
        ('TRACKING', 'ok'),
        ('ESTOPPED', 'stop'),
    ]
    assert tracks['motion'][1][:2] == [1.0, pytest.approx(1.95)]
    assert [text for _, _, text in data['events']] == ['ESTOPPED: e-stop on request']
    assert data['remarks'] == ['the model has random weights: its motion means nothing']
    (predicted,) = data['cameras']
    assert predicted['predicted'] and predicted['note'] == 'up to 0.5 s ahead'
    # a frame stands where it was predicted for, not where it was predicted
    for at_s, value in list(decode_video(predicted))[6:]:
        assert value == pytest.approx(20 + 30 * at_s, abs=8)


def test_a_bag_with_nothing_to_show_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagMaker(tmp_path / 'words') as bag:
        bag.write('/chatter', 'std_msgs/msg/String', 0.0, data='hello')
    assert episode_command.main(['view', str(tmp_path / 'words'), str(tmp_path / 'none')]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert 'nothing to show: neither color images nor joint states among /chatter' in first
    assert 'does not exist' in second
    assert not list(tmp_path.glob('*.html'))


@pytest.mark.parametrize(
    ('text', 'tone'),
    [('PROTECTIVE_STOP', 'stop'), ('TRACKING', 'ok'), ('HOLDING', 'rest'), ('DISABLED', '')],
)
def test_colors_mean_states(text: str, tone: str) -> None:
    assert find_tone(text) == tone


@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_a_browser_builds_the_page(foreign_page: Path, tmp_path: Path) -> None:
    flags = '--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking'
    process = subprocess.run(
        [
            str(CHROMIUM),
            *flags.split(),
            f'--user-data-dir={tmp_path}',
            '--virtual-time-budget=3000',
            '--dump-dom',
            f'{foreign_page.as_uri()}#t=3',
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    page = process.stdout
    assert page.count('<video') == 2 and page.count('<canvas') == 2
    assert '0:03.0' in page  # the clock
    assert '<b onclick' not in page and '&lt;b onclick' in page
