"""What a fault is: data and two small functions; and the bench it is injected at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from std_srvs.srv import SetBool, Trigger

from wam_msgs.srv import StartEpisode, StopEpisode
from wam_policy.core.robot.embodiment import Embodiment
from wam_tools.fault_injection.stack_client import StackFeature, StackProcesses
from wam_tools.fault_injection.stack_observer import LogEntry, StackClient, poll_until
from wam_tools.stack_launch import StackLaunchError

INSTRUCTION = 'wave to the lab'
LATCHED_STATES, MOVING_STATES = ('ESTOPPED', 'PROTECTIVE_STOP'), ('FIRST_MOVE', 'TRACKING')
RECORDER_TIMEOUT_S = 20.0


@dataclass(slots=True)
class FaultTestBench:
    """Hold a running stack, its watch, and what faults must remember between their two halves."""

    robot: Embodiment
    stack: StackProcesses
    client: StackClient
    instruction: str = INSTRUCTION
    saved_episodes: list[Path] = field(default_factory=list)  # episodes that must stay whole
    undo_actions: dict[str, Callable[[], None]] = field(default_factory=dict)
    released_stops: list[str] = field(default_factory=list)  # why stops were latched
    unclean_exits: list[str] = field(default_factory=list)  # what did not end in order

    def find_log_entry(self, pattern: str, since_s: float) -> LogEntry | None:
        """Return the first statement since then that matches; logs count."""
        self.stack.collect_log_errors()
        return self.client.find_log_entry(pattern, since_s)

    def ensure_moving(self) -> bool:
        """Tell whether the policy is followed; do what an operator would towards that.

        Words are said again where they were lost, and a latched stop is released.
        """
        watch = self.client
        heard = watch.policy.instruction == self.instruction
        if (
            heard
            and watch.policy.state_name == 'RUNNING'
            and watch.motion.state_name in MOVING_STATES
        ):
            return watch.is_moving()
        if not heard and watch.policy.state_name != 'STARTING':
            watch.publish_instruction(self.instruction)
        if watch.motion.state_name in LATCHED_STATES:
            reason = watch.motion.reason
            answer = watch.call_service(Trigger, 'reset', 2.0)
            if answer is not None and answer.success:
                self.released_stops.append(reason)
        if watch.motion.state_name == 'DISABLED':
            watch.call_service(SetBool, 'enable', 2.0, data=True)
        return False

    def start_episode(self) -> str:
        """Start an episode and return its name; NoStack with the reason if it cannot be."""
        answer = self.client.call_service(StartEpisode, 'recorder/start', RECORDER_TIMEOUT_S)
        if answer is None or not answer.success:
            raise StackLaunchError(
                f'no episode: {answer.message if answer else "recorder is silent"}'
            )
        return answer.episode_name

    def save_episode(self) -> None:
        """Stop the episode and remember that it is saved; NoStack with the reason if it is not."""
        answer = self.client.call_service(
            StopEpisode, 'recorder/stop', RECORDER_TIMEOUT_S, keep=True
        )
        if answer is None or not answer.success:
            raise StackLaunchError(
                f'not saved: {answer.message if answer else "recorder is silent"}'
            )
        self.saved_episodes.append(self.stack.episodes_dir / answer.episode_name)

    def wait_for_log_entry(self, pattern: str, since_s: float, timeout_s: float) -> LogEntry:
        """Wait until something is said; NoStack if nobody says it."""
        said = poll_until(lambda: self.find_log_entry(pattern, since_s), timeout_s)
        if said is None:
            raise StackLaunchError(f'nobody says {pattern!r}')
        return said


FaultAction = Callable[[FaultTestBench], object]


def do_nothing(_: FaultTestBench) -> None:
    """Do nothing: the fault goes away by itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Describe one fault and what the stack owes us when it happens.

    `detect` is looked for in 'who: statement' of everything said since the injection; None: there
    is nothing to complain about. `rests`: the joints come to rest while it lasts (True), nothing
    may disturb them (False), or either (None).
    """

    name: str  # family/what
    components: tuple[str, ...]  # parts of the stack; faults of a pair share none
    inject: FaultAction
    remove: FaultAction
    detect: str | None
    rests: bool | None
    within_s: float = 6.0  # for detection, and for rest
    duration_s: float = 0.3  # longer than it takes to be detected and rested
    check: Callable[[FaultTestBench], str] = lambda _: ''  # a complaint, while it lasts
    prepare: FaultAction = do_nothing  # what takes time and is no fault yet
    latches: bool = False  # a person has to release the stop
    required_feature: StackFeature = StackFeature.NOTHING  # of the stack it is injected into
    note: str = ''  # what to know about the row
