"""Ask `./wam serve` for actions with the openpi-client package, as any client of others would.

In one terminal: ./wam serve --checkpoint preset:tiny --embodiment yam --port 8000
In another:      .venv/bin/python examples/openpi_actions.py --robot yam --port 8000
"""

import argparse
import os
import statistics
import time
import uuid

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

# key of each picture with its rows and columns, key and length of each state, key of the prompt
ROBOT_KEYS = {
    'yam': (
        {f'video.{side}_camera-images-rgb': (480, 640) for side in ('top', 'left', 'right')},
        {
            'state.left_joint_pos': 6,
            'state.left_gripper_pos': 1,
            'state.right_joint_pos': 6,
            'state.right_gripper_pos': 1,
        },
        'annotation.task',
    ),
    'agibot_g1': (
        {f'video.{view}': (480, 640) for view in ('top_head', 'hand_left', 'hand_right')},
        {
            'state.left_arm_joint_position': 7,
            'state.right_arm_joint_position': 7,
            'state.left_effector_position': 1,
            'state.right_effector_position': 1,
            'state.head_position': 2,
            'state.waist_position': 2,
        },
        'annotation.language.action_text',
    ),
    'droid': (
        {
            f'observation/{view}': (180, 320)
            for view in ('exterior_image_0_left', 'exterior_image_1_left', 'wrist_image_left')
        },
        {'observation/joint_position': 7, 'observation/gripper_position': 1},
        'prompt',
    ),
}


def make_observation(robot: str, frames: int, instruction: str, session_id: str) -> dict:
    """Make up a request: noise for pictures, zeros for a posture."""
    pictures, state, prompt = ROBOT_KEYS[robot]
    random = np.random.default_rng(frames)
    shown = {
        key: random.integers(0, 256, (frames, *size, 3), np.uint8)
        for key, size in pictures.items()
    }
    return {
        **shown,
        **{key: np.zeros(count, np.float32) for key, count in state.items()},
        prompt: instruction,
        'session_id': session_id,
    }


def main() -> None:
    """Ask a few times and say what came back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=8000)
    parser.add_argument('--robot', choices=ROBOT_KEYS, default='yam')
    parser.add_argument('--requests', type=int, default=10)
    chosen = parser.parse_args()
    client = WebsocketClientPolicy(chosen.host, chosen.port, os.environ.get('WAM_TOKEN'))
    for key, value in client.get_server_metadata().items():
        print(f'{key}: {value}')
    session, taken_ms = str(uuid.uuid4()), []
    for number in range(chosen.requests):
        # one picture of each camera at first, then four, as the released client sends them
        asked = make_observation(chosen.robot, 4 if number else 1, 'fold the shirt', session)
        started_s = time.perf_counter()
        actions = client.infer(asked)
        taken_ms.append(1e3 * (time.perf_counter() - started_s))
    print(
        f'{len(taken_ms)} answers of {actions.dtype} {list(actions.shape)}: median '
        f'{statistics.median(taken_ms):.1f} ms, worst {max(taken_ms):.1f} ms'
    )


if __name__ == '__main__':
    main()
