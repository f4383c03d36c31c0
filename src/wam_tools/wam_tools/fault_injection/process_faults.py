"""Faults of processes: each of them killed, and each stopped for a while as a debugger would."""

import signal
import time

from wam_tools.fault_injection.fault import Bench, Fault, nothing
from wam_tools.fault_injection.stack_observer import NoStack, until

STOPPED_S = 1.0  # a stopped node is missed before that
# who notices that a node is gone, and whether the joints rest without it
KILLED = {
    'sim': (r'motion: .*no joint state', True),
    'policy': (r'motion: .*underrun', True),
    'motion': (r'watch: motion is silent', True),
    'recorder': (r'watch: recorder is silent', False),
}
NOTES = {
    'sim': 'robot and controllers: it comes back in its rest posture',
    'motion': 'nobody is left to say it; the trajectory sent ends at rest by itself',
}
WORKERS = ('cond', 'uncond')


def kill(name: str) -> Fault:
    def inject(bench: Bench) -> None:
        bench.stack.end(name, signal.SIGKILL)

    detect, rests = KILLED[name]
    return Fault(
        f'process/{name} killed',
        (name,),
        inject,
        lambda bench: bench.stack.restart(name),
        detect,
        rests,
        latches=name == 'sim',  # it comes back at rest, maybe far from the command
        note=NOTES.get(name, ''),
    )


def stop(name: str) -> Fault:
    detect, rests = KILLED[name]
    return Fault(
        f'process/{name} stopped',
        (name,),
        lambda bench: bench.stack.processes[name].send_signal(signal.SIGSTOP),
        lambda bench: bench.stack.processes[name].send_signal(signal.SIGCONT),
        detect,
        rests,
        lasts_s=STOPPED_S,
    )


def worker(rank: int, number: signal.Signals, what: str, detect: str) -> Fault:
    """Signal one worker; the pair comes back by itself."""
    return Fault(
        f'process/worker {WORKERS[rank]} {what}',
        ('policy',),
        lambda bench: bench.stack.workers()[rank].send_signal(number),
        nothing,
        detect,
        True,
        within_s=10.0,
    )


def recorder_killed() -> Fault:
    """Kill the recorder in the middle of an episode: a second of it at most may be lost."""

    def inject(bench: Bench) -> None:
        name = bench.start_episode()
        time.sleep(1.5)
        bench.stack.end('recorder', signal.SIGKILL)
        bench.undo['recorder'] = lambda: bench.saved.append(bench.stack.episodes / name)

    def remove(bench: Bench) -> None:
        bench.stack.restart('recorder')  # repairs what was interrupted
        bench.undo.pop('recorder')()
        bench.start_episode()
        time.sleep(0.5)
        bench.save_episode()

    return Fault(
        'process/recorder killed while recording',
        ('recorder',),
        inject,
        remove,
        KILLED['recorder'][0],
        False,
        note='the episode is repaired at the next start',
    )


def recorder_stopped() -> Fault:
    def inject(bench: Bench) -> None:
        bench.start_episode()
        bench.stack.processes['recorder'].send_signal(signal.SIGSTOP)

    def remove(bench: Bench) -> None:
        bench.stack.processes['recorder'].send_signal(signal.SIGCONT)
        if not until(lambda: bench.watch.episode.state == bench.watch.episode.RECORDING, 10.0):
            raise NoStack('the recorder does not go on')
        bench.save_episode()

    return Fault(
        'process/recorder stopped while recording',
        ('recorder',),
        inject,
        remove,
        KILLED['recorder'][0],
        False,
    )


FAULTS = (
    *(kill(name) for name in ('sim', 'policy', 'motion')),
    recorder_killed(),
    *(worker(rank, signal.SIGKILL, 'killed', r'policy: HOLDING.*SIGKILL') for rank in (0, 1)),
    *(stop(name) for name in ('sim', 'policy', 'motion')),
    recorder_stopped(),
    *(
        worker(rank, signal.SIGSTOP, 'stopped', r'policy: HOLDING.*did not answer')
        for rank in (0, 1)
    ),
)
