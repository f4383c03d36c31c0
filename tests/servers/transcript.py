"""Golden transcripts: what every profile sends and expects, one small JSON file per profile.

`python -m tests.servers.transcript` writes them again, after a change of the wire that is meant.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile, value_mapping
from wam_policy.servers.codecs.codec_table import CODECS
from wam_policy.servers.mapping.image_encoding import encode_frames, encode_images
from wam_policy.servers.mapping.message_template import fill_template
from wam_policy.servers.mapping.nested_keys import get_nested
from wam_policy.servers.mapping.pose_mapping import PoseMapper

FOLDER = Path(__file__).resolve().parent / 'transcripts'
MAX_VALUES = 48  # of an array that is written out
VARIABLES = {
    'prompt': 'fold the towel',
    'session': 'session-1',
    'block': 2,
    'step': 32,
    'seed': 5,
    'id': '0123456789abcdef',
    'number': 7,
    'unix_time': 1790000000.25,
    'iso_time': '2026-10-20T10:00:00+00:00',
}


def make_transcript(name):
    """Return the requests of a profile in its order, and an answer that holds the robot."""
    profile = server_profile.load(name)
    robot, codec = embodiment.load_embodiment(profile.robot), CODECS[profile.codec]
    poses, rest = PoseMapper(profile, robot), robot.home_positions(robot.observed)
    # one color per camera: the same after any resizing
    views = {
        camera: np.full((1, 6, 8, 3), [10 * number + 1, 2, 3], np.uint8)
        for number, camera in enumerate(profile.cameras)
    }
    targets = np.tile(robot.home_positions(robot.commanded), (profile.horizon, 1))
    answer = value_mapping.encode_actions(profile, robot, targets, rest, None, poses)
    answered = answer if profile.actions_key is None else get_nested(answer, profile.actions_key)
    variables = {
        **VARIABLES,
        'images': encode_images(profile, views),
        'frames': encode_frames(profile, views),
        'executed': answered,
        'observation': value_mapping.encode_request(
            profile, robot, views, rest, VARIABLES['prompt'], poses
        ),
    }
    requests = {}
    for key, operation in profile.operations.items():
        requests[key] = {'route': operation.route} if profile.transport.kind == 'http' else {}
        if operation.message is not None:
            message = fill_template(operation.message, variables)
            requests[key]['message'] = summarize(message)
            requests[key]['bytes'] = len(codec.pack(message))
    return {'requests': requests, 'answer': summarize(answer)}


def summarize(value):
    """Return plain JSON: arrays and long lists by type, shape and their values or hash."""
    if isinstance(value, np.ndarray) or (isinstance(value, list) and np.size(value) > MAX_VALUES):
        kind = str(value.dtype) if isinstance(value, np.ndarray) else 'list'
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError):  # rows as maps: the first says how all are
            return {'rows': len(value), 'first': summarize(value[0])}
        found = {'type': kind, 'shape': list(array.shape)}
        # values to five digits: their last bits depend on the machine
        digits = [float(f'{number:.4g}') + 0.0 for number in array.reshape(-1)[:MAX_VALUES]]
        found['values'] = digits
        if array.size > MAX_VALUES:
            found['values'] = digits[:6]
            if kind == 'uint8' or not (array % 1).any():
                found['sha256'] = hashlib.sha256(array.astype('<i4').tobytes()).hexdigest()[:16]
        return found
    if isinstance(value, dict):
        return {key: summarize(inner) for key, inner in value.items()}
    return [summarize(inner) for inner in value] if isinstance(value, list) else value


def main():
    FOLDER.mkdir(exist_ok=True)
    for name in server_profile.list_names():
        text = json.dumps(make_transcript(name), separators=(',', ':'))
        (FOLDER / f'{name}.json').write_text(text + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
