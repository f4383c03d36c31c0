"""Serve scripted motions to a DROID robot by the protocol of openpi's server, without a model.

In one terminal: .venv/bin/python examples/scripted_droid_server.py --port 8000
In another:      ./wam demo --robot droid --backend remote --server ws://127.0.0.1:8000 \\
                     --server-profile openpi
The arm moves from one waypoint to the next and closes its gripper at every second one. The policy
class has openpi's interface: openpi's own WebsocketPolicyServer serves it as well.
"""

import argparse
import traceback
from contextlib import suppress
from typing import Any

import numpy as np
from openpi_client import msgpack_numpy
from openpi_client.base_policy import BasePolicy
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

HORIZON = 15  # rows at 15 Hz, as pi0.5-DROID answers
RAD_PER_ROW = 0.2  # at a joint velocity of 1, see DROID's robot_ik_solver.py
MAX_STEP_RAD = 0.05  # per row: 0.75 rad/s
REACHED_RAD = 0.04
HOME_RAD = np.array([0.0, -1 / 5, 0.0, -4 / 5, 0.0, 3 / 5, 0.0]) * np.pi  # where DROID resets to
# offsets from home, and the gripper in DROID's sense: 0 open, 1 closed
WAYPOINTS = (
    (np.array([0.35, 0.15, 0.0, 0.1, 0.0, 0.0, 0.2]), 0.0),
    (np.array([0.0, 0.25, 0.0, 0.2, 0.0, 0.0, 0.0]), 1.0),
    (np.array([-0.35, 0.15, 0.0, 0.1, 0.0, 0.0, -0.2]), 0.0),
    (np.zeros(7), 1.0),
)


class ScriptedDroidPolicy(BasePolicy):
    """Answer joint velocities [15 7] and gripper positions [15 1] toward the next waypoint."""

    def __init__(self) -> None:
        self.waypoint = 0  # number of those that were reached

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """Return `actions` [15 8]; KeyError or ValueError for another observation."""
        joints_rad = np.array(obs['observation/joint_position'], np.float64).reshape(7)
        for view in ('observation/exterior_image_1_left', 'observation/wrist_image_left'):
            if np.shape(obs[view])[-1] != 3:
                raise ValueError(f'{view}: want RGB, got shape {np.shape(obs[view])}')
        goal_rad, gripper = self.find_goal()
        if np.abs(goal_rad - joints_rad).max() < REACHED_RAD:
            self.waypoint += 1
            goal_rad, gripper = self.find_goal()
        actions = np.empty((HORIZON, 8), np.float32)
        for row in actions:
            step_rad = np.clip(goal_rad - joints_rad, -MAX_STEP_RAD, MAX_STEP_RAD)
            joints_rad = joints_rad + step_rad
            row[:7], row[7] = step_rad / RAD_PER_ROW, gripper
        return {'actions': actions}

    def find_goal(self) -> tuple[np.ndarray, float]:
        """Return joint positions [7] rad and gripper of the waypoint to go to."""
        offset_rad, gripper = WAYPOINTS[self.waypoint % len(WAYPOINTS)]
        return HOME_RAD + offset_rad, gripper

    def reset(self) -> None:
        """Begin at the first waypoint."""
        self.waypoint = 0


def pack(message: dict[str, Any]) -> bytes:
    """Return `message` as openpi sends it."""
    return bytes(msgpack_numpy.packb(message) or b'')


def make_server(policy: BasePolicy, host: str, port: int) -> Server:
    """Return a server of `policy` that listens; `serve_forever` runs it."""

    def handle_connection(connection: ServerConnection) -> None:
        connection.send(pack({}))  # openpi sends the metadata of its policy
        try:
            while True:
                obs: Any = msgpack_numpy.unpackb(connection.recv())
                connection.send(pack(policy.infer(obs)))
        except ConnectionClosed:
            pass
        except Exception:  # noqa: BLE001 - as openpi's server: the client gets the traceback
            connection.send(traceback.format_exc())
            connection.close(1011, 'Internal server error. Traceback in the previous frame.')

    return serve(handle_connection, host, port, compression=None, max_size=None)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=8000)
    chosen = parser.parse_args()
    with make_server(ScriptedDroidPolicy(), chosen.host, chosen.port) as server:
        print(f'ws://{chosen.host}:{chosen.port}', flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == '__main__':
    main()
