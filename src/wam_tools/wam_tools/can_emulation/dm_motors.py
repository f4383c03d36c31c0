"""The motors of an arm: Damiao's MIT frames, a loop in each motor, gravity, heat, error codes.

Notable:
- a frame is 8 bytes: position 16 bits, velocity, kp, kd and torque 12 bits each, over ranges that
  depend on the type of motor; the answer has the error code, position, velocity, torque, heat;
- a motor applies kp (p - q) + kd (v - q') + torque until the next frame; after 400 ms without one
  it reports error 0xD and applies nothing;
- without torque a joint falls under gravity until it meets its end stop.
Ranges and codes: i2rt v1.2.4 motor tables. Inertia and friction are chosen here.
"""

import math
from dataclasses import dataclass, field

KP_RANGE, KD_RANGE = (0.0, 500.0), (0.0, 5.0)
ANSWER_ID_OFFSET = 16
TIMEOUT_S = 0.4  # without a frame, as the arms are delivered
STEP_S = 0.002
DISABLED, ENABLED, LOST_COMMUNICATION = 0x0, 0x1, 0xD
SPECIAL_FRAMES = {0xFC: 'enable', 0xFD: 'disable', 0xFB: 'clear'}


@dataclass(frozen=True)
class MotorType:
    """Give the ranges of a motor's CAN encoding."""

    position_rad: float
    velocity_rad_s: float
    torque_nm: float


DM4340, DM4310 = MotorType(12.5, 10.0, 28.0), MotorType(12.5, 30.0, 10.0)


def encode(value: float, low: float, high: float, bits: int) -> int:
    """Return `value` as an unsigned integer of `bits` bits over its range, clipped to it."""
    share = (min(max(value, low), high) - low) / (high - low)
    return int(share * ((1 << bits) - 1))


def decode(number: int, low: float, high: float, bits: int) -> float:
    """Return what `encode` turned into `number`."""
    return low + number * (high - low) / ((1 << bits) - 1)


def pack_command(
    kind: MotorType, position: float, velocity: float, kp: float, kd: float, torque: float
) -> bytes:
    """Return the 8 bytes of an MIT command; rad, rad/s, Nm."""
    p = encode(position, -kind.position_rad, kind.position_rad, 16)
    v = encode(velocity, -kind.velocity_rad_s, kind.velocity_rad_s, 12)
    t = encode(torque, -kind.torque_nm, kind.torque_nm, 12)
    bits = p
    for number in (v, encode(kp, *KP_RANGE, 12), encode(kd, *KD_RANGE, 12), t):
        bits = bits << 12 | number
    return bits.to_bytes(8, 'big')


def unpack_command(kind: MotorType, data: bytes) -> tuple[float, float, float, float, float]:
    """Return position, velocity, kp, kd and torque of an MIT command."""
    bits = int.from_bytes(data, 'big')
    v, kp, kd, t = (bits >> shift & 0xFFF for shift in (36, 24, 12, 0))
    return (
        decode(bits >> 48, -kind.position_rad, kind.position_rad, 16),
        decode(v, -kind.velocity_rad_s, kind.velocity_rad_s, 12),
        decode(kp, *KP_RANGE, 12),
        decode(kd, *KD_RANGE, 12),
        decode(t, -kind.torque_nm, kind.torque_nm, 12),
    )


def unpack_answer(kind: MotorType, data: bytes) -> tuple[int, float, float, float, int, int]:
    """Return error code, position, velocity, torque, and heat of electronics and rotor in C."""
    return (
        data[0] >> 4,
        decode(data[1] << 8 | data[2], -kind.position_rad, kind.position_rad, 16),
        decode(data[3] << 4 | data[4] >> 4, -kind.velocity_rad_s, kind.velocity_rad_s, 12),
        decode((data[4] & 0xF) << 8 | data[5], -kind.torque_nm, kind.torque_nm, 12),
        data[6],
        data[7],
    )


@dataclass
class DmMotor:
    """Move one joint as its motor, gravity and end stops do."""

    can_id: int
    kind: MotorType
    lower: float
    upper: float
    position: float
    inertia: float  # kg m^2 of everything that it moves
    gravity_nm: float  # with its link level: gravity_nm * cos(position)
    friction: float = 0.2  # Nm s
    velocity: float = 0.0
    torque: float = 0.0
    has_power: bool = True
    error: int = DISABLED
    temperature_mos_c: int = 35
    temperature_rotor_c: int = 40
    command: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    last_frame_s: float = 0.0
    errors: list[int] = field(default_factory=list)  # each change, in order

    def answer(self, data: bytes, now_s: float) -> bytes | None:
        """Take a frame; return the answer's data, None without power."""
        if not self.has_power:
            return None
        self.last_frame_s = now_s
        special = SPECIAL_FRAMES.get(data[7]) if data[:7] == b'\xff' * 7 else None
        if special is None:
            self.command = unpack_command(self.kind, data)
        elif special == 'enable':
            self.command = (self.position, 0.0, 0.0, 0.0, 0.0)
            self._set_error(ENABLED if self.error in (DISABLED, ENABLED) else self.error)
        else:
            self._set_error(DISABLED)
        p = encode(self.position, -self.kind.position_rad, self.kind.position_rad, 16)
        v = encode(self.velocity, -self.kind.velocity_rad_s, self.kind.velocity_rad_s, 12)
        t = encode(self.torque, -self.kind.torque_nm, self.kind.torque_nm, 12)
        return bytes(
            (
                self.error << 4 | self.can_id & 0xF,
                p >> 8,
                p & 0xFF,
                v >> 4,
                (v & 0xF) << 4 | t >> 8,
                t & 0xFF,
                self.temperature_mos_c,
                self.temperature_rotor_c,
            )
        )

    def fail(self, error: int) -> None:
        """Report `error` from now on and apply no torque, as a motor that protects itself."""
        self._set_error(error)

    def step(self, now_s: float) -> None:
        """Go on by STEP_S."""
        if self.error == ENABLED and now_s - self.last_frame_s > TIMEOUT_S:
            self._set_error(LOST_COMMUNICATION)
        if self.error == ENABLED and self.has_power:
            p, v, kp, kd, feedforward = self.command
            wanted = kp * (p - self.position) + kd * (v - self.velocity) + feedforward
            self.torque = min(max(wanted, -self.kind.torque_nm), self.kind.torque_nm)
        else:
            self.torque = 0.0
        push = self.torque - self.gravity_nm * math.cos(self.position)
        self.velocity += (push - self.friction * self.velocity) / self.inertia * STEP_S
        self.position += self.velocity * STEP_S
        if not self.lower <= self.position <= self.upper:
            self.position = min(max(self.position, self.lower), self.upper)
            self.velocity = 0.0

    @property
    def holds(self) -> bool:
        """Tell whether the motor has power, no error, and gains to hold its position with."""
        return self.has_power and self.error == ENABLED and self.command[2] > 0.0

    def _set_error(self, error: int) -> None:
        if error != self.error:
            self.errors.append(error)
        self.error = error


def make_arm() -> list[DmMotor]:
    """Return the seven motors of a YAM arm with a linear gripper, folded as without power."""
    rows = (  # lower, upper, inertia, gravity, friction; limits: i2rt v1.2.4 yam.xml
        (DM4340, -2.61799, 3.14159, 0.15, 0.0, 0.2),
        (DM4340, 0.0, 3.66519, 0.20, 4.0, 0.2),
        (DM4340, 0.0, 3.14159, 0.10, 3.0, 0.2),
        (DM4310, -1.69297, 1.5708, 0.02, 0.0, 0.2),
        (DM4310, -1.5708, 1.5708, 0.02, 0.0, 0.2),
        (DM4310, -2.0944, 2.0944, 0.02, 0.0, 0.2),
        (DM4310, -6.57, 0.0, 0.01, 0.0, 0.05),  # closed at 0, open at -6.57
    )
    return [
        DmMotor(can_id, kind, lower, upper, 0.0, inertia, gravity, friction)
        for can_id, (kind, lower, upper, inertia, gravity, friction) in enumerate(rows, start=1)
    ]
