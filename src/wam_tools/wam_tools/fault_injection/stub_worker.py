"""A worker without a model: it commits and answers as one does, and waves.

The targets depend on time alone, so every chunk continues the one before, whoever answers it. The
two halves of the joints swing a quarter of a period apart: at every instant something moves.
"""

import os
import socket
import sys
import time

import numpy as np

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage

CHUNK_ROWS = 24
WAVE_HZ = 0.12
# The last joint of an arm turns the hand on the spot and may swing far; the others barely move,
# so that no hand comes near the table or the other arm.
WRIST_AMPLITUDE_RAD, ARM_AMPLITUDE_RAD, GRIPPER_AMPLITUDE = 0.35, 0.03, 0.2
QUERY_DURATION_S = 0.02
SCRATCH_BYTES = 64 * 2**20  # asked for and not touched: it costs nothing where there is memory
LIMIT_MARGIN = 0.1  # to the joints' limits
GEOMETRY = {'frames_per_block': 4, 'frame_period_s': 0.2, 'window_blocks': 4}


def read_option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def compute_amplitudes(robot: Embodiment) -> np.ndarray:
    """Return how far each commanded joint swings, [joints]."""
    amplitude = np.full(len(robot.commanded), ARM_AMPLITUDE_RAD)
    for controller in robot.controllers:
        last = robot.commanded.index(controller.joints[-1])
        amplitude[last] = WRIST_AMPLITUDE_RAD if len(controller.joints) > 1 else GRIPPER_AMPLITUDE
    return amplitude


def compute_wave_targets(robot: Embodiment, stamp_ns: int) -> np.ndarray:
    """Return the targets of a chunk that begins at `stamp_ns`, [rows joints]."""
    limits, amplitude = robot.limits(), compute_amplitudes(robot)
    middle = np.clip(
        robot.home_positions(robot.commanded),
        limits.lower + LIMIT_MARGIN + amplitude,
        limits.upper - LIMIT_MARGIN - amplitude,
    )
    phase = np.where(np.arange(len(amplitude)) < len(amplitude) // 2, 0.0, np.pi / 2)
    due_s = stamp_ns / 1e9 + np.arange(CHUNK_ROWS) * robot.step_dt_s
    return middle + amplitude * np.sin(2 * np.pi * WAVE_HZ * due_s[:, None] + phase)


def main() -> None:
    end, robot = (
        socket.socket(fileno=int(read_option('--fd'))),
        embodiment.load_embodiment(read_option('--embodiment')),
    )
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
        fields, arrays = {'id': request.fields['id']}, {}
        if request.kind == 'reset':
            blocks = 0
        elif request.kind == 'commit':
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
                'targets': compute_wave_targets(robot, request.fields['stamp_ns']),
                'reference': request.arrays['joints'][:joints],
            }
        protocol.send(end, WorkerMessage('answer', fields, arrays))


if __name__ == '__main__':
    main()
