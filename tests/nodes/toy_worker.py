"""A worker without a model that obeys words in the instruction.

The targets it returns hold the posture it was asked for; `nan`, `refuse` and `die` in the
instruction say what is wrong with its answers.
"""

import os
import signal

import numpy as np

from wam_tools.fault_injection import stub_worker

instruction = ''


def compute_targets(robot, request):
    posture = request.arrays['joints'][: len(robot.commanded)]
    return np.tile(posture, (stub_worker.CHUNK_ROWS, 1)) * (np.nan if 'nan' in instruction else 1)


def find_error(request):
    global instruction
    if request.kind == 'reset':
        instruction = request.fields['instruction']
    if request.kind == 'query' and 'die' in instruction:
        os.kill(os.getpid(), signal.SIGKILL)
    return 'out of memory' if request.kind == 'query' and 'refuse' in instruction else ''


if __name__ == '__main__':
    stub_worker.serve(compute_targets, find_error)
