"""Launch the stack; agibot_g1.launch.py, droid.launch.py and yam.launch.py choose the robot.

Arguments only choose among values: every parameter is documented in config/stack.yaml. A node that
fails to configure ends the whole launch with exit code 1 and the reason; so does the exit of sim,
stream, motion or policy, without which the robot does not work. The exits of recorder
and description are errors on /diagnostics. A stack that is already running in this ROS domain ends
the launch with exit code 3. On a robot stream_node runs apart from the launch and may outlive it,
see wam_policy/nodes/stream/detached_process.py.
"""

import atexit
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.conditions import IfCondition, UnlessCondition
from launch.event_handlers import OnProcessIO
from launch.events import matches_action
from launch.events.process import ProcessExited, ProcessIO
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration, NotEqualsSubstitution, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterFile
from launch_ros.ros_adapters import get_ros_node
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

DIAGNOSTICS_PERIOD_S = 1.0
# of wam_policy.nodes.run_node: what a node prints, and its exit status, after it has looked for
# another node of its name
IS_SOLE_NODE, ALREADY_RUNNING = b'is the only node of its name', 3
BOOLEANS = ['true', 'false']
SIM = LaunchConfiguration('sim')
NAMESPACE = LaunchConfiguration('namespace')
# old name -> new name, accepted for one release
DEPRECATED_ARGUMENTS = {
    'flavour': 'server_profile',
    'cfg': 'guidance_scale',
    'record_folder': 'record_dir',
}
RECORDER_ENABLED = NotEqualsSubstitution(LaunchConfiguration('record'), 'false')


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(
            'sim',
            choices=BOOLEANS,
            default_value='false' if os.environ.get('WAM_ROBOT') else 'true',
            description='Simulate the robot. False where the environment variable WAM_ROBOT is '
            'set, as it should be on a machine that is wired to one',
        ),
        DeclareLaunchArgument(
            'enable_motion',
            choices=BOOLEANS,
            default_value=SIM,
            description='Let the robot move; otherwise motion_node only publishes a dry run. '
            'True in simulation, false on a real robot',
        ),
        DeclareLaunchArgument(
            'joy_deadman_button',
            default_value='-1',
            description='Button of the joystick (topic joy) that must be held while the robot '
            'moves, counted from 0; letting it go disables. -1: none',
        ),
        DeclareLaunchArgument(
            'joy_estop_button',
            default_value='-1',
            description='Button of the joystick (topic joy) that latches the e-stop. -1: none',
        ),
        DeclareLaunchArgument(
            'backend',
            default_value='local',
            choices=['local', 'remote'],
            description='Where inference runs: workers on this machine, or a policy server',
        ),
        DeclareLaunchArgument(
            'server',
            default_value='',
            description='Address of the policy server: ws://, http:// or zmq+tcp://host:port, as '
            'its profile needs it. Its token, if it requires one, is read from the environment '
            'variable WAM_TOKEN',
        ),
        DeclareLaunchArgument(
            'server_profile',
            default_value='',
            description='Wire format of the policy server: dreamzero_agibot, openpi_yam, ..., '
            "or a .yaml file. Empty: the DreamZero protocol with the robot's keys",
        ),
        DeclareLaunchArgument(
            'checkpoint',
            default_value='mini',
            description='Weights: a folder, mini for the shipped model, or preset:<name> for '
            'random weights',
        ),
        DeclareLaunchArgument(
            'base',
            default_value='',
            description='Complete checkpoint that the adapters (LoRA) in checkpoint were trained '
            'on: a folder or a shipped model. Empty: checkpoint is complete',
        ),
        DeclareLaunchArgument(
            'devices',
            default_value='cpu,cpu',
            description='One device per worker, cpu or cuda:<n>, separated by commas. Two run one '
            'branch of the guidance each, one runs both',
        ),
        DeclareLaunchArgument(
            'guidance_scale',
            default_value='0.0',
            description='Scale of the classifier-free guidance, 1.0 to 20.0. 1.0 disables it; '
            '0.0: the default of the checkpoint, else 5.0',
        ),
        DeclareLaunchArgument(
            'steps',
            default_value='0',
            description='Denoising steps per query, 0 to 100, each a network evaluation; 0: the '
            'default of the checkpoint, else that of the sampler',
        ),
        DeclareLaunchArgument(
            'seed',
            default_value='0',
            description='Seed of the sampling noise and of the simulated scene',
        ),
        DeclareLaunchArgument(
            'worker_python',
            default_value='',
            description='Python interpreter of the workers, if torch is installed in a separate '
            'environment. Empty: that of the nodes',
        ),
        DeclareLaunchArgument(
            'stream_python',
            default_value='',
            description='Python interpreter of stream_node, if the driver of the robot is '
            'installed in a separate environment. Empty: that of the nodes',
        ),
        DeclareLaunchArgument(
            'camera_size',
            default_value='320',
            choices=['160', '320', '640', '160x120', '320x240', '640x480'],
            description='Size of the simulated images in pixels; a width alone keeps the aspect '
            "ratio of the robot's cameras",
        ),
        DeclareLaunchArgument(
            'camera_hz',
            default_value='15.0',
            description='Simulated images per second and camera, 1.0 to 60.0',
        ),
        DeclareLaunchArgument(
            'viewer',
            default_value='false',
            choices=BOOLEANS,
            description='Open a window on the simulated scene',
        ),
        DeclareLaunchArgument(
            'rviz',
            default_value='false',
            choices=BOOLEANS,
            description='Open RViz with the layout of the robot, where RViz is installed',
        ),
        DeclareLaunchArgument(
            'robot_description',
            default_value='auto',
            choices=['auto', 'robot_state_publisher', 'description_node', 'none'],
            description='What publishes /robot_description, /tf and /tf_static. auto: '
            "robot_state_publisher where installed; none: the robot's driver does",
        ),
        DeclareLaunchArgument(
            'console',
            choices=BOOLEANS,
            default_value=SIM,
            description="Serve the operator's page, http://127.0.0.1:8080. True in simulation",
        ),
        DeclareLaunchArgument(
            'console_address',
            default_value='127.0.0.1',
            description="Address of the operator's page; any but 127.0.0.1 needs a token in "
            'the environment variable WAM_CONSOLE_TOKEN',
        ),
        DeclareLaunchArgument(
            'console_port',
            default_value='8080',
            description="Port of the operator's page; the next free one where it is in use",
        ),
        DeclareLaunchArgument(
            'record',
            default_value='false',
            choices=['false', 'true', 'manual'],
            description='Record an episode for every instruction, or, with manual, when a '
            'service or the action of the recorder requests one',
        ),
        DeclareLaunchArgument(
            'record_dir',
            default_value='episodes',
            description='Folder of the episodes, one bag each; nothing else is written there',
        ),
        DeclareLaunchArgument(
            'namespace',
            default_value='wam',
            description='Namespace of the nodes and of their topics and services',
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='false',
            choices=BOOLEANS,
            description='Follow /clock; the simulator then publishes it',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=['debug', 'info', 'warn', 'error'],
            description='Lowest level of log messages of all nodes',
        ),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution(
                [FindPackageShare('wam_bringup'), 'config', 'stack.yaml']
            ),
            description='Parameters of all nodes. A copy may fix values that arguments choose',
        ),
    ]
    common: dict[str, Any] = {
        'output': 'screen',
        'parameters': [ParameterFile(LaunchConfiguration('params_file'), allow_substs=True)],
        'ros_arguments': ['--log-level', LaunchConfiguration('log_level')],
        'on_exit': on_node_exit,
    }
    optional: dict[str, Any] = {**common, 'on_exit': on_optional_node_exit}
    sim = Node(
        package='wam_sim', executable='sim_node', name='sim', condition=IfCondition(SIM), **common
    )
    stream = LifecycleNode(
        package='wam_policy',
        executable='stream_node',
        arguments=['--python', LaunchConfiguration('stream_python')],
        name='stream',
        namespace=NAMESPACE,
        condition=UnlessCondition(SIM),
        **common,
    )
    motion = LifecycleNode(
        package='wam_policy',
        executable='motion_node',
        name='motion',
        namespace=NAMESPACE,
        **common,
    )
    policy = LifecycleNode(
        package='wam_policy',
        executable='policy_node',
        name='policy',
        namespace=NAMESPACE,
        **common,
    )
    recorder = LifecycleNode(
        package='wam_policy',
        executable='recorder_node',
        name='recorder',
        namespace=NAMESPACE,
        condition=IfCondition(RECORDER_ENABLED),
        **optional,
    )
    description = LifecycleNode(
        package='wam_policy',
        executable='description_node',
        name='description',
        namespace=NAMESPACE,
        **optional,
    )
    console = LifecycleNode(
        package='wam_console',
        executable='console_node',
        name='console',
        namespace=NAMESPACE,
        condition=IfCondition(LaunchConfiguration('console')),
        **optional,
    )
    # the handlers come first: a fast node must not start before they are registered
    return LaunchDescription(
        [
            OpaqueFunction(function=ignore_keyboard_interrupt),
            OpaqueFunction(function=replace_deprecated_arguments),
            *arguments,
            OpaqueFunction(function=set_deprecated_arguments),
            *make_lifecycle_handlers(stream, 'stream'),
            *make_lifecycle_handlers(motion, 'motion'),
            *make_lifecycle_handlers(policy, 'policy'),
            *make_lifecycle_handlers(recorder, 'recorder', is_essential=False),
            *make_lifecycle_handlers(description, 'description', is_essential=False),
            IncludeLaunchDescription(str(Path(__file__).with_name('viewers.launch.py'))),
            *make_lifecycle_handlers(console, 'console', is_essential=False),
            sim,
            stream,
            motion,
            policy,
            recorder,
            description,
            console,
        ]
    )


def replace_deprecated_arguments(context: LaunchContext) -> None:
    """Accept launch arguments under their old names, with a warning that names the new one."""
    given = context.launch_configurations
    for old_name, new_name in DEPRECATED_ARGUMENTS.items():
        if old_name in given:
            get_logger('launch').warning(
                f'launch argument {old_name} is deprecated and will be removed in the next '
                f'release: use {new_name}'
            )
            given.setdefault(new_name, given[old_name])


def set_deprecated_arguments(context: LaunchContext) -> None:
    """Keep $(var OLD_NAME) valid in copies of config/stack.yaml that still use it."""
    given = context.launch_configurations
    for old_name, new_name in DEPRECATED_ARGUMENTS.items():
        given[old_name] = given[new_name]


def ignore_keyboard_interrupt(context: LaunchContext) -> None:
    """Let only the file descriptor that launch's event loop reads report Ctrl-C.

    Python's handler also raises KeyboardInterrupt, at any point of the loop. Where that happened
    just before a task was woken, launch waited forever and every node kept running.
    """
    signal.signal(signal.SIGINT, lambda *_: None)


def make_lifecycle_handlers(
    node: LifecycleNode, node_name: str, is_essential: bool = True
) -> list[RegisterEventHandler]:
    """Configure a node when it has started and activate it when it is configured.

    An error later on ends the launch if the node is essential, and is reported if it is not.
    """

    def emit_transition(transition_id: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(
                lifecycle_node_matcher=matches_action(node), transition_id=transition_id
            )
        )

    def on_transition(
        start: str, goal: str, *then: EmitEvent | OpaqueFunction
    ) -> RegisterEventHandler:
        return RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node, start_state=start, goal_state=goal, entities=list(then)
            )
        )

    def configure(output: ProcessIO) -> list[EmitEvent] | None:
        # not when the process starts: a running stack's node of this name would be configured
        is_ready = IS_SOLE_NODE in output.text
        return [emit_transition(Transition.TRANSITION_CONFIGURE)] if is_ready else None

    def remember_start(context: LaunchContext) -> None:
        was_active.append(node_name)

    def fail_start(context: LaunchContext) -> None:
        if not was_active:  # later, a transition that fails is the business of who asked for it
            fail_launch(context, f'{node_name} failed to start, see its log messages')

    was_active: list[str] = []
    refused = OpaqueFunction(function=fail_start)
    failed = (
        refused
        if is_essential
        else OpaqueFunction(
            function=report_loss, args=[node_name, f'{node_name} failed, see its log messages']
        )
    )
    return [
        RegisterEventHandler(OnProcessIO(target_action=node, on_stdout=configure)),
        on_transition('configuring', 'inactive', emit_transition(Transition.TRANSITION_ACTIVATE)),
        on_transition('activating', 'active', OpaqueFunction(function=remember_start)),
        on_transition('configuring', 'unconfigured', refused),
        on_transition('activating', 'inactive', refused),
        on_transition('errorprocessing', 'unconfigured', failed),
        on_transition('errorprocessing', 'finalized', failed),
    ]


def fail_launch(context: LaunchContext, reason: str) -> None:
    """End the launch with exit code 1; launch does that for exceptions only."""
    if not context.is_shutdown:
        raise RuntimeError(reason)


def exit_with(code: int) -> None:
    """Exit with `code`; launch itself knows only 0 and 1."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def on_node_exit(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """End the launch when a node exits: half a stack must not look like a whole one."""
    if context.is_shutdown:
        return []
    if event.returncode == ALREADY_RUNNING:
        atexit.register(exit_with, ALREADY_RUNNING)
        fail_launch(
            context,
            f'{event.process_name} found a stack that is already running in this ROS domain; '
            f'this launch ends with exit code {ALREADY_RUNNING}',
        )
    if event.returncode:
        fail_launch(
            context,
            f'{event.process_name} exited with code {event.returncode}, see its last messages',
        )
    return [Shutdown(reason=f'{event.process_name} ended')]


def on_optional_node_exit(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """Report the exit of a node that the robot's motion does not need; the others go on."""
    if not context.is_shutdown:
        name = event.process_name.rsplit('-', 1)[0].removesuffix('_node')
        report_loss(
            context,
            name,
            f'{event.process_name} exited with code {event.returncode}; the stack goes on without '
            'it. Start the launch again to have it back',
        )
    return []


def report_loss(context: LaunchContext, node_name: str, reason: str) -> None:
    """Log `reason` and publish it as an error on /diagnostics for as long as the launch runs."""
    get_logger('launch').error(reason)
    status = DiagnosticStatus(level=DiagnosticStatus.ERROR, name=f'{node_name}: process')
    status.message = reason
    node = get_ros_node(context)
    publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)

    def publish() -> None:
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(msg)

    node.create_timer(DIAGNOSTICS_PERIOD_S, publish)
