"""Safety limits of a robot: the `safety` block of its folder, read strictly."""

from dataclasses import dataclass, fields
from typing import Any, Self

from wam_policy.core.robot.strict_yaml import StrictMapping


@dataclass(frozen=True, slots=True)
class FirstMoveConfig:
    """Slow first move to the policy's targets after enabling."""

    max_velocity_rad_s: float
    max_prismatic_velocity_m_s: float
    tolerance_rad: float  # command and target within this ...
    dwell_s: float  # ... for this time end the first move
    ramp_s: float  # then the speed limit increases to full speed over this time


@dataclass(frozen=True, slots=True)
class ObservationConfig:
    """Limits for the inputs of a query; each camera also has its max_age_s."""

    joints_max_age_s: float
    camera_skew_s: float  # between the frames of one instant; more is counted as lost frames
    history_s: float  # frames kept per camera


@dataclass(frozen=True, slots=True)
class ChunkConfig:
    """Limits for the execution of a chunk, and its blending with the previous motion."""

    max_age_s: float  # observation stamp to arrival
    fade_s: float  # the blend offset decays to zero over this time
    max_seam_offset: float  # rad; beyond it policy and robot disagree
    settle_tolerance: float  # rad (grippers: fraction); a plan that misses a row by more limits it


@dataclass(frozen=True, slots=True)
class LimitRateConfig:
    """Rate of limited rows that triggers a protective stop."""

    rate_hz: float
    window_s: float


@dataclass(frozen=True, slots=True)
class EffortConfig:
    """Effort of an arm joint and its duration that trigger a protective stop."""

    share: float  # of its hw_effort
    duration_s: float


@dataclass(frozen=True, slots=True)
class ClearanceConfig:
    """Smallest distances between parts, m; collision.xml has their shapes."""

    self_m: float  # arm to arm, arm to body, arm to itself
    link_m: float  # arm to table
    hand_m: float  # hand to table; negative: allowed penetration
    hands_within_m: tuple[float, ...]  # x low, x high, y low, y high, z low, z high, world

    @classmethod
    def from_mapping(cls, mapping: StrictMapping) -> Self:
        """Parse the mapping; raises ValueError with the invalid key."""
        rule = cls(
            mapping.read_float('self_m', above=0.0),
            mapping.read_float('link_m', above=0.0),
            mapping.read_float('hand_m'),
            mapping.read_floats('hands_within_m', 6),
        )
        low, high = rule.hands_within_m[::2], rule.hands_within_m[1::2]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(
                f'{mapping.key_path("hands_within_m")}: want x low, x high, y low, y high, '
                f'z low, z high, got {list(rule.hands_within_m)}'
            )
        mapping.reject_unknown_keys()
        return rule


@dataclass(frozen=True, slots=True)
class SafetyConfig:
    """All safety limits of a robot."""

    position_margin: float  # kept from a position limit, outward targets only
    adapter_timeout_s: float  # without a command the adapter holds
    deadman_lease_s: float  # largest age of the last deadman message, if it is used
    first_move: FirstMoveConfig
    observation: ObservationConfig
    chunk: ChunkConfig
    clamp_trip: LimitRateConfig
    effort_trip: EffortConfig
    contact: ClearanceConfig

    @classmethod
    def from_mapping(cls, mapping: StrictMapping) -> Self:
        """Parse the block; raises ValueError for missing, unknown or invalid keys."""

        def block(kind: type, key: str) -> Any:
            inner = mapping.read_mapping(key)
            made = kind(*(inner.read_float(field.name, above=0.0) for field in fields(kind)))
            inner.reject_unknown_keys()
            return made

        safety = cls(
            position_margin=mapping.read_float('position_margin', above=0.0),
            adapter_timeout_s=mapping.read_float('adapter_timeout_s', above=0.0),
            deadman_lease_s=mapping.read_float('deadman_lease_s', above=0.0),
            first_move=block(FirstMoveConfig, 'first_move'),
            observation=block(ObservationConfig, 'observation'),
            chunk=block(ChunkConfig, 'chunk'),
            clamp_trip=block(LimitRateConfig, 'clamp_trip'),
            effort_trip=block(EffortConfig, 'effort_trip'),
            contact=ClearanceConfig.from_mapping(mapping.read_mapping('contact')),
        )
        mapping.reject_unknown_keys()
        return safety
