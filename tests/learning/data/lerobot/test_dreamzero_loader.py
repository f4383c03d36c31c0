"""DreamZero's released data loader reads what we write.

Needs its repository, named by WAM_DREAMZERO, and a Python with its packages, named by
WAM_DREAMZERO_PYTHON; CONTRIBUTING.md says how.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.learning import played
from wam_learning.data import episode_arrays, gear_metadata
from wam_policy.core.robot import embodiment

REPOSITORY, PYTHON = (os.environ.get(f'WAM_DREAMZERO{part}', '') for part in ('', '_PYTHON'))
pytestmark = [
    pytest.mark.skipif(
        not (REPOSITORY and PYTHON), reason='WAM_DREAMZERO and WAM_DREAMZERO_PYTHON are not set'
    ),
    pytest.mark.timeout(300),
]
LOAD = Path(__file__).with_name('load_with_dreamzero.py')
ROW = 10  # that the script loads


@pytest.mark.parametrize('name', ['yam', 'agibot_g1'])
def test_dreamzeros_loader_gives_the_same_values(tmp_path, name):
    robot = embodiment.load_embodiment(name)
    folder = played.write_dataset(tmp_path / 'set', 2, robot_name=name)
    keys = {
        'video': [f'video.{camera.key}' for camera in robot.cameras],
        'state': [f'state.{key.key}' for key in robot.state_keys],
        'action': [f'action.{key.key}' for key in robot.action_keys],
        'language': [robot.language_key],
    }
    relative = [key.key for key in robot.action_keys if key.relative]
    done = subprocess.run(
        [PYTHON, LOAD, folder, robot.model_tag, json.dumps(keys), json.dumps(relative)],
        capture_output=True,
        text=True,
        timeout=240,
        env={'PYTHONPATH': REPOSITORY, 'PATH': os.environ['PATH'], 'HOME': os.environ['HOME']},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    ours = episode_arrays.read_datasets([folder], played.make_tiny_policy().spec)
    assert found['steps'] == 2 * played.ROWS
    assert found[robot.language_key] == [ours.texts[ours.task[ROW]]]
    for key, part in gear_metadata.key_slices(robot.state_keys).items():
        assert np.allclose(found[f'state.{key}'], ours.state[ROW : ROW + 1, part], atol=1e-6)
    for key, part in gear_metadata.key_slices(robot.action_keys).items():
        assert np.allclose(found[f'action.{key}'], ours.action[ROW : ROW + 24, part], atol=1e-6)
    assert found[keys['video'][0]] == [2, *played.SIZE[::-1], 3]
