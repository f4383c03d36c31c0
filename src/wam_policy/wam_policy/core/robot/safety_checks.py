"""Which safety checks have their inputs, and which have been accepted as missing.

A check without its inputs never trips and looks like one that is content. Such checks are listed
with the reason; a real robot is enabled only when each of them has been accepted by name.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wam_policy.core.motion.motion_control import MotionControl

# name -> what goes unnoticed without it
CHECKS: Mapping[str, str] = MappingProxyType(
    {
        'effort': 'an arm that pushes too hard',
        'temperature': 'a motor that overheats',
        'driver_faults': 'an error flag of a motor or of the control unit',
        'controller_reports': 'a command that never reached its controller, or another speed',
        'controller_settings': 'a setting with which a controller does something else',
        'collision': 'a plan into the robot itself or into the table',
        'gripper_position': 'a gripper that is not where it was sent',
        'body_position': 'a head, waist or lift that is not where the collision check assumes it',
    }
)
DRIVER_CHECKS = ('temperature', 'driver_faults')  # that only a driver can make
DRIVER_SILENT_NS = 3_000_000_000  # three of its messages


class SafetyChecks:
    """Find the safety checks of a robot that have no inputs."""

    def __init__(self, accepted: Collection[str] = tuple(CHECKS)) -> None:
        """Let the checks named `accepted` be missing when a real robot is enabled."""
        self._accepted = frozenset(accepted)
        self._driver_inactive: Mapping[str, str] = {}
        self._driver_ns: int | None = None
        self.simulated = False
        self._controllers_inactive: tuple[str, ...] = ()

    def on_controllers(self, inactive: tuple[str, ...]) -> None:
        """Hear which settings of controllers cannot be checked, with reasons."""
        self._controllers_inactive = inactive

    def on_driver_status(self, inactive: Mapping[str, str], simulated: bool, now_ns: int) -> None:
        """Record the checks that the driver cannot make, with reasons."""
        self._driver_inactive, self.simulated, self._driver_ns = dict(inactive), simulated, now_ns

    def find_inactive(self, motion: 'MotionControl', now_ns: int) -> dict[str, str]:
        """Return the checks without inputs, each with the reason, in the order of CHECKS."""
        found = dict(self._driver_inactive)
        if self._driver_ns is None or now_ns - self._driver_ns > DRIVER_SILENT_NS:
            silent = (
                'no driver publishes driver_status'
                if self._driver_ns is None
                else 'the driver has ceased to publish driver_status'
            )
            found |= dict.fromkeys(DRIVER_CHECKS, silent)
        found |= {
            name: reason
            for name, reason in (
                ('effort', motion.effort_monitor.check_inputs(now_ns)),
                ('controller_reports', motion.command_tracker.missing_reports),
                ('controller_settings', '; '.join(self._controllers_inactive)),
                ('collision', '' if motion.collision_checker else 'collision_check is none'),
                ('body_position', motion.joint_monitor.missing_state_only),
            )
            if reason
        }
        return {name: found[name] for name in CHECKS if name in found}

    def check_enabling(self, motion: 'MotionControl', now_ns: int) -> str | None:
        """Return why `motion` may not be enabled: which checks are missing and not accepted."""
        if motion.dry_run or self.simulated:
            return None
        missing = {
            name: reason
            for name, reason in self.find_inactive(motion, now_ns).items()
            if name not in self._accepted
        }
        if not missing:
            return None
        listed = '; '.join(
            f'{name} ({reason}): {CHECKS[name]} goes unnoticed' for name, reason in missing.items()
        )
        names = ', '.join(sorted(self._accepted & set(CHECKS) | set(missing)))
        return (
            f'checks are not active: {listed}. Provide their inputs, or accept it: set '
            f'accept_missing of motion_node to [{names}]'
        )
