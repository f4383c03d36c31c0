"""The lerobot package reads what we write, and we read what its converter writes.

Needs an environment with lerobot, named by WAM_LEROBOT_PYTHON; CONTRIBUTING.md says how.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.learning import played
from wam_learning.data import episode_arrays, gear_metadata
from wam_learning.data.lerobot.convert_v30 import convert_to_v30
from wam_learning.data.lerobot.dataset_metadata import read_dataset_metadata

PYTHON = os.environ.get('WAM_LEROBOT_PYTHON', '')
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason='WAM_LEROBOT_PYTHON names no Python with lerobot'),
    pytest.mark.timeout(300),
]
LOAD = Path(__file__).with_name('load_with_lerobot.py')
CONVERT = 'lerobot.scripts.convert_dataset_v21_to_v30'


def run(*command):
    """Run a command in lerobot's environment, without ours, and return what it prints."""
    offline = {'HF_HUB_OFFLINE': '1', 'PATH': os.environ['PATH'], 'HOME': os.environ['HOME']}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sets')
    played.write_dataset(folder / 'v21', 3, robot_name='yam')
    shutil.copytree(folder / 'v21', folder / 'v30')
    convert_to_v30(folder / 'v30')
    return folder


def read(folder):
    return episode_arrays.read_datasets([folder], played.make_tiny_policy().spec)


def test_lerobot_loads_an_export_of_v30(written):
    row = 100
    found = json.loads(run(PYTHON, str(LOAD), str(written / 'v30'), str(row)).splitlines()[-1])
    ours = read(written / 'v21')
    assert (found['rows'], found['episodes'], found['fps']) == (210, 3, 30)
    assert found['task'] == ours.texts[ours.task[row]]
    assert found['state'] == pytest.approx(ours.state[row].tolist(), abs=1e-6)
    assert found['action'] == pytest.approx(ours.action[row].tolist(), abs=1e-6)
    assert len(found['means']) == 3
    expected = np.quantile(ours.action, 0.99, axis=0)
    assert found['quantile'] == pytest.approx(expected.tolist(), abs=1e-5)


def test_what_lerobots_converter_writes_is_read(written, tmp_path):
    """It puts all episodes into one table and one video per camera."""
    folder = shutil.copytree(written / 'v21', tmp_path / 'set')
    run(
        PYTHON,
        *('-m', CONVERT, '--repo-id', 'local/set', '--root', str(folder)),
        *('--push-to-hub', 'false'),
    )
    assert read_dataset_metadata(folder).version == 'v3.0'
    # the converter knows no modality.json: the names of the columns remain
    assert not (folder / 'meta/modality.json').exists()
    given, found = read(written / 'v21'), read(folder)
    for name in ('state', 'action', 'task', 'supervised', 'pixel', 'place'):
        assert np.array_equal(getattr(found, name), getattr(given, name), equal_nan=True), name
    assert np.array_equal(found.canvases[0], given.canvases[0])
    assert gear_metadata.OBS_STATE in read_dataset_metadata(folder).features
