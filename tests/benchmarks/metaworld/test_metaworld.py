"""What is ours of the Meta-World benchmark, without that package: rows, robot, wire, episodes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest
from websockets.sync.server import ServerConnection, serve

from benchmarks.metaworld import format_results, sawyer_actions
from benchmarks.metaworld.chunk_policies import (
    ExpertRows,
    RandomRows,
    ServedRows,
    check_rows,
    run_episode,
)
from benchmarks.metaworld.dataset_rows import ROBOTS_FOLDER, RowWriter, load_sawyer
from benchmarks.metaworld.mt10_tasks import HORIZON, IMAGE_PERIOD_ROWS, INSTRUCTIONS
from benchmarks.metaworld.policy_client import OpenPiClient, PolicyServerError
from benchmarks.remote_latency import run_server
from wam_learning.data import episode_arrays
from wam_policy import robot_folders
from wam_policy.model.checkpoint.model_spec import make_preset_spec
from wam_policy.servers import server_profile

PROFILE = ROBOTS_FOLDER.parent / 'metaworld_sawyer.yaml'
CAMERAS = ('scene', 'side', 'gripper_view')


@pytest.fixture
def robot_path(monkeypatch) -> None:
    monkeypatch.setenv(robot_folders.ROBOT_PATH_VARIABLE, str(ROBOTS_FOLDER))


# ---- robot and actions


def test_the_robot_fits_the_model_and_its_profile(robot_path) -> None:
    robot, model = load_sawyer(), make_preset_spec('mini').model
    assert robot.horizon == HORIZON == model.actions_per_block
    assert model.actions_per_block // model.block_pixel_frames == IMAGE_PERIOD_ROWS
    profile = server_profile.load_for_robot(str(PROFILE), robot)
    assert tuple(profile.cameras) == CAMERAS == tuple(camera.key for camera in robot.cameras)
    assert profile.step_hz == pytest.approx(1 / robot.step_dt_s)


def test_every_block_of_the_robot_has_a_source() -> None:
    text = (ROBOTS_FOLDER / 'metaworld_sawyer' / 'README.md').read_text()
    for block in ('model', 'joints', 'grippers', 'cameras', 'controllers', 'rest', 'safety'):
        assert block in [word for line in text.splitlines() if line.startswith('## ')
                         for word in line[3:].split(', ')], block  # fmt: skip


def test_an_action_becomes_a_row_and_back() -> None:
    setpoint, action = np.array([0.1, 0.6, 0.2]), np.array([0.5, -1.0, 0.25, -1.0])
    row = sawyer_actions.to_row(setpoint + sawyer_actions.STEP_M * action[:3], action[3])
    np.testing.assert_allclose(row, [0.105, 0.59, 0.2025, 1.0])
    np.testing.assert_allclose(sawyer_actions.to_action(row, setpoint), action)


def test_an_action_stays_in_its_range() -> None:
    action = sawyer_actions.to_action(np.array([0.5, 0.4, 0.2, 1.7]), np.array([0.0, 0.6, 0.2]))
    np.testing.assert_allclose(action, [1.0, -1.0, 0.0, -1.0], atol=1e-12)


def test_sentences_are_different_and_short_enough() -> None:
    assert len(set(INSTRUCTIONS.values())) == len(INSTRUCTIONS) == 10
    length = make_preset_spec('mini').model.text_len
    assert max(len(text.encode()) for text in INSTRUCTIONS.values()) < length


# ---- data set


def test_the_trainer_reads_what_the_writer_wrote(tmp_path: Path, robot_path) -> None:
    rows = RowWriter(tmp_path / 'demos' / 'reach-v3')
    rng = np.random.default_rng(0)
    states = rng.uniform([0, 0.5, 0.1, 0], [0.2, 0.8, 0.3, 1], (30, 4))
    targets = rng.uniform([0, 0.5, 0.1, 0], [0.2, 0.8, 0.3, 1], (30, 4))
    colors = {camera: 40 + 60 * i for i, camera in enumerate(CAMERAS)}
    for episode in range(2):
        for i in range(30):
            images = {
                camera: np.full((128, 128, 3), color, np.uint8) for camera, color in colors.items()
            }
            rows.add_row(
                states[i], targets[i], images, 'open the door', by_expert=episode == 0 or i > 9
            )
        rows.end_episode('door-open-v3')
    rows.writer.finalize({'source': 'test'})
    data = episode_arrays.read_datasets([tmp_path / 'demos'], make_preset_spec('mini'))
    assert data.robot.name == 'metaworld_sawyer' and data.frame_stride == IMAGE_PERIOD_ROWS
    assert data.texts == ('open the door',)
    assert [span.family for span in data.episodes] == ['door-open-v3'] * 2
    np.testing.assert_allclose(data.state[:30], states, atol=1e-6)
    np.testing.assert_allclose(data.action[30:], targets, atol=1e-6)
    assert data.supervised.tolist() == [True] * 30 + [False] * 10 + [True] * 20
    canvas = data.canvases[0][0].astype(int)  # scene 64x64, the two others 32x32 beside it
    for (top, left), camera in zip(((32, 32), (16, 80), (48, 80)), CAMERAS, strict=True):
        assert np.abs(canvas[top, left] - colors[camera]).max() <= 3


# ---- the wire: a server written from the protocol, not with our code


class SpecServer:
    """Answer as an OpenPI server does, keep what was received."""

    def __init__(self) -> None:
        self.received: list[dict] = []
        self.rows = np.tile(np.array([0.1, 0.6, 0.2, 1.0], np.float32), (HORIZON, 1))
        self.error = ''

    def handle(self, connection: ServerConnection) -> None:
        connection.send(msgpack.packb({'action_horizon': HORIZON}))
        for raw in connection:
            message = msgpack.unpackb(raw)
            self.received.append(message)
            if self.error:
                connection.send(self.error)
                return
            if message.get('endpoint') == 'reset':
                connection.send('reset successful')
            elif message.get('endpoint') == 'commit':
                connection.send(msgpack.packb({'block': message['block']}))
            else:
                array = {
                    b'__ndarray__': True,
                    b'data': self.rows.tobytes(),
                    b'dtype': self.rows.dtype.str,
                    b'shape': list(self.rows.shape),
                }
                connection.send(msgpack.packb({'actions': array}))

    def count(self, endpoint: str) -> int:
        return sum(message.get('endpoint', 'infer') == endpoint for message in self.received)


@pytest.fixture
def spec_server() -> Iterator[tuple[SpecServer, str]]:
    double = SpecServer()
    with serve(double.handle, '127.0.0.1', 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield double, f'ws://127.0.0.1:{server.socket.getsockname()[1]}'
        server.shutdown()
        thread.join()


class FlatScene:
    """A hand that follows its setpoint exactly; success where x is large enough."""

    def __init__(self, goal_x: float) -> None:
        self.instruction, self.goal_x = 'open the door', goal_x
        self.setpoint, self.step_count = np.array([0.0, 0.6, 0.2]), 0
        self.success, self.actions = False, []

    @property
    def observation(self) -> np.ndarray:
        return np.array([*self.setpoint, 1.0, 9.0, 9.0])

    def compute_expert_action(self) -> np.ndarray:
        return np.array([1.0, 0.0, 0.0, -1.0])

    def step(self, action: np.ndarray) -> None:
        self.actions.append(action)
        self.setpoint = self.setpoint + sawyer_actions.STEP_M * action[:3]
        self.step_count += 1
        self.success = self.setpoint[0] >= self.goal_x - 1e-9

    def render(self) -> dict[str, np.ndarray]:
        return {camera: np.full((128, 128, 3), self.step_count, np.uint8) for camera in CAMERAS}


def test_without_memory_every_query_starts_with_the_newest_image(spec_server) -> None:
    double, address = spec_server
    client, scene = OpenPiClient(address), FlatScene(goal_x=9.0)
    assert client.metadata == {'action_horizon': HORIZON}
    run_episode(scene, ServedRows(client, 'none'), 3, rows_per_query=12, max_steps=48)
    client.close()
    assert (double.count('reset'), double.count('infer'), double.count('commit')) == (4, 4, 0)
    queries = [message for message in double.received if 'prompt' in message]
    shown = [message['observation/scene'] for message in queries]
    assert [list(image[b'shape']) for image in shown] == [[1, 128, 128, 3]] * 4
    assert [image[b'data'][0] for image in shown] == [0, 12, 24, 36]
    assert queries[0]['prompt'] == 'open the door'
    assert len({message['seed'] for message in queries}) == 4  # a draw of noise per query
    state = np.frombuffer(queries[1]['observation/hand_position'][b'data'], np.float32)
    np.testing.assert_allclose(state, [0.1, 0.6, 0.2], atol=1e-6)  # it went there and stayed
    np.testing.assert_allclose(scene.actions[0], [1, 0, 0, -1], atol=1e-5)


def test_with_memory_blocks_of_four_images_are_committed(spec_server) -> None:
    double, address = spec_server
    client = OpenPiClient(address)
    run_episode(FlatScene(goal_x=9.0), ServedRows(client, 'blocks'), 0, 12, max_steps=49)
    client.close()
    commits = [message for message in double.received if message.get('endpoint') == 'commit']
    assert [message['block'] for message in commits] == [0, 1, 2]
    images = [message['observation/side'] for message in commits]
    assert [image[b'shape'][0] for image in images] == [1, 4, 4]
    pixels = np.frombuffer(images[1][b'data'], np.uint8).reshape(4, -1)[:, 0]
    assert pixels.tolist() == [6, 12, 18, 24]
    queries = [message for message in double.received if 'endpoint' not in message]
    assert ['observation/scene' in message for message in queries] == [
        False,
        True,
        False,
        True,
        False,
    ]  # right after a commit it carries no image
    assert double.received[0]['memory'] == 'clocked' and double.count('reset') == 1


@pytest.mark.parametrize('error', ['InvalidClientRequest: no', 'Traceback\nValueError: no'])
def test_an_error_of_the_server_ends_the_evaluation(spec_server, error: str) -> None:
    double, address = spec_server
    double.error = error
    client = OpenPiClient(address)
    with pytest.raises(PolicyServerError, match='no'):
        run_episode(FlatScene(goal_x=9.0), ServedRows(client, 'none'), 0, 12, max_steps=24)
    client.close()


@pytest.mark.parametrize(
    'actions',
    [
        np.zeros((24, 7)),
        np.full((24, 4), np.nan),
        np.zeros((0, 4)),
        np.zeros((2, 4), np.int64),
        None,
    ],
)
def test_rows_that_are_none_are_refused(actions) -> None:
    with pytest.raises(PolicyServerError):
        check_rows({'actions': actions})


@pytest.mark.slow
@pytest.mark.parametrize('memory', ['none', 'blocks'])
def test_our_server_answers_the_benchmark(robot_path, memory: str) -> None:
    """Run an episode against `./wam serve` with random weights of this robot."""
    command = (
        *('-m', 'wam_policy.servers.serve', '--embodiment', 'metaworld_sawyer'),
        *('--server-profile', str(PROFILE), '--checkpoint', 'preset:tiny', '--steps', '1'),
        *('--guidance-scale', '1', '--devices', 'cpu', '--port', '0', '--quiet'),
    )
    scene = FlatScene(goal_x=9.0)
    with run_server(*command) as address:
        client = OpenPiClient(address)
        assert client.metadata['action_horizon'] == HORIZON
        run_episode(scene, ServedRows(client, memory), 0, rows_per_query=12, max_steps=60)
        client.close()
    assert scene.step_count == 60
    assert np.abs(scene.setpoint - [0.0, 0.6, 0.2]).max() > 0.0  # the answers moved the hand


# ---- baselines


def test_the_expert_acts_at_every_step_until_success() -> None:
    scene = FlatScene(goal_x=0.1)
    run_episode(scene, ExpertRows(), 0, rows_per_query=12, max_steps=500)
    assert scene.success and scene.step_count == 10
    np.testing.assert_allclose(scene.actions[4], [1, 0, 0, -1], atol=1e-9)


def test_random_actions_differ_by_episode_only() -> None:
    runs = []
    for index in (1, 1, 2):
        scene = FlatScene(goal_x=9.0)
        run_episode(scene, RandomRows(), index, rows_per_query=12, max_steps=20)
        assert scene.step_count == 20 and np.abs(scene.actions).max() <= 1
        runs.append(np.array(scene.actions))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 0.1


# ---- the table


def test_the_table_replaces_what_is_between_the_marks(tmp_path: Path, capsys) -> None:
    def write(label: str, success: int) -> str:
        row = {'task': 'reach-v3', 'success': success, 'episodes': 20, 'low': 0.3, 'high': 0.7}
        path = tmp_path / f'{label}.json'
        whole = {'episodes': 20, 'low': 0.3, 'high': 0.7}
        content = {'options': {'label': label}, 'tasks': [row], 'all': whole}
        path.write_text(json.dumps({**content, 'mean_of_tasks': success / 20}))
        return str(path)

    document = tmp_path / 'page.md'
    document.write_text('a\n<!-- metaworld -->\nold\n<!-- /metaworld -->\nb\n')
    reports = [write('joint', 10), write('clone', 5)]
    assert format_results.main([*reports, '--update', str(document)]) == 0
    text = document.read_text()
    assert text.startswith('a\n<!-- metaworld -->\n| task | joint | clone |\n')
    assert '| reach-v3 | 10 of 20 (30–70 %) | 5 of 20 (30–70 %) |' in text
    assert '**50.0 %** (30–70, n = 20) | **25.0 %**' in text
    assert 'old' not in text and text.endswith('\n<!-- /metaworld -->\nb\n')
    document.write_text('no marks')
    assert format_results.main([*reports, '--update', str(document)]) == 1
    assert 'want the lines' in capsys.readouterr().err
