"""A fault (data and what injects it), and the test bench into which it is injected."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.publisher import Publisher
from std_srvs.srv import SetBool, Trigger

from wam_msgs.srv import StartEpisode, StopEpisode
from wam_policy.core.robot.embodiment import Embodiment
from wam_tools.fault_injection.stack_client import StackFeature, StackProcesses
from wam_tools.fault_injection.stack_observer import LogEntry, StackClient
from wam_tools.stack_launch import StackLaunchError

INSTRUCTION = 'wave to the lab'
LATCHED_STATES, MOVING_STATES = ('ESTOPPED', 'PROTECTIVE_STOP'), ('FIRST_MOVE', 'TRACKING')
RECORDER_TIMEOUT_S = 20.0


@dataclass(slots=True)
class FaultTestBench:
    """A running stack, its observer, and the state of faults between injection and removal."""

    robot: Embodiment
    stack: StackProcesses
    client: StackClient
    instruction: str = INSTRUCTION
    saved_episodes: list[Path] = field(default_factory=list)  # episodes that must stay readable
    undo: ExitStack = field(default_factory=ExitStack)  # ends the faults, the last one first
    latched_publishers: dict[str, Publisher] = field(default_factory=dict)  # by topic
    previous_session: tuple[str, int] = '', 0  # and a stamp of it, ns
    released_stops: list[str] = field(default_factory=list)  # reasons of released stops
    unclean_exits: list[str] = field(default_factory=list)  # processes with unclean exits

    def find_log_entry(self, pattern: str, since_s: float) -> LogEntry | None:
        """Return the first entry since `since_s` that matches, log files included."""
        self.stack.collect_log_errors()
        return self.client.find_log_entry(pattern, since_s)

    def ensure_moving(self) -> bool:
        """Return whether the robot follows the policy; take the steps of an operator towards it.

        Sends a lost instruction again, releases a latched stop, enables motion.
        """
        client = self.client
        received = client.policy.instruction == self.instruction
        if (
            received
            and client.policy.state_name == 'RUNNING'
            and client.motion.state_name in MOVING_STATES
        ):
            return client.is_moving()
        if not received and client.policy.state_name != 'STARTING':
            client.publish_instruction(self.instruction)
        if client.motion.state_name in LATCHED_STATES:
            reason = client.motion.reason
            answer = client.call_service(Trigger, 'reset', 2.0)
            if answer is not None and answer.success:
                self.released_stops.append(reason)
        if client.motion.state_name == 'DISABLED':
            client.call_service(SetBool, 'enable', 2.0, data=True)
        return False

    def start_episode(self) -> str:
        """Start an episode and return its name; raise StackLaunchError with the reason."""
        answer = self.client.call_service(StartEpisode, 'recorder/start', RECORDER_TIMEOUT_S)
        if answer is None or not answer.success:
            raise StackLaunchError(
                f'no episode: {answer.message if answer else "recorder is silent"}'
            )
        return answer.episode_name

    def save_episode(self) -> None:
        """Stop and save the episode; raise StackLaunchError with the reason if it is not saved."""
        answer = self.client.call_service(
            StopEpisode, 'recorder/stop', RECORDER_TIMEOUT_S, keep=True
        )
        if answer is None or not answer.success:
            raise StackLaunchError(
                f'not saved: {answer.message if answer else "recorder is silent"}'
            )
        self.saved_episodes.append(self.stack.episodes_dir / answer.episode_name)


FaultAction = Callable[[FaultTestBench], object]


def do_nothing(_: FaultTestBench) -> None:
    """Do nothing, for faults without a preparation."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and the required reaction of the stack.

    `detect` is a pattern for 'source: text' of the entries since the injection; None: no report is
    required. `rests`: the joints must come to rest during the fault (True), must not be disturbed
    (False), or either (None).
    """

    name: str  # family/what
    components: tuple[str, ...]  # affected parts of the stack; those of a pair are disjoint
    inject: FaultAction  # adds what ends the fault to `bench.undo`
    detect: str | None
    rests: bool | None
    within_s: float = 6.0  # for detection, and for rest
    duration_s: float = 0.3  # longer than detection and coming to rest
    check: Callable[[FaultTestBench], str] = lambda _: ''  # returns an error during the fault
    prepare: FaultAction = do_nothing  # slow preparation before the injection
    latches: bool = False  # an operator must release the stop
    required_feature: StackFeature = StackFeature.NOTHING  # of the stack
    note: str = ''  # remark in the row
    # for rows that start what they need themselves: (fault, folder, ROS domain) -> FaultResult
    run_alone: Callable[..., Any] | None = None
