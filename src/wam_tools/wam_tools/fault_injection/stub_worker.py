"""Stub worker without a model: answers commits and queries with a slow wave of the joints.

The targets depend only on time, so every chunk continues the previous one, whichever worker
answers it. The two halves of the joints have a phase difference of a quarter period, so that at
every instant some joints move.
"""

import os
import socket
import sys
import time
from collections.abc import Callable

import numpy as np

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage

CHUNK_ROWS = 24
WAVE_HZ = 0.12
# The last joint of an arm rotates the hand in place and has a large amplitude; the others have a
# small one, so that no hand gets close to the table or the other arm.
WRIST_AMPLITUDE_RAD, ARM_AMPLITUDE_RAD, GRIPPER_AMPLITUDE = 0.35, 0.03, 0.2
QUERY_DURATION_S = 0.02
SCRATCH_BYTES = 64 * 2**20  # allocated and not touched, so it needs no physical memory
LIMIT_MARGIN = 0.1  # to the joints' limits
GEOMETRY = {'frames_per_block': 4, 'frame_period_s': 0.2, 'window_blocks': 4}


def read_option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def compute_amplitudes(robot: Embodiment) -> np.ndarray:
    """Return the amplitude of each commanded joint, [commanded]."""
    amplitude = np.full(len(robot.commanded), ARM_AMPLITUDE_RAD)
    for controller in robot.controllers:
        last = robot.commanded.index(controller.joints[-1])
        amplitude[last] = WRIST_AMPLITUDE_RAD if len(controller.joints) > 1 else GRIPPER_AMPLITUDE
    return amplitude


def compute_wave_targets(robot: Embodiment, stamp_ns: int) -> np.ndarray:
    """Return the targets of a chunk that starts at `stamp_ns`, [rows commanded]."""
    limits, amplitude = robot.limits(), compute_amplitudes(robot)
    middle = np.clip(
        robot.home_positions(robot.commanded),
        limits.lower + LIMIT_MARGIN + amplitude,
        limits.upper - LIMIT_MARGIN - amplitude,
    )
    phase = np.where(np.arange(len(amplitude)) < len(amplitude) // 2, 0.0, np.pi / 2)
    due_s = stamp_ns / 1e9 + np.arange(CHUNK_ROWS) * robot.step_dt_s
    return middle + amplitude * np.sin(2 * np.pi * WAVE_HZ * due_s[:, None] + phase)


def serve(
    compute_targets: Callable[[Embodiment, WorkerMessage], np.ndarray],
    find_error: Callable[[WorkerMessage], str] = lambda request: '',
) -> None:
    """Answer the requests on the socket of `--fd` until it is closed or a stop is requested.

    `compute_targets` answers queries, [rows joints]; a request for which `find_error` returns a
    text is answered with that error.
    """
    end = socket.socket(fileno=int(read_option('--fd')))
    robot = embodiment.load_embodiment(read_option('--embodiment'))
    protocol.send(
        end,
        WorkerMessage(
            'ready',
            {'id': 0, 'geometry': GEOMETRY, 'trained': False, 'model': 'toy', 'pid': os.getpid()},
        ),
    )
    blocks, joints = 0, len(robot.commanded)
    while True:
        try:
            request = protocol.receive(end)
        except protocol.PeerClosed:
            return
        if request.kind == 'stop':
            return
        if request.kind == 'hello':
            continue
        kind, fields, arrays = 'answer', {'id': request.fields['id']}, {}
        if what := find_error(request):
            kind, fields = 'error', {**fields, 'what': what, 'fix': ''}
        elif request.kind == 'reset':
            blocks = 0
        elif request.kind == 'commit':
            frame_counts = {images.shape[0] for images in request.arrays.values()}
            assert request.fields['block'] == blocks and frame_counts == {4 if blocks else 1}
            np.empty(SCRATCH_BYTES, np.uint8)  # as an encoder would; MemoryError ends us
            blocks += 1
            fields |= {'cached_blocks': blocks, 'window_fill': min(1.0, blocks / 4), 'rebuilds': 0}
        elif request.kind == 'query':
            time.sleep(QUERY_DURATION_S)
            fields |= {
                'step_dt_s': robot.step_dt_s,
                'timings_ms': {'denoise': 1e3 * QUERY_DURATION_S},
            }
            arrays = {
                'targets': compute_targets(robot, request),
                'reference': request.arrays['joints'][:joints],
            }
        elif request.kind == 'video':
            arrays = {'frames': np.zeros((4, 8, 8, 3), np.uint8)}
        protocol.send(end, WorkerMessage(kind, fields, arrays))


if __name__ == '__main__':
    serve(lambda robot, request: compute_wave_targets(robot, request.fields['stamp_ns']))
