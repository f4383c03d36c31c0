"""The nodes start where only wam_msgs, wam_bringup and wam_policy are installed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
ROOT = Path(__file__).resolve().parents[2]
OTHER_PACKAGES = ('wam_learning', 'wam_tools', 'wam_sim')
NODES = (
    'policy.policy_node',
    'motion.motion_node',
    'recorder.recorder_node',
    'stream.stream_node',
    'description.description_node',
)
# The import hook also hides a package that is installed into the interpreter itself.
START_NODE = textwrap.dedent("""
    import importlib, sys

    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.split('.')[0] in {hidden!r}:
                raise ModuleNotFoundError(f'{{name}} is not part of a robot image')

    sys.meta_path.insert(0, Hidden())
    module = importlib.import_module('wam_policy.nodes.{module}')
    print('started', flush=True)
    module.main()
""")


def make_robot_path():
    """Return a PYTHONPATH with wam_policy from its source and nothing of the other packages."""
    paths = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    kept = [
        path for path in paths if not any((Path(path) / name).exists() for name in OTHER_PACKAGES)
    ]
    return os.pathsep.join([str(ROOT / 'src' / 'wam_policy'), *filter(None, kept)])


@pytest.mark.parametrize('module', NODES)
def test_a_node_starts_and_ends_without_the_other_packages(module, ros_domain, tmp_path):
    script = tmp_path / 'start_node.py'
    script.write_text(START_NODE.format(hidden=OTHER_PACKAGES, module=module))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': make_robot_path(), 'ROS_LOG_DIR': str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == 'started\n', process.communicate()[1]
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2.0)  # it keeps running
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()


def test_the_installed_packages_of_a_robot_need_no_other_package():
    for package in ('wam_msgs', 'wam_policy', 'wam_bringup'):
        text = (ROOT / 'src' / package / 'package.xml').read_text(encoding='utf-8')
        for name in OTHER_PACKAGES:
            assert f'<exec_depend>{name}</exec_depend>' not in text, f'{package} needs {name}'
