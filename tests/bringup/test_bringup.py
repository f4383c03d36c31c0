"""The launch files: what they offer, and how a launch ends when a node does."""

import dataclasses
import logging
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from launch import LaunchContext
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetLaunchConfiguration,
)
from launch.frontend.parse_substitution import parse_substitution
from launch.launch_description_sources import get_launch_description_from_python_launch_file
from launch.utilities import perform_substitutions
from launch_ros.actions import Node
from launch_ros.utilities import evaluate_parameters, normalize_parameters
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from wam_console.console_params import ConsoleParams
from wam_policy.core.robot import embodiment
from wam_policy.nodes.parameters import (
    DescriptionParams,
    MotionParams,
    PolicyParams,
    RecorderParams,
    StreamParams,
)
from wam_policy.nodes.run_node import IS_SOLE_NODE, ExecutorThread
from wam_policy.nodes.sole_node import ALREADY_RUNNING

pytestmark = [pytest.mark.ros, pytest.mark.stack]
BRINGUP = Path(__file__).resolve().parents[2] / 'src' / 'wam_bringup'
STACK = BRINGUP / 'launch' / 'stack.launch.py'
CONFIG = BRINGUP / 'config' / 'stack.yaml'
PARTS = (STACK, STACK.with_name('viewers.launch.py'))
ROBOTS = sorted(path for path in (BRINGUP / 'launch').glob('*.launch.py') if path not in PARTS)


def load_launch_description(path):
    return get_launch_description_from_python_launch_file(str(path))


@pytest.mark.parametrize('path', ROBOTS, ids=lambda path: path.name)
def test_each_robot_file_differs_in_data_only(path):
    robot = path.name.removesuffix('.launch.py')
    embodiment.load_embodiment(robot)
    chosen, included = load_launch_description(path).entities
    assert isinstance(chosen, SetLaunchConfiguration)
    assert isinstance(included, IncludeLaunchDescription)
    assert path.read_text().count(robot) == 1
    others = {
        other.read_text().split('def ', 1)[1].replace(other.name.removesuffix('.launch.py'), '')
        for other in ROBOTS
    }
    assert len(others) == 1


@pytest.mark.parametrize('path', ROBOTS, ids=lambda path: path.name)
def test_every_argument_is_described_and_has_a_default(path):
    arguments = load_launch_description(path).get_launch_arguments()
    names = {argument.name for argument in arguments}
    assert {
        'sim',
        'checkpoint',
        'devices',
        'enable_motion',
        'namespace',
        'use_sim_time',
        'log_level',
    } <= names
    for argument in arguments:
        assert argument.name.islower() and len(argument.description) > 30
        assert argument.default_value is not None


def load_parameters(**chosen):
    """Return the configuration as the nodes get it with these arguments, section -> values."""
    context = LaunchContext()
    for name, value in {'robot': 'yam', **chosen}.items():
        context.launch_configurations[name] = value
    for argument in load_launch_description(STACK).get_launch_arguments():
        if argument.name not in context.launch_configurations and argument.name != 'params_file':
            argument.visit(context)
    text = perform_substitutions(context, list(parse_substitution(CONFIG.read_text())))
    return {name: section['ros__parameters'] for name, section in yaml.safe_load(text).items()}


@pytest.mark.parametrize(
    ('section', 'kind'),
    [
        ('/**/policy', PolicyParams),
        ('/**/motion', MotionParams),
        ('/**/stream', StreamParams),
        ('/**/recorder', RecorderParams),
        ('/**/description', DescriptionParams),
        ('/**/console', ConsoleParams),
    ],
)
def test_configuration_names_every_parameter_with_its_default(section, kind):
    values = load_parameters(robot='agibot_g1', sim='false')[section]
    read = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    assert list(read) == [field.name for field in dataclasses.fields(kind)]
    assert kind(**read) == kind()
    for field in dataclasses.fields(kind):
        assert isinstance(read[field.name], type(field.default))


def test_configuration_names_every_parameter_of_the_simulator():
    sim_params = pytest.importorskip('wam_sim.params')
    values = load_parameters(robot='agibot_g1')['/**/sim']
    assert list(values) == [field.name for field in dataclasses.fields(sim_params.SimParams)]
    sim_params.SimParams(**values)


@pytest.mark.parametrize(('record', 'each'), [('true', True), ('manual', False)])
def test_recording_is_chosen_by_an_argument(record, each):
    chosen = load_parameters(record=record, record_dir='/data/episodes')['/**/recorder']
    assert chosen['auto_record'] is each and chosen['output_dir'] == '/data/episodes'


def test_every_parameter_line_has_a_comment():
    for line in CONFIG.read_text().splitlines():
        if line.startswith('    ') and line.strip() and not line.strip().startswith('#'):
            assert '  # ' in line or ' # ' in line, line


def test_motion_is_on_in_simulation_and_off_on_a_robot():
    assert load_parameters(sim='true')['/**/motion']['enable_motion'] is True
    assert load_parameters(sim='false')['/**/motion']['enable_motion'] is False
    assert (
        load_parameters(sim='false', enable_motion='true')['/**/motion']['enable_motion'] is True
    )


@pytest.mark.parametrize(('environment', 'expected'), [(None, True), ('agibot_g1', False)])
def test_simulation_is_the_default_where_no_robot_is_connected(monkeypatch, environment, expected):
    monkeypatch.delenv('WAM_ROBOT', raising=False)
    if environment:
        monkeypatch.setenv('WAM_ROBOT', environment)
    assert load_parameters()['/**/motion']['enable_motion'] is expected


def test_arguments_reach_the_parameters():
    values = load_parameters(
        devices='cuda:0,cuda:1',
        camera_size='640x480',
        worker_python='/opt/py',
        checkpoint='/w',
        use_sim_time='true',
        guidance_scale='2',
        camera_hz='30',
    )
    assert values['/**/policy']['devices'] == ['cuda:0', 'cuda:1']
    assert values['/**/policy']['worker_python'] == '/opt/py'
    assert repr(values['/**/policy']['guidance_scale']) == '2.0'
    assert repr(values['/**/sim']['camera_hz']) == '30.0'
    assert (values['/**/sim']['image_width'], values['/**/sim']['image_height']) == (640, 480)
    assert values['/**']['use_sim_time'] is True and values['/**/sim']['publish_clock'] is True


def read_launch_configurations(**given):
    """Return the launch configurations after the part of the stack that handles arguments."""
    context = LaunchContext()
    context.launch_configurations.update(given)
    for entity in load_launch_description(STACK).entities:
        is_argument = isinstance(entity, DeclareLaunchArgument)
        if isinstance(entity, OpaqueFunction) or (is_argument and entity.name != 'params_file'):
            entity.visit(context)
    return context.launch_configurations


def test_old_launch_arguments_work_with_a_warning(monkeypatch, caplog):
    caplog.set_level('WARNING')
    monkeypatch.setattr(logging.getLogger('launch'), 'propagate', True)
    given = read_launch_configurations(
        cfg='2.0', flavour='openpi_yam', record_folder='/old', record_dir='/new'
    )
    assert (given['guidance_scale'], given['server_profile']) == ('2.0', 'openpi_yam')
    assert given['record_dir'] == '/new' == given['record_folder']
    for old_name, new_name in (('cfg', 'guidance_scale'), ('flavour', 'server_profile')):
        assert f'argument {old_name} is deprecated' in caplog.text
        assert f'use {new_name}' in caplog.text


def test_a_copy_of_the_configuration_may_use_old_argument_names(caplog):
    caplog.set_level('WARNING')
    given = read_launch_configurations(guidance_scale='3.0')
    assert given['cfg'] == '3.0' and given['record_folder'] == 'episodes'
    assert 'deprecated' not in caplog.text


@pytest.mark.parametrize(('namespace', 'use_full_names'), [('', False), ('on', True)])
def test_nodes_get_the_namespace_also_with_an_old_copy_of_the_file(namespace, use_full_names):
    context = LaunchContext()
    context.launch_configurations['robot_namespace'] = namespace
    after_file = runpy.run_path(str(STACK))['COMMON']['parameters'][1:]
    assert evaluate_parameters(context, normalize_parameters(after_file)) == (
        {'robot_namespace': namespace, 'diagnostic_updater.use_fqn': use_full_names},
    )


# --- bring-up and end, with a fake node under the stack's own handlers ---

FAKE_NODE = textwrap.dedent("""
    import os, sys
    from diagnostic_updater import Updater
    from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn as Result
    from wam_policy.nodes.callback_guard import CallbackGuard
    from wam_policy.nodes.run_node import run_node
    from wam_policy.nodes.sole_node import ALREADY_RUNNING

    class Fake(LifecycleNode):
        def __init__(self):
            super().__init__('fake')
            self.guard = CallbackGuard(self, Updater(self))
            self.steps = []

        def answer(self, step):
            print(f'{step} asked', flush=True)
            self.steps.append(step)
            if sys.argv[1] == f'dies in {step}':
                os._exit(5)
            again = ' again' if self.steps.count(step) > 1 else ''
            return Result.FAILURE if sys.argv[1] == f'refuses {step}{again}' else Result.SUCCESS

        def on_configure(self, state):
            return self.answer('configure')

        def on_activate(self, state):
            if sys.argv[1] == 'finds another':
                os._exit(ALREADY_RUNNING)
            if sys.argv[1] == 'leaves':
                self.create_timer(0.2, lambda: os._exit(0))
            return self.answer('activate')

        def close(self):
            print('closed', flush=True)

    run_node(Fake, 'fake')
""")
LAUNCH = textwrap.dedent("""
    import importlib.util, sys
    from launch import LaunchDescription, LaunchService
    from launch.actions import ExecuteProcess
    from launch_ros.actions import LifecycleNode

    spec = importlib.util.spec_from_file_location('stack', {stack!r})
    stack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stack)
    node = LifecycleNode(executable=sys.executable, arguments=[{node!r}, {behavior!r}],
                         name='fake', namespace='test_bringup', output='screen',
                         on_exit=stack.{on_exit})
    # a launch without processes ends by itself
    others = [] if {is_essential} else [ExecuteProcess(cmd=['sleep', '100'])]
    service = LaunchService()
    service.include_launch_description(LaunchDescription(
        [*stack.make_lifecycle_handlers(node, 'fake', {is_essential}), node, *others]))
    sys.exit(service.run())
""")


@pytest.fixture
def launch(tmp_path):
    started = []

    def start(behavior, is_essential=True):
        node, script = tmp_path / 'node.py', tmp_path / 'bringing_up.py'
        node.write_text(FAKE_NODE)
        script.write_text(
            LAUNCH.format(
                stack=str(STACK),
                node=str(node),
                behavior=behavior,
                on_exit='on_node_exit' if is_essential else 'on_optional_node_exit',
                is_essential=is_essential,
            )
        )
        started.append(
            subprocess.Popen(
                [sys.executable, str(script)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=os.environ | {'ROS_LOG_DIR': str(tmp_path), 'PYTHONUNBUFFERED': '1'},
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_output(process, text, timeout_s=40.0):
    end, lines = time.monotonic() + timeout_s, []
    while time.monotonic() < end:
        lines.append(process.stdout.readline())
        if text in lines[-1]:
            return
        assert lines[-1], ''.join(lines)
    raise AssertionError(''.join(lines))


def test_a_node_is_configured_then_activated_and_ctrl_c_is_clean(launch):
    process = launch('works')
    wait_for_output(process, 'configure asked')
    wait_for_output(process, 'activate asked')
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 0, output
    assert 'process has died' not in output and 'Traceback' not in output


def test_the_launch_knows_what_a_node_prints_and_exits_with():
    stack = runpy.run_path(str(STACK))
    assert stack['IS_SOLE_NODE'].decode() == IS_SOLE_NODE
    assert stack['ALREADY_RUNNING'] == ALREADY_RUNNING


INTERRUPTED = textwrap.dedent("""
    import importlib.util, signal, sys
    from launch import LaunchDescription, LaunchService
    from launch.actions import OpaqueFunction

    spec = importlib.util.spec_from_file_location('stack', {stack!r})
    stack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stack)

    def busy(context):
        signal.raise_signal(signal.SIGINT)
        print('done', flush=True)

    service = LaunchService()
    service.include_launch_description(LaunchDescription([
        stack.generate_launch_description().entities[0], OpaqueFunction(function=busy)]))
    sys.exit(service.run())
""")


def test_ctrl_c_breaks_nothing_off_that_the_launch_does():
    """Where it did, the launch sometimes never woke again."""
    done = subprocess.run(
        [sys.executable, '-c', INTERRUPTED.format(stack=str(STACK))],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'done' in done.stdout.splitlines(), done.stdout
    assert 'user interrupted with ctrl-c' in done.stdout


def test_after_the_start_a_failed_transition_does_not_end_the_launch(launch, ros_domain):
    process = launch('refuses configure again')
    wait_for_output(process, 'activate asked')
    time.sleep(0.5)  # until the launch has heard of it
    answers = [run_transition(name) for name in ('deactivate', 'cleanup', 'configure')]
    assert answers == [True, True, False]
    time.sleep(1.0)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 0, output


def run_transition(name):
    """Ask the fake node for a transition and return whether it was made."""
    rclpy.init()
    try:
        node = rclpy.create_node('operator')
        client = node.create_client(ChangeState, '/test_bringup/fake/change_state')
        assert client.wait_for_service(10.0)
        future = client.call_async(ChangeState.Request(transition=Transition(label=name)))
        rclpy.spin_until_future_complete(node, future, timeout_sec=10.0)
        return future.result().success
    finally:
        rclpy.shutdown()


@pytest.mark.parametrize(
    ('behavior', 'code', 'words'),
    [
        ('refuses configure', 1, 'fake failed to start, see its log messages'),
        ('refuses activate', 1, 'fake failed to start, see its log messages'),
        ('dies in activate', 1, 'exited with code 5, see its last messages'),
        ('leaves', 0, 'was required: shutting down'),
        ('finds another', ALREADY_RUNNING, 'found a stack that is already running'),
    ],
)
def test_a_node_that_does_not_run_ends_the_launch_with_the_reason(launch, behavior, code, words):
    process = launch(behavior)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert words in output


@pytest.mark.slow
def test_the_exit_of_a_node_that_motion_does_not_need_is_an_error_row_only(launch):
    context = rclpy.Context()
    rclpy.init(context=context)
    listener, rows = rclpy.create_node('listener', context=context), []
    listener.create_subscription(
        DiagnosticArray, '/diagnostics', lambda msg: rows.extend(msg.status), 10
    )
    spinning = ExecutorThread([listener])
    try:
        process = launch('leaves', is_essential=False)
        wait_for_output(process, 'the stack goes on without it')
        end_s = time.monotonic() + 30
        while not any(row.name.endswith(': process') for row in rows):
            assert time.monotonic() < end_s
            time.sleep(0.05)
        row = next(row for row in rows if row.name.endswith(': process'))
        assert row.level == DiagnosticStatus.ERROR and 'exited with code 0' in row.message
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        spinning.stop()
        listener.destroy_node()
        rclpy.shutdown(context=context)


def test_only_recorder_description_and_console_may_be_missing():
    """What the launch file does when each of its nodes exits."""
    actions = load_launch_description(STACK).entities
    on_exit = {
        action._Node__node_name: action._ExecuteLocal__on_exit.__name__
        for action in actions
        if isinstance(action, Node)
    }
    for name in ('recorder', 'description', 'console'):
        assert on_exit.pop(name) == 'on_optional_node_exit'
    assert on_exit == dict.fromkeys(('sim', 'stream', 'motion', 'policy'), 'on_node_exit')
