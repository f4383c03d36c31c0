"""Faults of the network between processes, simulated in the relay.

A message lost there is lost permanently, as in an outage: the middleware cannot repair it.
"""

from wam_policy.core.robot.embodiment import Embodiment
from wam_tools.fault_injection.fault import Fault, FaultAction, FaultTestBench
from wam_tools.fault_injection.faults.relay_faults import make_relay_injection

# From this share of lost commands, the arms may lag so far behind the chunks that too many rows
# are limited and motion latches a protective stop, which is the required reaction.
LATCHING_LOSS_SHARE = 0.5


def make_loss(routes: tuple[str, ...], share: float) -> FaultAction:
    """Return an injection that loses a share of the messages of routes."""

    def inject(bench: FaultTestBench) -> None:
        for seed, name in enumerate(routes):
            make_relay_injection(name, corruption='lose', values=[share, seed])(bench)

    return inject


def make_network_faults(robot: Embodiment) -> tuple[Fault, ...]:
    senses = tuple(camera.key for camera in robot.cameras) + ('joints',)
    controllers = tuple(controller.name for controller in robot.controllers)
    robot_side = (*senses, *controllers, *(f'{name} state' for name in controllers))
    return (
        Fault(
            'network/30 % of all inputs lost',
            (*senses, 'chunks'),
            detect=None,
            rests=None,
            duration_s=3.0,
            inject=make_loss((*senses, 'chunks'), 0.3),
        ),
        Fault(
            'network/robot unreachable',
            robot_side,
            detect=r'motion: .*no joint',
            rests=True,
            inject=make_loss(robot_side, 1.0),
        ),
        *(
            Fault(
                f'network/{100 * share:.0f} % of all commands lost',
                controllers,
                detect=r'motion: .*command lost on the way',
                rests=None,
                duration_s=8.0,
                within_s=20.0,
                latches=share >= LATCHING_LOSS_SHARE,
                inject=make_loss(controllers, share),
            )
            for share in (0.05, 0.5)
        ),
        Fault(
            'network/all chunks lost',
            ('chunks',),
            detect=r'motion: .*underrun',
            rests=True,
            inject=make_loss(('chunks',), 1.0),
        ),
        Fault(
            'network/publisher with another QoS',
            ('chunks',),
            make_relay_injection('chunks', {'reliable': True}, reliable=False),
            r'log of motion: .*incompatible QoS',
            True,
            note='best effort, but motion_node requires reliable',
        ),
    )
