"""What a fault is: data and two small functions; and the bench it is injected at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from std_srvs.srv import SetBool, Trigger

from wam_msgs.srv import StartEpisode, StopEpisode
from wam_policy.core.robot.embodiment import Embodiment
from wam_tools.fault_injection.stack_client import Needs, Stack
from wam_tools.fault_injection.stack_observer import NoStack, Said, Watch, until

WORDS = 'wave to the lab'
LATCHED, DRIVING = ('ESTOPPED', 'PROTECTIVE_STOP'), ('FIRST_MOVE', 'TRACKING')
SAVING_S = 20.0


@dataclass(slots=True)
class Bench:
    """Hold a running stack, its watch, and what faults must remember between their two halves."""

    robot: Embodiment
    stack: Stack
    watch: Watch
    words: str = WORDS
    saved: list[Path] = field(default_factory=list)  # episodes that must stay whole
    undo: dict[str, Callable[[], None]] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)  # why stops were latched
    leavings: list[str] = field(default_factory=list)  # what did not end in order

    def found(self, pattern: str, since_s: float) -> Said | None:
        """Return the first statement since then that matches; logs count."""
        self.stack.read_logs()
        return self.watch.found(pattern, since_s)

    def driving(self) -> bool:
        """Tell whether the policy is followed; do what an operator would towards that.

        Words are said again where they were lost, and a latched stop is released.
        """
        watch = self.watch
        heard = watch.policy.instruction == self.words
        if heard and watch.policy.state_name == 'RUNNING' and watch.motion.state_name in DRIVING:
            return watch.moving()
        if not heard and watch.policy.state_name != 'STARTING':
            watch.say(self.words)
        if watch.motion.state_name in LATCHED:
            reason = watch.motion.reason
            answer = watch.call(Trigger, 'reset', 2.0)
            if answer is not None and answer.success:
                self.released.append(reason)
        if watch.motion.state_name == 'DISABLED':
            watch.call(SetBool, 'enable', 2.0, data=True)
        return False

    def start_episode(self) -> str:
        """Start an episode and return its name; NoStack with the reason if it cannot be."""
        answer = self.watch.call(StartEpisode, 'recorder/start', SAVING_S)
        if answer is None or not answer.success:
            raise NoStack(f'no episode: {answer.message if answer else "recorder is silent"}')
        return answer.episode

    def save_episode(self) -> None:
        """Stop the episode and remember that it is saved; NoStack with the reason if it is not."""
        answer = self.watch.call(StopEpisode, 'recorder/stop', SAVING_S, keep=True)
        if answer is None or not answer.success:
            raise NoStack(f'not saved: {answer.message if answer else "recorder is silent"}')
        self.saved.append(self.stack.episodes / answer.episode)

    def wait(self, pattern: str, since_s: float, timeout_s: float) -> Said:
        """Wait until something is said; NoStack if nobody says it."""
        said = until(lambda: self.found(pattern, since_s), timeout_s)
        if said is None:
            raise NoStack(f'nobody says {pattern!r}')
        return said


Act = Callable[[Bench], None]


def nothing(_: Bench) -> None:
    """Do nothing: the fault goes away by itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Describe one fault and what the stack owes us when it happens.

    `detect` is looked for in 'who: statement' of everything said since the injection; None: there
    is nothing to complain about. `rests`: the joints come to rest while it lasts (True), nothing
    may disturb them (False), or either (None).
    """

    name: str  # family/what
    touches: tuple[str, ...]  # parts of the stack; faults of a pair share none
    inject: Act
    remove: Act
    detect: str | None
    rests: bool | None
    within_s: float = 6.0  # for detection, and for rest
    lasts_s: float = 0.3  # longer than it takes to be detected and rested
    check: Callable[[Bench], str] = lambda _: ''  # a complaint, while it lasts
    prepare: Act = nothing  # what takes time and is no fault yet
    latches: bool = False  # a person has to release the stop
    needs: Needs = Needs.NOTHING  # of the stack it is injected into
    note: str = ''  # what to know about the row
