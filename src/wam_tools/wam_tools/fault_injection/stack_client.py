"""Processes of one stack, each of which can be killed and restarted separately.

`ros2 launch` ends all nodes if one ends. Here every node is a separate child process, as under a
supervisor that restarts single nodes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import psutil
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState

from wam_policy.core.robot.embodiment import Embodiment
from wam_tools.fault_injection.message_relay import CHUNK_TOPIC, HIDDEN_PREFIX, make_routes
from wam_tools.fault_injection.stack_observer import (
    StackClient,
    poll_until,
)
from wam_tools.process_tree import adopt_orphans, find_descendants
from wam_tools.stack_launch import StackLaunchError
from wam_tools.stack_node import STACK_NAMESPACE

STUB_CHECKPOINT = 'preset:toy'
BRING_UP_TIMEOUT_S = 180.0  # without torch, but for a machine under load
EXIT_TIMEOUT_S, ORPHAN_TIMEOUT_S = 20.0, 3.0
SERVICE_TIMEOUT_S = 3.0  # a killed node is still listed for seconds and does not respond
MODULES = {
    'sim': 'wam_sim.sim_node',
    'policy': 'wam_policy.nodes.policy.policy_node',
    'motion': 'wam_policy.nodes.motion.motion_node',
    'recorder': 'wam_policy.nodes.recorder.recorder_node',
}
LIFECYCLE_NODES = ('motion', 'policy', 'recorder')
# Interpreter of the workers: a stub for the stub checkpoint, the real program for all others.
WORKER_SCRIPT = """#!/bin/sh
case "$*" in
*{toy}*) shift 2; exec {python} -m wam_tools.fault_injection.stub_worker "$@" ;;
*) exec {python} "$@" ;;
esac
"""
CAMERA_SIZE = (160, 120)


class StackFeature(StrEnum):
    """Optional features of a stack."""

    NOTHING = 'nothing'
    CLOCK = 'clock'  # use /clock
    JOYSTICK = 'joystick'  # motion needs the button of a joystick held
    CAN = 'can'  # no stack: arms on an emulated CAN bus


class StackProcesses:
    """Manage the processes of one simulated robot and its stack."""

    def __init__(
        self,
        robot: Embodiment,
        client: StackClient,
        folder: Path,
        *,
        domain_id: int,
        checkpoint: str = STUB_CHECKPOINT,
        feature: StackFeature = StackFeature.NOTHING,
    ) -> None:
        """Start every process; logs, episodes and the workers' interpreter go to `folder`."""
        adopt_orphans()
        self.robot, self.folder = robot, folder
        self.processes: dict[str, subprocess.Popen] = {}
        self._earlier_pids = {child.pid for child in find_descendants()}
        self.episodes_dir = folder / 'episodes'
        self._client, self._checkpoint = client, checkpoint
        self._use_sim_time = feature is StackFeature.CLOCK
        self._deadman_button = 0 if feature is StackFeature.JOYSTICK else -1
        self.environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id)}
        self._log_offsets: dict[str, int] = {}  # bytes of each log
        self._worker_script_path = folder / 'worker'
        self._worker_script_path.write_text(
            WORKER_SCRIPT.format(toy=STUB_CHECKPOINT, python=sys.executable)
        )
        self._worker_script_path.chmod(0o700)
        try:
            for name in ('tamper', *MODULES):
                self.start_process(name)
            for name in LIFECYCLE_NODES:
                self.bring_up(name)
        except BaseException:  # do not leave processes running
            self.close()
            raise

    def start_process(self, name: str, overrides: Mapping[str, object] | None = None) -> None:
        """Start one process; lifecycle nodes need `bring_up` afterwards."""
        relay = name == 'tamper'
        command = (
            [
                sys.executable,
                '-m',
                'wam_tools.fault_injection.message_relay',
                '--robot',
                self.robot.name,
            ]
            if relay
            else [
                sys.executable,
                '-m',
                MODULES[name],
                '--ros-args',
                *self._make_ros_arguments(name, overrides or {}),
            ]
        )
        with self.log_path(name).open('a') as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.environment,
                stderr=log,
                text=True,
                bufsize=1,
                stdin=subprocess.PIPE if relay else subprocess.DEVNULL,
                stdout=subprocess.PIPE if relay else log,
                start_new_session=True,
            )  # own session: Ctrl-C reaches only us
        if relay:
            self._expect_relay_reply('ready')

    def bring_up(self, name: str) -> None:
        """Configure and activate a node with retries; raise StackLaunchError on timeout."""
        if not poll_until(lambda: self._step_lifecycle(name), BRING_UP_TIMEOUT_S, 0.1):
            raise StackLaunchError(f'{name} does not activate:\n{self.read_log_tail(name)}')

    def restart_process(self, name: str, overrides: Mapping[str, object] | None = None) -> None:
        """Restart a process, with other parameters, and bring it up to its previous state."""
        self.stop_process(name, signal.SIGKILL)
        self.start_process(name, overrides)
        self._client.expect_status(name)
        if name in LIFECYCLE_NODES:
            self.bring_up(name)

    def stop_process(self, name: str, signal_number: int) -> int:
        """Send a signal and return the exit status; kill the process after a timeout."""
        process = self.processes[name]
        process.send_signal(signal_number)
        process.send_signal(signal.SIGCONT)  # a stopped process handles only SIGKILL
        try:
            return process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def configure_route(self, route: str, **command: object) -> None:
        """Set the corruption of a route in the relay; return when it is active."""
        relay = self.processes['tamper']
        assert relay.stdin is not None
        relay.stdin.write(json.dumps({'route': route, **command}) + '\n')
        relay.stdin.flush()
        self._expect_relay_reply('done')

    def find_workers(self) -> list[psutil.Process]:
        """Return the worker processes of the policy, by rank."""
        try:
            children = psutil.Process(self.processes['policy'].pid).children()
            return sorted(children, key=lambda child: child.pid)
        except psutil.NoSuchProcess:
            return []

    def find_process_errors(self) -> list[str]:
        """Return unexpected child processes, and processes that have ended unexpectedly."""
        known = {process.pid for process in self.processes.values()}
        workers = {worker.pid for worker in self.find_workers()}
        wrong = [
            f'{name} ended with status {process.returncode}'
            for name, process in self.processes.items()
            if process.poll() is not None
        ]
        for child in self._find_children():
            with suppress(psutil.NoSuchProcess):
                if child.pid not in known | workers and child.ppid() == os.getpid():
                    wrong.append(f'process {child.pid} is left over: {" ".join(child.cmdline())}')
        return wrong

    def log_path(self, name: str) -> Path:
        return self.folder / f'{name}.log'

    def collect_log_errors(self) -> None:
        """Add new warning and error lines of every process log to the observer."""
        for name in self.processes:
            try:
                with self.log_path(name).open(errors='replace') as log:
                    log.seek(self._log_offsets.get(name, 0))
                    lines, self._log_offsets[name] = log.readlines(), log.tell()
            except FileNotFoundError:
                continue
            for line in lines:
                if '[WARN]' in line or '[ERROR]' in line or 'Error' in line:
                    self._client.add_log_entry(f'log of {name}', line.strip())

    def read_log_tail(self, name: str, lines: int = 20) -> str:
        text = (
            self.log_path(name).read_text(errors='replace') if self.log_path(name).exists() else ''
        )
        return '\n'.join(text.splitlines()[-lines:])

    def close(self) -> list[str]:
        """Stop all processes; return those that were killed or had a bad exit status."""
        wrong = []
        for name in ('recorder', 'policy', 'motion', 'sim', 'tamper'):
            if name in self.processes and (status := self.stop_process(name, signal.SIGINT)):
                wrong.append(f'{name} ended with status {status}: {self.read_log_tail(name, 3)}')
        self.processes.clear()
        for child in self._find_children():
            if poll_until(lambda child=child: not child.is_running(), ORPHAN_TIMEOUT_S) is None:
                wrong.append(f'process {child.pid} is left over: {" ".join(child.cmdline())}')
                child.kill()
        return wrong

    def _find_children(self) -> list[psutil.Process]:
        """Return the descendants of this process that began after this stack."""
        found = find_descendants(owned_pids=[process.pid for process in self.processes.values()])
        return [child for child in found if child.pid not in self._earlier_pids]

    def _make_ros_arguments(self, name: str, overrides: Mapping[str, object]) -> list[str]:
        remaps = {
            'sim': {
                route.topic: route.hidden_topic
                for route in make_routes(self.robot)
                if route.name != 'chunks'
            }
            | _hide_controller_parameters(self.robot),
            'policy': {CHUNK_TOPIC: HIDDEN_PREFIX + CHUNK_TOPIC},
        }.get(name, {})
        parameters: Mapping[str, object] = {
            'sim': {
                'robot': self.robot.name,
                'image_width': CAMERA_SIZE[0],
                'image_height': CAMERA_SIZE[1],
                'publish_clock': self._use_sim_time,
            },
            'policy': {
                'checkpoint': self._checkpoint,
                'worker_python': self._worker_script_path,
                'query_timeout_s': 2.0,
                'steps': 4,
                'max_query_rate_hz': 10.0,
            },
            'motion': {'enable_motion': True, 'joy_deadman_button': self._deadman_button},
            'recorder': {'output_dir': self.episodes_dir, 'min_free_mb': 0, 'jpeg_threads': 1},
        }[name]
        if name != 'sim':
            parameters = {
                **parameters,
                'embodiment': self.robot.name,
                'use_sim_time': self._use_sim_time,
            }
        parameters = {**parameters, **overrides}
        space: Sequence[str] = [] if name == 'sim' else ['-r', f'__ns:=/{STACK_NAMESPACE}']
        return [
            *space,
            *(part for pair in remaps.items() for part in ('-r', ':='.join(pair))),
            *(
                part
                for key, value in parameters.items()
                for part in ('-p', f'{key}:={_format_parameter(value)}')
            ),
        ]

    def _step_lifecycle(self, name: str) -> bool:
        """Request one transition towards the active state; return whether it is reached."""
        state = self._client.call_service(GetState, f'{name}/get_state', SERVICE_TIMEOUT_S)
        step = (
            None
            if state is None
            else {
                State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
                State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
            }.get(state.current_state.id)
        )
        if step is not None:
            self._client.call_service(
                ChangeState,
                f'{name}/change_state',
                4 * SERVICE_TIMEOUT_S,
                transition=Transition(id=step),
            )
        if self.processes[name].poll() is not None:
            raise StackLaunchError(f'{name} ended:\n{self.read_log_tail(name)}')
        return state is not None and state.current_state.id == State.PRIMARY_STATE_ACTIVE

    def _expect_relay_reply(self, expected: str) -> None:
        relay = self.processes['tamper']
        assert relay.stdout is not None
        if relay.stdout.readline().strip() != expected:
            raise StackLaunchError(f'the relay does not answer:\n{self.read_log_tail("tamper")}')


def _hide_controller_parameters(robot: Embodiment) -> dict[str, str]:
    """Return remaps of the simulator's services that StackClient answers in its place."""
    bases = [controller.topic.rpartition('/')[0] for controller in robot.controllers]
    names = [f'{base}/{what}_parameters' for base in bases for what in ('list', 'get')]
    return {name: HIDDEN_PREFIX + name for name in names}


def _format_parameter(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
