"""A worker that speaks the wire and misbehaves when told: --act STAGE:DEED or a request's kind."""

import os
import signal
import socket
import sys
import time

import numpy as np

from wam_policy.workers import protocol
from wam_policy.workers.protocol import Message


def option(name: str, otherwise: str = '') -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else otherwise


def act(deed: str, end: socket.socket) -> None:
    if deed.startswith('exit'):
        print('fake: leaving on purpose', file=sys.stderr)
        sys.exit(int(deed[4:]))
    elif deed == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == 'hang':
        time.sleep(60)
    elif deed == 'garbage':
        end.sendall(b'HTTP/1.1 400 Bad Request\r\n')
    elif deed == 'half':
        end.sendall(b'\x00\x00\x00\x40{"kind":')
    elif deed == 'hang up':
        end.close()
        time.sleep(60)


def main() -> None:
    end = socket.socket(fileno=int(option('--fd')))
    stage, _, deed = option(f'--act{option("--rank")}').partition(':')
    for kind in ('loading', 'warming', 'ready'):
        act(deed if kind == stage else '', end)
        if kind != 'loading':
            protocol.send(end, Message(kind, {'id': 0, 'argv': sys.argv[1:], 'pid': os.getpid()}))
    while (request := protocol.receive(end)).kind != 'stop':
        fields = {'id': request.fields['id'], 'rank': int(option('--rank'))}
        if request.kind == 'deaf':
            signal.pause()
        if request.kind == 'say':
            print(request.fields['text'], file=sys.stderr, flush=True)
        if request.fields.get('rank') in (None, fields['rank']):
            time.sleep(request.fields.get('sleep_s', 0))
            act(request.kind, end)
        kind = 'error' if request.kind == 'fail' else 'answer'
        if request.kind != 'hello':
            protocol.send(
                end,
                Message(
                    kind,
                    {**fields, 'what': 'no', 'fix': 'ask nicely'},
                    {'echo': np.array(list(request.arrays.values()))},
                ),
            )


if __name__ == '__main__':
    main()
