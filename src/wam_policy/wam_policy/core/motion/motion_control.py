"""The state machine of motion: what moves, what stops it, what may be planned next.

Pure: events come in with their time; `enable`, `tick` and `accept_plan` return the trajectories to
publish. Planning lies between `next_plan_request` and `accept_plan` and may run in another thread.
The trajectory being executed always ends at rest by itself; a stop makes that sooner.
"""

from dataclasses import replace

import numpy as np

from wam_policy.core.motion import chunk_validator, qp_planner
from wam_policy.core.motion.collision_check import CollisionChecker, PredictedCollision
from wam_policy.core.motion.command_tracker import CommandTracker
from wam_policy.core.motion.first_move import FirstMoveLimiter
from wam_policy.core.motion.monitors import (
    EffortMonitor,
    JointStateMonitor,
    LimitRateMonitor,
    check_tracking_error,
)
from wam_policy.core.motion.motion_state import (
    ACTIVE_STATES,
    AT_GOAL_RAD,
    LATCHED_STATES,
    RUNNING_STATES,
    MotionCounters,
    MotionSnapshot,
    MotionState,
)
from wam_policy.core.motion.plan_request import ActiveChunk, PlanRequest, PlanResult
from wam_policy.core.motion.trajectory import NS_PER_S, Trajectory, make_hold
from wam_policy.core.motion.trajectory_clock import SCALED_STEPS, TrajectoryClock
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.limits import gripper_mask, limits_with_margin
from wam_policy.core.robot.safety_checks import SafetyChecks
from wam_policy.core.types import Chunk, JointState, Setpoint

PLANNING_LEAD_NS = 90_000_000  # from planning to the switch; grows while planning proves slower
MAX_PLANNING_LEAD_NS = 200_000_000
DELIVERY_MARGIN_NS = 50_000_000  # a message that comes after its switch makes the set-point jump
# the controllers' set-point may differ from the measured posture by what gravity takes: they
# get this long to bridge it, 0.1 rad at most inside the jerk limit of a slow arm
HOLD_SETTLE_NS = 500_000_000
CLOCK_JUMP_NS = 10_000_000  # a clock that goes back this far has jumped
MAX_TICK_GAP_NS = 500_000_000  # nobody watched for so long: the loop stood still, or time jumped
MAX_STOP_DELAY_NS = 200_000_000  # a stop waits so long to hear from which of two curves it starts


class MotionControl:
    """Decide about motion; the caller makes sure that calls do not overlap."""

    def __init__(
        self,
        robot: Embodiment,
        *,
        dry_run: bool,
        speed_scale: float = 1.0,
        use_deadman: bool = False,
        collision_checker: CollisionChecker | None = None,
        safety_checks: SafetyChecks | None = None,
    ) -> None:
        """Move `robot`; what is not given, a checker of contact or of inputs, finds nothing."""
        self.robot, self.dry_run, self.use_deadman = robot, dry_run, use_deadman
        self.collision_checker = collision_checker
        self.safety_checks = safety_checks or SafetyChecks()
        limits = limits_with_margin(robot)
        self.limits = replace(limits, velocity=limits.velocity * speed_scale)
        self.joint_monitor = JointStateMonitor(robot)
        self.limit_rate_monitor = LimitRateMonitor(robot, gripper_mask(robot))
        self.effort_monitor = EffortMonitor(robot, gripper_mask(robot))
        self.first_move = FirstMoveLimiter(robot)
        self.chunk_validator = chunk_validator.ChunkValidator(robot)
        self.counters = MotionCounters()
        self.state, self.reason = MotionState.DISABLED, 'not enabled'
        self.state_after_stop = MotionState.DISABLED  # what STOPPING leads to
        self.blocked_reason: str | None = 'no joint state yet'  # why nothing may move now
        self.executing: Trajectory | None = None
        controllers = () if dry_run else robot.controllers
        self.command_tracker = CommandTracker(controllers, robot.commanded)
        self.trajectory_clock = TrajectoryClock(controllers, self.command_tracker)
        self.hold_since_ns = 0  # when the posture was last taken over
        self.active_chunk: ActiveChunk | None = None  # the chunk being executed
        self.predicted_collision: PredictedCollision | None = None  # it was cut short for this
        self.pending_chunk: Chunk | None = None  # the newest chunk not yet planned
        self.stop_requested = False  # a stop is to be planned
        self.halting = False  # chunks are refused until at rest
        self.stop_pending_since_ns: int | None = None  # since when a stop waits to be sent
        self.planning_lead_ns = PLANNING_LEAD_NS
        self.now_ns: int | None = None  # of the last tick
        self.position_uncertain = False  # the robot may not be where it was sent
        self.timing_unknown = False  # controllers are not where the clock says: send nothing
        self.command: np.ndarray | None = None  # at the last tick, [joints]
        self.deadman_ns: int | None = None
        self.deadman_ok = not use_deadman
        self.robot_fault = ''  # the driver's own words, empty if none

    def restart(self) -> None:
        """Begin a new activation: nothing is enabled or counted; a latched stop stays latched."""
        self.joint_monitor.reset()
        self.limit_rate_monitor = LimitRateMonitor(self.robot, gripper_mask(self.robot))
        self.effort_monitor.reset()
        self.counters = MotionCounters()
        self.executing = self.command = self.now_ns = self.active_chunk = self.pending_chunk = None
        self.stop_requested = self.halting = False
        self.command_tracker.reset()
        if self.state not in LATCHED_STATES:
            self._set_state(MotionState.DISABLED, 'not enabled')

    # --- requests ---------------------------------------------------------------------------

    def enable(self, now_ns: int) -> tuple[Trajectory | None, str]:
        """Take over the measured posture; return its hold to publish, or None and why not."""
        if self.state in LATCHED_STATES:
            return None, f'{self.state.name} is latched; call reset first'
        if self.state in ACTIVE_STATES:
            is_stopping = self.state is MotionState.STOPPING
            return None, 'stopping' if is_stopping else 'already enabled'
        obstacle = (
            self._check_blocked(now_ns)
            or self.joint_monitor.check_at_rest()
            or self.safety_checks.check_enabling(self, now_ns)
        )
        if obstacle:
            self.reason = f'not enabled: {obstacle}'
            return None, obstacle
        self._set_state(MotionState.HOLDING, 'enabled; waiting for a chunk')
        return self._start_hold(self.joint_monitor.position, now_ns), ''

    def disable(self, now_ns: int, reason: str = 'disabled on request') -> None:
        """Come to rest, then command nothing more; an instruction that was followed is gone."""
        if self.enabled:
            self._end_instruction()
        self._halt(MotionState.DISABLED, reason, now_ns)

    def estop(self, now_ns: int, reason: str = 'e-stop on request') -> None:
        """Come to rest and stay there until reset."""
        self._halt(MotionState.ESTOPPED, reason, now_ns)

    def reset(self, now_ns: int) -> str | None:
        """Release a latched stop; return why not. It moves nothing: `enable` comes after."""
        if self.state not in LATCHED_STATES:
            return f'nothing to reset: no stop is latched, motion is {self.state.name}'
        obstacle = self.joint_monitor.check_age(now_ns) or self.joint_monitor.check_at_rest()
        if obstacle or self._is_moving(now_ns):
            return f'not reset: {obstacle or "still decelerating"}'
        self._set_state(MotionState.DISABLED, 'reset; enable and give an instruction to move')
        return None

    # --- events -----------------------------------------------------------------------------

    def on_joints(self, state: JointState, now_ns: int) -> str | None:
        """Take a measured posture; return why it was refused."""
        flaw = self.joint_monitor.update(state, now_ns)
        strain = self.effort_monitor.check_effort(state)
        executing = self.executing if self.state in ACTIVE_STATES and not self.dry_run else None
        if flaw is None and executing is not None:
            due = executing.at(self.trajectory_clock.to_trajectory_ns(state.stamp_ns)).position
            apart = check_tracking_error(due, self.joint_monitor, self.limits.step)
            if apart or strain:
                self._halt(MotionState.PROTECTIVE_STOP, apart or strain or '', now_ns)
        return flaw

    def on_setpoint(self, report: Setpoint, now_ns: int) -> str | None:
        """Hear what a controller follows; return why the report is of no use."""
        flaw = self.command_tracker.check_report(report, now_ns)
        if flaw is None and self.trajectory_clock.process_report(report, now_ns):
            self._handle_lost_command(report.controller, now_ns)
        return flaw

    def on_robot_fault(self, fault: str, now_ns: int) -> None:
        """Hear what the robot's own driver finds wrong (heat, error flags); empty: nothing."""
        self.robot_fault = fault
        if fault and self.state in ACTIVE_STATES and not self.dry_run:
            self._halt(MotionState.PROTECTIVE_STOP, f'robot reports: {fault}', now_ns)

    def on_node_fault(self, reason: str, now_ns: int) -> None:
        """Stop and latch, also from DISABLED: the program that moves the robot has a fault."""
        self._halt(MotionState.PROTECTIVE_STOP, f'fault in motion_node: {reason}', now_ns)

    def on_controller_fault(self, fault: str, now_ns: int, timing_unknown: bool = False) -> None:
        """Stop; with `timing_unknown` at the end of what is executed: a new one would jump."""
        self.timing_unknown |= timing_unknown and self._is_moving(now_ns)
        if self.state in ACTIVE_STATES:
            self._halt(MotionState.PROTECTIVE_STOP, fault, now_ns)

    def on_deadman(self, pressed: bool, now_ns: int) -> None:
        self.deadman_ns = now_ns if pressed else None

    def on_policy_pause(self, reason: str, now_ns: int) -> None:
        """Hear that no chunks come for now: rest soon, and forget what was seen before."""
        self.chunk_validator.reject_until(now_ns)
        self.pending_chunk = None
        if self.state in (*RUNNING_STATES, MotionState.STOPPING) and not self.halting:
            self._halt(MotionState.HOLDING, f'policy paused: {reason}', now_ns)

    def on_chunk(self, chunk: Chunk, now_ns: int) -> str | None:
        """Take a chunk for planning; return why it was refused."""
        reason = self.chunk_validator.validate(chunk, now_ns)
        if self.state not in ACTIVE_STATES:  # not active: neither reached nor missed
            return f'chunk ignored while {self.state.name}'
        if reason is None and self.halting:
            reason = f'chunk ignored while {self.state.name}'
        if reason is None and self.blocked_reason:
            reason = f'chunk ignored: {self.blocked_reason}'
        if reason:
            self.reject_chunk(reason)
        else:
            self.pending_chunk = chunk
        return reason

    def reject_chunk(self, reason: str) -> None:
        """Count a chunk that is not executed."""
        self.counters.rejected += 1
        self.counters.late += reason.startswith('late')
        if self.state in ACTIVE_STATES and not self.halting:  # else the stop's reason tells more
            self.reason = reason

    def tick(self, now_ns: int) -> Trajectory | None:
        """Advance to `now_ns`, watching everything; return what must be published at once."""
        before_ns = now_ns if self.now_ns is None else self.now_ns
        since_ns, self.now_ns = now_ns - before_ns, now_ns
        if since_ns < -CLOCK_JUMP_NS:
            self._handle_clock_jump(now_ns, before_ns)
            return None
        self.command_tracker.expire_reports(now_ns)
        self.trajectory_clock.advance(now_ns)
        self.blocked_reason = self._check_blocked(now_ns)
        executing = self.executing
        if executing is None:
            return None
        rest = self.trajectory_clock.find_rest(executing, now_ns)
        if rest is not None:
            self.executing, self.hold_since_ns = (executing := rest), now_ns
        self.position_uncertain |= self.trajectory_clock.is_lost(executing, now_ns)
        due_ns = self.trajectory_clock.to_trajectory_ns(now_ns)
        if (
            since_ns > MAX_TICK_GAP_NS
            or self.joint_monitor.check_age(now_ns)
            or self.command_tracker.external_motion_reason
        ):
            self.position_uncertain = True
        if self.position_uncertain and self.enabled and not self.blocked_reason:
            settled = due_ns >= executing.start_ns and not self._is_moving(now_ns)
            if settled and not self.joint_monitor.check_at_rest():
                self._set_state(
                    MotionState.HOLDING, 'the robot is seen again: holding where it is'
                )
                return self._start_hold(self.joint_monitor.position, now_ns)
            self.blocked_reason = self.command_tracker.external_motion_reason or (
                'the robot was out of sight: waiting until it rests'
            )
        command = executing.at(due_ns).position
        self.counters.record_step(self.command, command)
        self.command = command
        if self.blocked_reason and self.state in ACTIVE_STATES:
            self.first_move.reset()
            if not self.halting:
                self._halt(MotionState.HOLDING, self.blocked_reason, now_ns)
        if self.active_chunk is not None and self.state in RUNNING_STATES:
            self._monitor_active_chunk(self.active_chunk, executing, command, now_ns)
        self._finish_stop_at_rest(now_ns)
        return None

    # --- planning ---------------------------------------------------------------------------

    def next_plan_request(self, now_ns: int) -> PlanRequest | None:
        """Return what is to be planned now, if anything; a stop comes before any chunk."""
        base = self.executing
        if self.timing_unknown or self.trajectory_clock.must_rest_first:
            self.stop_requested = False
            return None
        if base is None or self._must_wait_for_report(now_ns):
            return None
        start_ns = max(
            qp_planner.compute_switch_ns(now_ns, self.planning_lead_ns),
            qp_planner.compute_switch_ns(base.start_ns, 0),
        )
        request = PlanRequest(
            self.robot,
            base,
            now_ns,
            start_ns,
            self.limits,
            max_steps=None if self.trajectory_clock.is_on_time else SCALED_STEPS,
            collision_checker=self.collision_checker,
            state_only_positions=self.joint_monitor.state_only_positions,
        )
        if self.stop_requested:
            self.stop_requested = False
            return None if base.is_at_rest(start_ns) else request
        chunk, self.pending_chunk = self.pending_chunk, None
        if chunk is None:
            return None
        return request.for_chunk(chunk, self._at_rest_since_ns(base, now_ns), self.first_move)

    def accept_plan(self, result: PlanResult, now_ns: int) -> Trajectory | None:
        """Execute a plan that still fits; return the trajectory to publish."""
        job = result.request
        if now_ns < job.now_ns - CLOCK_JUMP_NS or self.timing_unknown:
            return None  # the clock went back since, or is not the controllers': no stamp holds
        late = now_ns > job.start_ns - DELIVERY_MARGIN_NS
        changed = job.base is not self.executing or self.trajectory_clock.must_rest_first
        if changed or late or self._must_wait_for_report(now_ns):
            return self._replan(job, late)
        self.planning_lead_ns = max(PLANNING_LEAD_NS, self.planning_lead_ns * 19 // 20)
        if job.chunk is not None and (
            self.halting or self.blocked_reason or self.state not in ACTIVE_STATES
        ):
            return None
        self.counters.predicted_collisions += result.predicted_collision is not None
        if result.trajectory is None:
            return self._handle_plan_failure(result, now_ns)
        if result.active_chunk is not None:
            self.counters.accepted += 1
            self.active_chunk = result.active_chunk.with_earlier_rows(self.active_chunk, job)
            self._enter_running_state(renew_reason=self.predicted_collision is not None)
            self.predicted_collision = result.predicted_collision
            if self.predicted_collision is not None:
                self.reason = f'contact ahead: {self.predicted_collision.pair}; stopping before it'
        self.executing, self.stop_pending_since_ns = result.trajectory, None
        self.trajectory_clock.start()
        self.command_tracker.record_sent(self.executing, now_ns + DELIVERY_MARGIN_NS, job.start_ns)
        if result.limit_usage is not None:
            self.counters.record_usage(result.limit_usage)
        return self.executing

    def snapshot(self, now_ns: int) -> MotionSnapshot:
        """Return what there is to tell now."""
        return MotionSnapshot.from_motion(self, now_ns)

    @property
    def enabled(self) -> bool:
        return self.state in ACTIVE_STATES and not (
            self.state is MotionState.STOPPING and self.state_after_stop is MotionState.DISABLED
        )

    def _set_state(self, state: MotionState, reason: str) -> None:
        self.state, self.reason = state, reason

    def _enter_running_state(self, renew_reason: bool = False) -> None:
        """Enter FIRST_MOVE or TRACKING; `renew_reason` sets the reason again."""
        first = self.first_move.is_active
        state = MotionState.FIRST_MOVE if first else MotionState.TRACKING
        if state is not self.state or renew_reason:
            self._set_state(
                state, 'approaching the policy slowly' if first else 'following chunks'
            )

    def _is_moving(self, now_ns: int) -> bool:
        base, due_ns = self.executing, self.trajectory_clock.to_trajectory_ns(now_ns)
        return base is not None and len(base.time_ns) > 1 and not base.is_at_rest(due_ns)

    def _at_rest_since_ns(self, base: Trajectory, now_ns: int) -> int | None:
        """Return since when the arm rests that follows `base`; None while it moves."""
        if len(base.time_ns) == 1 or now_ns < base.start_ns:
            return self.hold_since_ns
        return base.end_ns if base.is_at_rest(now_ns) else None

    def _check_blocked(self, now_ns: int) -> str | None:
        """Return why nothing may move now."""
        lease_ns = self.robot.safety.deadman_lease_s * NS_PER_S
        self.deadman_ok = not self.use_deadman or (
            self.deadman_ns is not None and now_ns - self.deadman_ns <= lease_ns
        )
        return (
            self.joint_monitor.check_age(now_ns)
            or (None if self.deadman_ok else 'dead-man switch is not held')
            or (f'robot reports: {self.robot_fault}' if self.robot_fault else None)
            or self.trajectory_clock.check_reports()
        )

    def _halt(self, then: MotionState, reason: str, now_ns: int) -> None:
        """Stop what moves and be in `then` at rest; a latched state is entered at once."""
        self.pending_chunk = self.active_chunk = self.predicted_collision = None
        if not self.halting or self.stop_pending_since_ns is None:
            self.stop_pending_since_ns = now_ns
        self.stop_requested = self.halting = self._is_moving(now_ns)
        if self.state is MotionState.ESTOPPED or (
            self.state in LATCHED_STATES and then not in LATCHED_STATES
        ):
            return
        if self.state in ACTIVE_STATES and self.halting and then not in LATCHED_STATES:
            self.state_after_stop = then
            then = MotionState.STOPPING
        if then in LATCHED_STATES and self.state not in LATCHED_STATES:
            self._end_instruction()
        if self.state is not MotionState.DISABLED or then in LATCHED_STATES:
            self._set_state(then, reason)

    def _end_instruction(self) -> None:
        """Refuse the present session's chunks: the policy drops it only with the next status."""
        self.counters.stops += 1
        self.chunk_validator.end_session()

    def _start_hold(self, position: np.ndarray, now_ns: int) -> Trajectory:
        """Begin anew from rest at `position` [joints]; return the hold to publish."""
        self.hold_since_ns = now_ns
        self.executing = make_hold(self.robot.commanded, position, now_ns + HOLD_SETTLE_NS)
        self.trajectory_clock.start()
        self.command_tracker.record_hold(self.executing)
        self.command = self.pending_chunk = self.active_chunk = None
        self.stop_requested = self.halting = False
        self.position_uncertain = self.timing_unknown = False
        self.first_move.reset()
        self.limit_rate_monitor.clear_window(now_ns)
        return self.executing

    def _handle_clock_jump(self, now_ns: int, before_ns: int) -> None:
        """Let what moves come to the end of its trajectory after the clock went back.

        It ends at rest, and where it is on the new clock is known to a tick only: whatever was
        sent meanwhile would be a jump. The robot is taken over when it is seen at rest.
        """
        self.joint_monitor.reset()
        self.effort_monitor.reset()
        self.command_tracker.reset()
        self.chunk_validator.reject_until(None)
        self.deadman_ns = None
        self.blocked_reason = self._check_blocked(now_ns)
        if self.executing is None:
            return
        self.executing = replace(
            self.executing, start_ns=self.executing.start_ns + now_ns - before_ns
        )
        then = MotionState.HOLDING if self.enabled else MotionState.DISABLED
        self._halt(then, 'the clock went back', now_ns)
        self.stop_requested, self.position_uncertain, self.command = False, True, None

    def _monitor_active_chunk(
        self, active: ActiveChunk, executing: Trajectory, command: np.ndarray, now_ns: int
    ) -> None:
        """Follow the rows of the active chunk as they fall due; `command` [joints] is due now."""
        due_ns, at_ns = active.due_ns, self.trajectory_clock.to_trajectory_ns(now_ns)
        self.first_move.update(command, active.target_at(at_ns), now_ns)
        self._enter_running_state()
        if self.first_move.is_ramping(now_ns):
            # slow on purpose: that the arm lags means nothing
            self.limit_rate_monitor.clear_window(at_ns)
        limited = self.limit_rate_monitor.count_rows(due_ns, active.limited, at_ns)
        if limited.any() and self.predicted_collision is None:
            self.reason = f'limited: {active.chunk.names[int(limited.argmax())]}'
        excess = self.limit_rate_monitor.check_rate()
        if excess:
            self._halt(MotionState.PROTECTIVE_STOP, excess, now_ns)
        elif at_ns > due_ns[-1]:
            self.active_chunk, self.state_after_stop = None, MotionState.HOLDING
            in_steps = self.trajectory_clock.description
            short = bool(np.abs(executing.goal - command).max() > AT_GOAL_RAD)
            self.counters.underruns += short and not in_steps  # else it led to where the arm rests
            ran_out = in_steps or 'underrun: the chunk ran out before the next one came'
            self._set_state(MotionState.STOPPING, ran_out if short else 'the chunk is over')

    def _finish_stop_at_rest(self, now_ns: int) -> None:
        if self._is_moving(now_ns):
            return
        self.halting = self.stop_requested = False
        if self.state is MotionState.STOPPING:
            self.state = self.state_after_stop

    def _must_wait_for_report(self, now_ns: int) -> bool:
        """Tell whether to send nothing yet: a controller may follow either of two curves."""
        pending_ns = self.stop_pending_since_ns if self.halting else None
        since_ns = now_ns if pending_ns is None else pending_ns
        return now_ns - since_ns < MAX_STOP_DELAY_NS and self.command_tracker.is_ambiguous(now_ns)

    def _handle_lost_command(self, controller: str, now_ns: int) -> None:
        """Go on from what is really followed: a command has not reached `controller`."""
        self.executing = self.command_tracker.followed_trajectory()
        self.command, self.hold_since_ns = None, now_ns
        self.counters.commands_lost += 1
        if self.state not in LATCHED_STATES:  # why it is latched tells more
            self.reason = f'command lost on the way to {controller}; planned again from there'
        if self.halting or self.state not in (*RUNNING_STATES, MotionState.STOPPING):
            self.halting = False  # this stop is a new one
            then = self.state_after_stop if self.state is MotionState.STOPPING else self.state
            self._halt(then, self.reason, now_ns)
        elif self.active_chunk is not None and self.pending_chunk is None:
            self.pending_chunk = self.active_chunk.chunk

    def _replan(self, request: PlanRequest, late: bool) -> None:
        """Plan once more what came too late or too early, or stands on an old motion."""
        if late and request.base is self.executing:
            self.counters.replanned += 1
            self.planning_lead_ns = min(2 * self.planning_lead_ns, MAX_PLANNING_LEAD_NS)
        if request.chunk is None:
            self.stop_requested = self.halting
        elif self.pending_chunk is None and self.state in ACTIVE_STATES and not self.halting:
            self.pending_chunk = request.chunk

    def _handle_plan_failure(self, result: PlanResult, now_ns: int) -> Trajectory | None:
        """Note why there is no plan: what is being executed goes on and ends at rest."""
        if result.request.chunk is None:
            self.reason = f'{self.reason}; no faster stop: {result.reason}'
            return None
        self.reject_chunk(result.reason)
        if self.dry_run and not self._is_moving(now_ns):
            # nothing follows a dry run's command; it must not stay where only it has gone
            return self._start_hold(self.joint_monitor.position, now_ns)
        return None
