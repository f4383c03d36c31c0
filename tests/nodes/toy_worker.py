"""A worker without a model: it commits and answers like one, and obeys words in the instruction.

The targets it returns hold the posture it was asked for; `nan`, `refuse` and `die` in the
instruction say what is wrong with its answers.
"""

import os
import signal
import socket
import sys
import time

import numpy as np

from wam_policy.core.robot import embodiment
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage


def read_option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def main() -> None:
    end, robot = (
        socket.socket(fileno=int(read_option('--fd'))),
        embodiment.load_embodiment(read_option('--embodiment')),
    )
    geometry = {'frames_per_block': 4, 'frame_period_s': 0.2, 'window_blocks': 4}
    protocol.send(
        end,
        WorkerMessage(
            'ready',
            {'id': 0, 'geometry': geometry, 'trained': False, 'model': 'toy', 'pid': os.getpid()},
        ),
    )
    instruction, blocks, joints = '', 0, len(robot.commanded)
    while (request := protocol.receive(end)).kind != 'stop':
        if request.kind == 'hello':
            continue
        kind, fields, arrays = 'answer', {'id': request.fields['id']}, {}
        if request.kind == 'reset':
            instruction, blocks = request.fields['instruction'], 0
        elif request.kind == 'commit':
            frames = {a.shape[0] for a in request.arrays.values()}
            assert request.fields['block'] == blocks and frames == {4 if blocks else 1}
            blocks += 1
            fields |= {'cached_blocks': blocks, 'window_fill': min(1.0, blocks / 4), 'rebuilds': 0}
        elif request.kind == 'query':
            time.sleep(0.02)
            reference = request.arrays['joints'][:joints]
            targets = np.tile(reference, (24, 1)) * (np.nan if 'nan' in instruction else 1.0)
            fields |= {'step_dt_s': 1 / 30, 'timings_ms': {'denoise': 20.0}}
            arrays = {'targets': targets, 'reference': reference}
        elif request.kind == 'video':
            arrays = {'frames': np.zeros((4, 8, 8, 3), np.uint8)}
        if 'die' in instruction and request.kind == 'query':
            os.kill(os.getpid(), signal.SIGKILL)
        if 'refuse' in instruction and request.kind == 'query':
            kind, fields, arrays = 'error', {**fields, 'what': 'out of memory', 'fix': ''}, {}
        protocol.send(end, WorkerMessage(kind, fields, arrays))


if __name__ == '__main__':
    main()
