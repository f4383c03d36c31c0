"""A start notes its phases once, and its programs import no slow package that they do not use."""

import subprocess
import sys
import time

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_tools.run_metrics import StartUpPhases

pytestmark = pytest.mark.ros
# each takes 0.4 to 4 s of processor time to import
SLOW_PACKAGES = ('torch', 'diffusers', 'transformers', 'matplotlib', 'pandas', 'sympy')
NODES = {
    'wam_policy.nodes.policy.policy_node': (*SLOW_PACKAGES, 'scipy', 'mujoco'),
    'wam_policy.nodes.motion.motion_node': (*SLOW_PACKAGES, 'scipy', 'cv2'),
    'wam_policy.nodes.description.description_node': (*SLOW_PACKAGES, 'scipy.stats', 'cv2'),
    'wam_policy.nodes.recorder.recorder_node': (*SLOW_PACKAGES, 'mujoco'),
    'wam_sim.sim_node': (*SLOW_PACKAGES, 'scipy.stats'),
    'wam_console.console_node': (*SLOW_PACKAGES, 'scipy.stats'),
    'wam_tools.demo': (*SLOW_PACKAGES, 'scipy', 'mujoco', 'cv2'),
    'wam_policy.workers.run_worker': (*SLOW_PACKAGES, 'scipy', 'cv2', 'mujoco'),
    'wam_policy.model.robot_policy': (
        'diffusers',
        'transformers',
        'matplotlib',
        'pandas',
        'scipy',
        'sympy',
        'torch._dynamo',
        'torch._inductor',
        'torchvision',
    ),
}


def find_imported(module, names):
    code = f'import sys, {module}; print([n for n in {names!r} if n in sys.modules])'
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(300)
@pytest.mark.parametrize('module', NODES)
def test_a_program_of_the_start_imports_no_slow_package_that_it_does_not_use(module):
    assert find_imported(module, NODES[module]) == '[]'


def test_a_slow_import_would_be_found():
    assert find_imported('wam_sim.sim_node', ('mujoco', 'torch')) == "['mujoco']"


def test_phases_are_noted_once_and_in_order():
    phases = StartUpPhases(began_s=100.0)
    phases.mark('imported', 101.0)
    phases.mark_policy('', '', 102.0)
    phases.mark_policy('STARTING', '', 103.0)
    phases.mark_policy('STARTING', 'lift the cube', 104.0)
    phases.mark_policy('RUNNING', 'lift the cube', 106.5)
    phases.mark_policy('IDLE', '', 109.0)
    phases.mark('first_chunk', 107.0)
    assert phases.describe() == {
        'imported': 1.0,
        'first_status': 3.0,
        'workers_ready': 6.5,
        'instructed': 4.0,
        'first_chunk': 7.0,
    }
    assert 'workers ready 6.5 s' in str(phases)


def test_an_unknown_phase_is_refused():
    with pytest.raises(ValueError, match='known: imported'):
        StartUpPhases(0.0).mark('done', 1.0)


def test_the_start_of_the_process_is_before_now():
    phases = StartUpPhases.from_process_start()
    phases.mark('imported', time.monotonic())
    assert phases.describe()['imported'] > 0.0
