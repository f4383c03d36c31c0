"""A worker that speaks the wire and misbehaves when told: --act STAGE:DEED or a request's kind."""

import os
import signal
import socket
import sys
import time

import numpy as np

from wam_policy.workers import protocol
from wam_policy.workers.protocol import WorkerMessage


def read_option(name: str, default: str = '') -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def inject_fault(fault: str, sock: socket.socket) -> None:
    if fault.startswith('exit'):
        print('fake: leaving on purpose', file=sys.stderr)
        sys.exit(int(fault[4:]))
    elif fault == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == 'hang':
        time.sleep(60)
    elif fault == 'garbage':
        sock.sendall(b'HTTP/1.1 400 Bad Request\r\n')
    elif fault == 'half':
        sock.sendall(b'\x00\x00\x00\x40{"kind":')
    elif fault == 'hang up':
        sock.close()
        time.sleep(60)


def main() -> None:
    end = socket.socket(fileno=int(read_option('--fd')))
    stage, _, deed = read_option(f'--act{read_option("--rank")}').partition(':')
    for kind in ('loading', 'warming', 'ready'):
        inject_fault(deed if kind == stage else '', end)
        if kind != 'loading':
            protocol.send(
                end, WorkerMessage(kind, {'id': 0, 'argv': sys.argv[1:], 'pid': os.getpid()})
            )
    while (request := protocol.receive(end)).kind != 'stop':
        fields = {'id': request.fields['id'], 'rank': int(read_option('--rank'))}
        if request.kind == 'deaf':
            signal.pause()
        if request.kind == 'say':
            print(request.fields['text'], file=sys.stderr, flush=True)
        if request.fields.get('rank') in (None, fields['rank']):
            time.sleep(request.fields.get('sleep_s', 0))
            inject_fault(request.kind, end)
        kind = 'error' if request.kind == 'fail' else 'answer'
        if request.kind != 'hello':
            protocol.send(
                end,
                WorkerMessage(
                    kind,
                    {**fields, 'what': 'no', 'fix': 'ask nicely'},
                    {'echo': np.array(list(request.arrays.values()))},
                ),
            )


if __name__ == '__main__':
    main()
