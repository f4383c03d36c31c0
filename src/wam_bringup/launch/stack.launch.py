"""Launch the stack; agibot_g1.launch.py, droid.launch.py and yam.launch.py choose the robot.

Arguments only choose among values: every parameter is documented in config/stack.yaml. A node that
fails to configure ends the whole launch with exit code 1 and the reason; so does the exit of sim,
stream, motion or policy, without which the robot does not work. The exits of recorder
and description are errors on /diagnostics. A stack that is already running in this ROS domain and
namespace ends the launch with exit code 3. On a robot stream_node runs apart from the launch and
may outlive it, see wam_policy/nodes/stream/detached_process.py.
"""

import atexit
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from launch import Action, LaunchContext, LaunchDescription
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
from launch.frontend.parse_substitution import parse_substitution
from launch.logging import get_logger
from launch.substitutions import (
    LaunchConfiguration,
    NotEqualsSubstitution,
    PathJoinSubstitution,
)
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import Transition

DIAGNOSTICS_PERIOD_S = 1.0
# of wam_policy.nodes.run_node: what a node prints, and its exit status, after it has looked for
# another node of its name
IS_SOLE_NODE, ALREADY_RUNNING = b'is the only node of its name', 3
SIM, ROBOT_NAMESPACE = LaunchConfiguration('sim'), LaunchConfiguration('robot_namespace')
NAMESPACE_TOKEN = re.compile('[A-Za-z][A-Za-z0-9_]*')
# old name -> new name, accepted for one release
DEPRECATED_ARGUMENTS = {
    'flavour': 'server_profile',
    'cfg': 'guidance_scale',
    'record_folder': 'record_dir',
}
RECORDER_ENABLED = NotEqualsSubstitution(LaunchConfiguration('record'), 'false')
COMMON: Mapping[str, Any] = {  # of all nodes
    'output': 'screen',
    'parameters': [
        ParameterFile(LaunchConfiguration('params_file'), allow_substs=True),
        {
            # also with an old copy of the file: its nodes would drive the robot without namespace
            'robot_namespace': ParameterValue(ROBOT_NAMESPACE, value_type=str),
            # names on /diagnostics, which robots share
            'diagnostic_updater.use_fqn': ParameterValue(
                NotEqualsSubstitution(ROBOT_NAMESPACE, ''), value_type=bool
            ),
        },
    ],
    'ros_arguments': ['--log-level', LaunchConfiguration('log_level')],
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            OpaqueFunction(function=ignore_keyboard_interrupt),
            OpaqueFunction(function=replace_deprecated_arguments),
            *declare_arguments(),
            OpaqueFunction(function=set_deprecated_arguments),
            OpaqueFunction(function=check_robot_namespace),
            Node(
                package='wam_sim',
                executable='sim_node',
                name='sim',
                namespace=ROBOT_NAMESPACE,
                condition=IfCondition(SIM),
                on_exit=on_node_exit,
                **COMMON,
            ),
            *make_lifecycle_node(
                'stream',
                arguments=['--python', LaunchConfiguration('stream_python')],
                condition=UnlessCondition(SIM),
            ),
            *make_lifecycle_node('motion'),
            *make_lifecycle_node('policy'),
            *make_lifecycle_node(
                'recorder', is_essential=False, condition=IfCondition(RECORDER_ENABLED)
            ),
            *make_lifecycle_node('description', is_essential=False),
            IncludeLaunchDescription(str(Path(__file__).with_name('viewers.launch.py'))),
            *make_lifecycle_node(
                'console',
                'wam_console',
                is_essential=False,
                condition=IfCondition(LaunchConfiguration('console')),
            ),
        ]
    )


def declare_arguments() -> list[DeclareLaunchArgument]:
    """Declare what arguments.yaml lists; with WAM_ROBOT in the environment, `sim` is false."""
    table = yaml.safe_load(Path(__file__).with_name('arguments.yaml').read_text())
    if os.environ.get('WAM_ROBOT'):
        table['sim']['default'] = 'false'
    return [
        DeclareLaunchArgument(
            name,
            default_value=parse_substitution(argument['default']),
            choices=argument.get('choices'),
            description=argument['description'],
        )
        for name, argument in table.items()
    ]


def make_lifecycle_node(
    name: str, package: str = 'wam_policy', *, is_essential: bool = True, **options: Any
) -> list[Action]:
    """Return the node `name` of the executable `name`_node, behind its handlers.

    The handlers come first: a fast node must not start before they are registered.
    """
    node = LifecycleNode(
        package=package,
        executable=f'{name}_node',
        name=name,
        namespace=PathJoinSubstitution([ROBOT_NAMESPACE, LaunchConfiguration('namespace')]),
        on_exit=on_node_exit if is_essential else on_optional_node_exit,
        **COMMON,
        **options,
    )
    return [*make_lifecycle_handlers(node, name, is_essential), node]


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


def check_robot_namespace(context: LaunchContext) -> None:
    """Raise RuntimeError, which ends the launch, for what a robot with a namespace cannot have."""
    given = context.launch_configurations
    namespace = given['robot_namespace']
    if not namespace:
        return
    if not NAMESPACE_TOKEN.fullmatch(namespace):
        raise RuntimeError(
            f'robot_namespace:={namespace}: want one word of letters, digits and underscores that '
            'begins with a letter, as robot_1'
        )
    if given['namespace'].startswith('/'):
        raise RuntimeError(
            f'namespace:={given["namespace"]}: with robot_namespace it must be relative, as wam'
        )
    if given['sim'] == given['use_sim_time'] == 'true':
        raise RuntimeError(
            'use_sim_time:=true: the simulators of several robots would all publish /clock, and '
            'time would jump; leave it false with robot_namespace, or choose a ROS_DOMAIN_ID for '
            'each robot'
        )


def ignore_keyboard_interrupt(context: LaunchContext) -> None:
    """Let only the file descriptor that launch's event loop reads report Ctrl-C.

    Python's handler also raises KeyboardInterrupt, at any point of the loop. Where that happened
    just before a task was woken, launch waited forever and every node kept running.
    """
    signal.signal(signal.SIGINT, lambda *_: None)


def make_lifecycle_handlers(
    node: LifecycleNode, node_name: str, is_essential: bool
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
    given = context.launch_configurations
    namespace = given.get('robot_namespace')
    # as the node itself reports, see diagnostic_updater.use_fqn
    reporter = f'/{namespace}/{given["namespace"]}/{node_name}' if namespace else node_name
    status = DiagnosticStatus(level=DiagnosticStatus.ERROR, name=f'{reporter}: process')
    status.message = reason
    node = get_ros_node(context)
    publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)

    def publish() -> None:
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(msg)

    node.create_timer(DIAGNOSTICS_PERIOD_S, publish)
