"""Faults of the network between processes, made where our relay hands messages on.

Loss below DDS would be repaired by it for reliable topics; what is lost here stays lost.
"""

from wam_policy.core.embodiment import Embodiment
from wam_policy.ros.faults.fault import Bench, Fault
from wam_policy.ros.faults.tamper import routes


def losing(names: tuple[str, ...], share: float) -> dict:
    """Return both halves of losing a share of what goes over these routes."""
    def inject(bench: Bench) -> None:
        for name in names:
            bench.stack.tell(name, trick='lose', values=[share])

    def remove(bench: Bench) -> None:
        for name in names:
            bench.stack.tell(name)
    return {'inject': inject, 'remove': remove}


def faults(robot: Embodiment) -> tuple[Fault, ...]:
    """Return the losses for a robot, whose controllers have topics of their own."""
    senses = tuple(camera.key for camera in robot.cameras) + ('joints',)
    controllers = tuple(controller.name for controller in robot.controllers)
    every = tuple(route.name for route in routes(robot) if route.name != 'clock')
    return (
        Fault('network/30 % of all messages lost', every, detect=None, rests=None, lasts_s=3.0,
              **losing(every, 0.3)),
        Fault('network/robot unreachable', (*senses, *controllers), detect=r'motion: .*no joint',
              rests=True, **losing((*senses, *controllers), 1.0)),
        Fault('network/half of the commands lost', controllers, detect=None, rests=None,
              lasts_s=3.0, **losing(controllers, 0.5)),
        Fault('network/all chunks lost', ('chunks',), detect=r'motion: .*underrun', rests=True,
              **losing(('chunks',), 1.0)),
        Fault('network/publisher with another QoS', ('chunks',),
              lambda bench: bench.stack.tell('chunks', reliable=False),
              lambda bench: bench.stack.tell('chunks', reliable=True),
              r'log of motion: .*incompatible QoS', True,
              note='best effort where motion_node insists on reliable'),
    )
