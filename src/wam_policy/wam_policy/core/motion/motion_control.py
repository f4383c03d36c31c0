"""The state machine of motion: what moves, what stops it, what may be planned next.

Pure: events come in with their time, trajectories to publish come out of `enable`, `tick` and
`accepted`. Planning lies between `job` and `accepted` and may run in another thread. Whatever
happens here, the trajectory being executed ends at rest by itself; a stop makes that sooner.
"""

from dataclasses import replace

import numpy as np

from wam_policy.core.motion import chunk_validator, qp_planner
from wam_policy.core.motion.collision_check import Foreseen, Obstacles
from wam_policy.core.motion.command_tracker import Confirmed
from wam_policy.core.motion.first_move import Approach
from wam_policy.core.motion.monitors import Clamps, Posture, Strain, strayed
from wam_policy.core.motion.motion_state import (
    DRIVEN,
    LATCHED,
    RUNNING,
    STILL,
    Snapshot,
    State,
    Tally,
)
from wam_policy.core.motion.plan_request import Job, Proposal
from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory, held
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.limits import gripping, margined
from wam_policy.core.types import Chunk, JointState, SetPoint

LEAD_NS = 90_000_000  # from planning to the switch; grows while planning proves slower
LEAD_MAX_NS = 200_000_000
DELIVERY_NS = 50_000_000  # a message that comes after its switch makes the set-point jump
# the controllers' set-point may differ from the measured posture by what gravity takes: they
# get this long to bridge it, 0.1 rad at most inside the jerk limit of a slow arm
SETTLE_NS = 500_000_000
BACKWARD_NS = 10_000_000  # a clock that goes back this far has jumped
PAUSE_NS = 500_000_000  # nobody watched for so long: the loop stood still, or time jumped
STOP_WAIT_NS = 200_000_000  # a stop waits so long to hear from which of two curves it starts


class MotionControl:
    """Decide about motion; the caller makes sure that calls do not overlap."""

    def __init__(
        self,
        robot: Embodiment,
        *,
        dry_run: bool,
        speed_scale: float = 1.0,
        use_deadman: bool = False,
        surroundings: Obstacles | None = None,
    ) -> None:
        """Move `robot`; without `surroundings` nothing is known of contact."""
        self.robot, self.dry_run, self.use_deadman = robot, dry_run, use_deadman
        self.surroundings = surroundings
        limits = margined(robot)
        self.limits = replace(limits, velocity=limits.velocity * speed_scale)
        self.posture = Posture(robot)
        self.clamps = Clamps(robot, gripping(robot))
        self.strain = Strain(robot, gripping(robot))
        self.approach = Approach(robot)
        self.gate = chunk_validator.Gate(robot)
        self.tally = Tally()
        self.state, self.reason = State.DISABLED, 'not enabled'
        self.at_rest_then = State.DISABLED  # what STOPPING leads to
        self.obstacle: str | None = 'no joint state yet'  # why nothing may move now
        self.executing: Trajectory | None = None
        self.confirmed = Confirmed(() if dry_run else robot.controllers, robot.commanded)
        self.held_ns = 0  # when the posture was last taken over
        self.active: Proposal | None = None  # the chunk being executed
        self.ahead: Foreseen | None = None  # contact that it was cut short for
        self.pending: Chunk | None = None  # the newest chunk not yet planned
        self.stop_due = False  # a stop is to be planned
        self.halting = False  # chunks are refused until at rest
        self.halted_ns: int | None = None  # since when a stop waits to be sent
        self.lead_ns = LEAD_NS
        self.now_ns: int | None = None  # of the last tick
        self.doubtful = False  # the robot may not be where it was sent
        self.command: np.ndarray | None = None  # at the last tick, [joints]
        self.deadman_ns: int | None = None
        self.deadman_ok = not use_deadman
        self.robot_fault = ''  # the driver's own words, empty if none

    def restart(self) -> None:
        """Begin a new activation: nothing is enabled or counted; a latched stop stays latched."""
        self.posture.forget()
        self.clamps = Clamps(self.robot, gripping(self.robot))
        self.strain.forget()
        self.tally = Tally()
        self.executing = self.command = self.now_ns = self.active = self.pending = None
        self.stop_due = self.halting = False
        self.confirmed.forget()
        if self.state not in LATCHED:
            self._to(State.DISABLED, 'not enabled')

    # --- requests ---------------------------------------------------------------------------

    def enable(self, now_ns: int) -> tuple[Trajectory | None, str]:
        """Take over the measured posture; return its hold to publish, or None and why not."""
        if self.state in LATCHED:
            return None, f'{self.state.name} is latched; call reset first'
        if self.state in DRIVEN:
            return None, 'already enabled' if self.state is not State.STOPPING else 'stopping'
        obstacle = self._obstacle(now_ns) or self.posture.movement()
        if obstacle:
            return None, obstacle
        self._to(State.HOLDING, 'enabled; waiting for a chunk')
        return self._held(self.posture.position, now_ns), ''

    def disable(self, now_ns: int, reason: str = 'disabled on request') -> None:
        """Come to rest, then command nothing more."""
        self._halt(State.DISABLED, reason, now_ns)

    def estop(self, now_ns: int, reason: str = 'e-stop on request') -> None:
        """Come to rest and stay there until reset."""
        self._halt(State.ESTOPPED, reason, now_ns)

    def reset(self, now_ns: int) -> str | None:
        """Release a latched stop; return why not. It moves nothing: `enable` comes after."""
        if self.state not in LATCHED:
            return None
        obstacle = self.posture.staleness(now_ns) or self.posture.movement()
        if obstacle or self._moving(now_ns):
            return f'not reset: {obstacle or "still decelerating"}'
        self._to(State.DISABLED, 'reset; enable to move')
        return None

    # --- events -----------------------------------------------------------------------------

    def on_joints(self, state: JointState, now_ns: int) -> str | None:
        """Take a measured posture; return why it was refused."""
        flaw = self.posture.put(state, now_ns)
        if flaw is None and self.state in DRIVEN and not self.dry_run:
            trouble = strayed(
                self.executing, self.posture, self.limits.step
            ) or self.strain.excess(state)
            if trouble:
                self._halt(State.PROTECTIVE_STOP, trouble, now_ns)
        return flaw

    def on_set_point(self, report: SetPoint, now_ns: int) -> str | None:
        """Hear what a controller follows; return why the report is of no use."""
        flaw = self.confirmed.flaw(report, now_ns)
        if flaw is None and self.confirmed.put(report, now_ns):
            self._lost(report.controller, now_ns)
        return flaw

    def on_robot_fault(self, fault: str, now_ns: int) -> None:
        """Hear what the robot's own driver finds wrong (heat, error flags); empty: nothing."""
        self.robot_fault = fault
        if fault and self.state in DRIVEN and not self.dry_run:
            self._halt(State.PROTECTIVE_STOP, f'robot reports: {fault}', now_ns)

    def on_deadman(self, pressed: bool, now_ns: int) -> None:
        self.deadman_ns = now_ns if pressed else None

    def on_policy_pause(self, reason: str, now_ns: int) -> None:
        """Hear that no chunks come for now: rest soon, and forget what was seen before."""
        self.gate.after(now_ns)
        self.pending = None
        if self.state in (*RUNNING, State.STOPPING) and not self.halting:
            self._halt(State.HOLDING, f'policy paused: {reason}', now_ns)

    def on_chunk(self, chunk: Chunk, now_ns: int) -> str | None:
        """Take a chunk for planning; return why it was refused."""
        reason = self.gate.rejection(chunk, now_ns)
        if self.state not in DRIVEN:  # nothing is asked of us: neither good nor bad
            return f'chunk ignored while {self.state.name}'
        if reason is None and self.halting:
            reason = f'chunk ignored while {self.state.name}'
        if reason is None and self.obstacle:
            reason = f'chunk ignored: {self.obstacle}'
        if reason:
            self.refuse(reason)
        else:
            self.pending = chunk
        return reason

    def refuse(self, reason: str) -> None:
        """Count a chunk that is not executed."""
        self.tally.rejected += 1
        self.tally.late += reason.startswith('late')
        if self.state in DRIVEN and not self.halting:  # else the stop's reason tells more
            self.reason = reason

    def tick(self, now_ns: int) -> Trajectory | None:
        """Advance to `now_ns`, watching everything; return what must be published at once."""
        before_ns = now_ns if self.now_ns is None else self.now_ns
        since_ns, self.now_ns = now_ns - before_ns, now_ns
        if since_ns < -BACKWARD_NS:
            self._jumped(now_ns, before_ns)
            return None
        self.obstacle = self._obstacle(now_ns)
        self.confirmed.watch(now_ns)
        if self.executing is None:
            return None
        if since_ns > PAUSE_NS or self.posture.staleness(now_ns) or self.confirmed.foreign:
            self.doubtful = True
        if self.doubtful and self.enabled and not self.obstacle:
            settled = now_ns >= self.executing.start_ns and not self._moving(now_ns)
            if settled and not self.posture.movement():
                self._to(State.HOLDING, 'the robot is seen again: holding where it is')
                return self._held(self.posture.position, now_ns)
            self.obstacle = self.confirmed.foreign or (
                'the robot was out of sight: waiting until it rests'
            )
        before, self.command = self.command, self.executing.at(now_ns).position
        self.tally.step(before, self.command)
        if self.obstacle and self.state in DRIVEN:
            self.approach.restart()
            if not self.halting:
                self._halt(State.HOLDING, self.obstacle, now_ns)
        if self.state in RUNNING:
            self._watch(now_ns)
        self._notice_rest(now_ns)
        return None

    # --- planning ---------------------------------------------------------------------------

    def job(self, now_ns: int) -> Job | None:
        """Return what is to be planned now, if anything; a stop comes before any chunk."""
        base = self.executing
        if base is None or self._unsure(now_ns):
            return None
        start_ns = max(
            qp_planner.switch_ns(now_ns, self.lead_ns), qp_planner.switch_ns(base.start_ns, 0)
        )
        around = {'surroundings': self.surroundings, 'body': self.posture.body}
        if self.stop_due:
            self.stop_due = False
            return (
                None
                if base.resting_from(start_ns)
                else Job(self.robot, base, now_ns, start_ns, self.limits, **around)
            )
        chunk, self.pending = self.pending, None
        if chunk is None:
            return None
        return Job(
            self.robot,
            base,
            now_ns,
            start_ns,
            self.approach.limits(self.limits, start_ns),
            chunk,
            chunk_validator.anchored_ns(chunk, start_ns, self._rested_ns(now_ns)),
            self.approach.going_on,
            **around,
        )

    def accepted(self, proposal: Proposal, now_ns: int) -> Trajectory | None:
        """Execute a proposal that still fits; return the trajectory to publish."""
        job = proposal.job
        if now_ns < job.now_ns - BACKWARD_NS:  # the clock went back since: no stamp of it holds
            return None
        late = now_ns > job.start_ns - DELIVERY_NS
        if job.base is not self.executing or late or self._unsure(now_ns):
            return self._again(job, late)
        self.lead_ns = max(LEAD_NS, self.lead_ns * 19 // 20)
        if job.chunk is not None and (self.halting or self.obstacle or self.state not in DRIVEN):
            return None
        self.tally.contacts += proposal.ahead is not None
        if proposal.plan is None:
            return self._unplanned(proposal, now_ns)
        if job.chunk is not None:
            self.tally.accepted += 1
            self.active = proposal.after(self.active)
            self._run(again=self.ahead is not None)
            self.ahead = proposal.ahead
            if self.ahead is not None:
                self.reason = f'contact ahead: {self.ahead.what}; stopping before it'
        self.executing, self.halted_ns = proposal.plan, None
        self.confirmed.sent(self.executing, now_ns + DELIVERY_NS, job.start_ns)
        self.tally.use(proposal.used)
        return self.executing

    def snapshot(self, now_ns: int) -> Snapshot:
        """Return what there is to tell now."""
        return Snapshot.of(self, now_ns)

    # --- inside -----------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        return self.state in DRIVEN and not (
            self.state is State.STOPPING and self.at_rest_then is State.DISABLED
        )

    def _to(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason

    def _run(self, again: bool = False) -> None:
        """Be in the state of executing chunks, slowly at first; `again` renews the reason."""
        first = self.approach.going_on
        state = State.FIRST_MOVE if first else State.TRACKING
        if state is not self.state or again:
            self._to(state, 'approaching the policy slowly' if first else 'following chunks')

    def _moving(self, now_ns: int) -> bool:
        return (
            self.executing is not None
            and len(self.executing.time_ns) > 1
            and not self.executing.resting_from(now_ns)
        )

    def _rested_ns(self, now_ns: int) -> int | None:
        """Return since when the arm rests; None while it moves."""
        base = self.executing
        if len(base.time_ns) == 1 or now_ns < base.start_ns:
            return self.held_ns
        return base.end_ns if base.resting_from(now_ns) else None

    def _obstacle(self, now_ns: int) -> str | None:
        """Return why nothing may move now."""
        lease_ns = self.robot.safety.deadman_lease_s * NS_PER_S
        self.deadman_ok = not self.use_deadman or (
            self.deadman_ns is not None and now_ns - self.deadman_ns <= lease_ns
        )
        return (
            self.posture.staleness(now_ns)
            or (None if self.deadman_ok else 'dead-man switch is not held')
            or (f'robot reports: {self.robot_fault}' if self.robot_fault else None)
        )

    def _halt(self, then: State, reason: str, now_ns: int) -> None:
        """Stop what moves and be in `then` at rest; a latched state is entered at once."""
        self.pending = self.active = self.ahead = None
        self.halted_ns = now_ns if not self.halting or self.halted_ns is None else self.halted_ns
        self.stop_due = self.halting = self._moving(now_ns)
        if self.state is State.ESTOPPED or (self.state in LATCHED and then not in LATCHED):
            return
        if self.state in DRIVEN and self.halting and then not in LATCHED:
            self.at_rest_then = then
            then = State.STOPPING
        if self.state is not State.DISABLED or then in LATCHED:
            self._to(then, reason)

    def _held(self, position: np.ndarray, now_ns: int) -> Trajectory:
        """Begin anew from rest at `position` [joints]; return the hold to publish."""
        self.held_ns = now_ns
        self.executing = held(self.robot.commanded, position, now_ns + SETTLE_NS)
        self.confirmed.begun(self.executing)
        self.command = self.pending = self.active = None
        self.stop_due = self.halting = self.doubtful = False
        self.approach.restart()
        self.clamps.forget(now_ns)
        return self.executing

    def _jumped(self, now_ns: int, before_ns: int) -> None:
        """Let what moves come to the end of its trajectory after the clock went back.

        It ends at rest, and where it is on the new clock is known to a tick only: whatever was
        sent meanwhile would be a jump. The robot is taken over when it is seen at rest.
        """
        self.posture.forget()
        self.confirmed.forget()
        self.gate.after(None)
        self.deadman_ns = None
        self.obstacle = self._obstacle(now_ns)
        if self.executing is None:
            return
        self.executing = replace(
            self.executing, start_ns=self.executing.start_ns + now_ns - before_ns
        )
        then = State.HOLDING if self.enabled else State.DISABLED
        self._halt(then, 'the clock went back', now_ns)
        self.stop_due, self.doubtful, self.command = False, True, None

    def _watch(self, now_ns: int) -> None:
        """Follow the rows of the active chunk as they fall due."""
        due_ns, chunk = self.active.due_ns, self.active.job.chunk
        row = min(int(np.searchsorted(due_ns, now_ns)), len(due_ns) - 1)
        self.approach.compare(self.command, self.active.wanted[row], now_ns)
        self._run()
        if self.approach.ramping(now_ns):
            self.clamps.forget(now_ns)  # slow on purpose: that the arm lags means nothing
        limited = self.clamps.pass_rows(due_ns, self.active.limited, now_ns)
        if limited.any() and self.ahead is None:
            self.reason = f'limited: {chunk.names[int(limited.argmax())]}'
        excess = self.clamps.excess()
        if excess:
            self._halt(State.PROTECTIVE_STOP, excess, now_ns)
        elif now_ns > due_ns[-1]:
            self.active, self.at_rest_then = None, State.HOLDING
            short = bool(np.abs(self.executing.goal - self.command).max() > STILL)
            self.tally.underruns += short  # else it led to where the arm rests: nothing is missed
            self._to(
                State.STOPPING,
                'underrun: the chunk ran out before the next one came'
                if short
                else 'the chunk is over',
            )

    def _notice_rest(self, now_ns: int) -> None:
        if self._moving(now_ns):
            return
        self.halting = self.stop_due = False
        if self.state is State.STOPPING:
            self.state = self.at_rest_then

    def _unsure(self, now_ns: int) -> bool:
        """Tell whether to send nothing yet: a controller may follow either of two curves."""
        since_ns = self.halted_ns if self.halting and self.halted_ns is not None else now_ns
        return now_ns - since_ns < STOP_WAIT_NS and self.confirmed.unsure(now_ns)

    def _lost(self, controller: str, now_ns: int) -> None:
        """Go on from what is really followed: a command has not reached `controller`."""
        self.executing, self.command, self.held_ns = self.confirmed.followed(), None, now_ns
        self.tally.lost += 1
        if self.state not in LATCHED:  # why it is latched tells more
            self.reason = f'command lost on the way to {controller}; planned again from there'
        if self.halting or self.state not in (*RUNNING, State.STOPPING):
            self.halting = False  # this stop is a new one
            then = self.at_rest_then if self.state is State.STOPPING else self.state
            self._halt(then, self.reason, now_ns)
        elif self.active is not None and self.pending is None:
            self.pending = self.active.job.chunk

    def _again(self, job: Job, late: bool) -> None:
        """Plan once more what came too late or too early, or stands on an old motion."""
        if late and job.base is self.executing:
            self.tally.replanned += 1
            self.lead_ns = min(2 * self.lead_ns, LEAD_MAX_NS)
        if job.chunk is None:
            self.stop_due = self.halting
        elif self.pending is None and self.state in DRIVEN and not self.halting:
            self.pending = job.chunk

    def _unplanned(self, proposal: Proposal, now_ns: int) -> Trajectory | None:
        """Note why there is no plan: what is being executed goes on and ends at rest."""
        if proposal.job.chunk is None:
            self.reason = f'{self.reason}; no faster stop: {proposal.reason}'
            return None
        self.refuse(proposal.reason)
        if self.dry_run and not self._moving(now_ns):
            # nothing follows a dry run's command; it must not stay where only it has gone
            return self._held(self.posture.position, now_ns)
        return None
