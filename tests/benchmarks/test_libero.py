"""What is ours of the LIBERO adapter: robot, profile, and openpi's client at our server."""

from pathlib import Path

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from benchmarks.remote_latency import run_server
from wam_policy import robot_folders
from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile

FOLDER = Path(__file__).parents[2] / 'benchmarks' / 'libero'
PROFILE = FOLDER / 'libero_panda.yaml'


@pytest.fixture(autouse=True)
def robot_path(monkeypatch) -> None:
    monkeypatch.setenv(robot_folders.ROBOT_PATH_VARIABLE, str(FOLDER / 'robots'))


def test_the_robot_reads_a_pose_and_commands_steps() -> None:
    robot = embodiment.load_embodiment('libero_panda', FOLDER / 'robots')
    profile = server_profile.load_for_robot(str(PROFILE), robot)
    assert [len(group.joints) for group in profile.state] == [8]
    assert len(robot.commanded) == 7 and not {*robot.commanded} & {*profile.state[0].joints}
    assert profile.step_hz == pytest.approx(1 / robot.step_dt_s)


def make_example(prompt: str) -> dict:
    """Return a message of openpi's example (make_libero_example in its libero_policy.py)."""
    image = np.random.default_rng(0).integers(256, size=(224, 224, 3), dtype=np.uint8)
    return {
        'observation/state': np.array([-0.2, 0.0, 1.17, 3.1, 0.0, 0.0, 0.039, -0.039]),
        'observation/image': image,
        'observation/wrist_image': image[::-1].copy(),
        'prompt': prompt,
    }


def test_the_released_client_gets_seven_columns_for_eight_values() -> None:
    command = (
        *('-m', 'wam_policy.servers.serve', '--embodiment', 'libero_panda'),
        *('--server-profile', str(PROFILE), '--checkpoint', 'preset:mini', '--steps', '1'),
        *('--devices', 'cpu', '--port', '0', '--quiet'),
    )
    with run_server(*command) as address:
        client = WebsocketClientPolicy(*address.removeprefix('ws://').split(':'))
        actions = client.infer(make_example('put the bowl on the stove'))['actions']
        assert actions.shape == (24, 7) and np.isfinite(actions).all()
        moved = make_example('put the bowl on the stove')
        moved['observation/state'][0] += 0.3
        assert np.abs(client.infer(moved)['actions'] - actions).max() > 0.0
        with pytest.raises(RuntimeError, match='the model reads 63'):
            client.infer(make_example('pick up the black bowl next to the plate ' * 2))
