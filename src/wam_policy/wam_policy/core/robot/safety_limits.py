"""What every node must respect on a robot: the `safety` block of its folder, read strictly."""

from dataclasses import dataclass, fields
from typing import Any, Self

from wam_policy.core.robot.strict_yaml import Table


@dataclass(frozen=True, slots=True)
class FirstMove:
    """State how the arm approaches the policy's targets after it is enabled."""

    max_velocity_rad_s: float
    max_prismatic_velocity_m_s: float
    tolerance_rad: float  # command and target this close ...
    dwell_s: float  # ... for this long end the approach
    ramp_s: float  # then full speed is reached over this time


@dataclass(frozen=True, slots=True)
class ObservationGate:
    """State when inputs are good enough to ask the model; cameras have max_age_s of their own."""

    joints_max_age_s: float
    camera_skew_s: float  # between the oldest and newest chosen frame
    history_s: float  # frames kept per camera


@dataclass(frozen=True, slots=True)
class ChunkGate:
    """State when a chunk may be executed and how it joins the motion before it."""

    max_age_s: float  # observation stamp to arrival
    underrun_hold_s: float  # past the last row without a new chunk
    fade_s: float  # seam offset fades to zero over this time
    max_seam_offset: float  # rad; beyond it policy and robot disagree
    settle_tolerance: float  # rad; command reached, in settle-then-observe mode


@dataclass(frozen=True, slots=True)
class ClampTrip:
    """State how much limiting means that the policy is out of its depth."""

    rate_hz: float
    window_s: float


@dataclass(frozen=True, slots=True)
class EffortTrip:
    """State how hard an arm joint may push, and how long, before the robot is stopped."""

    share: float  # of its hw_effort
    duration_s: float


@dataclass(frozen=True, slots=True)
class ContactRule:
    """State how near parts may come, m; see collision.xml for their shapes."""

    self_m: float  # arm to arm, arm to body, arm to itself
    link_m: float  # arm to table
    hand_m: float  # hand to table; negative: may press that deep
    hands_within_m: tuple[float, ...]  # x low, x high, y low, y high, z low, z high, world

    @classmethod
    def read(cls, table: Table) -> Self:
        """Read it; ValueError names what is wrong."""
        rule = cls(
            table.number('self_m', above=0.0),
            table.number('link_m', above=0.0),
            table.number('hand_m'),
            table.numbers('hands_within_m', 6),
        )
        low, high = rule.hands_within_m[::2], rule.hands_within_m[1::2]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(
                f'{table.spot("hands_within_m")}: want x low, x high, y low, y high, '
                f'z low, z high, got {list(rule.hands_within_m)}'
            )
        table.done()
        return rule


@dataclass(frozen=True, slots=True)
class Safety:
    """Gather what every node must respect on this robot."""

    position_margin: float  # kept from a position limit, outward targets only
    adapter_timeout_s: float  # without a command the adapter holds
    deadman_lease_s: float  # age of the last dead-man message, if one is used
    first_move: FirstMove
    observation: ObservationGate
    chunk: ChunkGate
    clamp_trip: ClampTrip
    effort_trip: EffortTrip
    contact: ContactRule

    @classmethod
    def read(cls, table: Table) -> Self:
        """Read the block; ValueError names what is missing, unknown or wrong."""

        def block(kind: type, key: str) -> Any:
            inner = table.table(key)
            made = kind(*(inner.number(field.name, above=0.0) for field in fields(kind)))
            inner.done()
            return made

        safety = cls(
            position_margin=table.number('position_margin', above=0.0),
            adapter_timeout_s=table.number('adapter_timeout_s', above=0.0),
            deadman_lease_s=table.number('deadman_lease_s', above=0.0),
            first_move=block(FirstMove, 'first_move'),
            observation=block(ObservationGate, 'observation'),
            chunk=block(ChunkGate, 'chunk'),
            clamp_trip=block(ClampTrip, 'clamp_trip'),
            effort_trip=block(EffortTrip, 'effort_trip'),
            contact=ContactRule.read(table.table('contact')),
        )
        table.done()
        return safety
