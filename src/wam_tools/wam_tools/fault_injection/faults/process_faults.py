"""Faults of processes: killed, stopped for a time, started twice."""

import signal
import subprocess
import time

from wam_msgs.msg import EpisodeStatus
from wam_policy.nodes.run_node import IS_SOLE_NODE
from wam_policy.nodes.sole_node import ALREADY_RUNNING
from wam_tools.fault_injection.fault import Fault, FaultTestBench
from wam_tools.fault_injection.stack_client import LIFECYCLE_NODES
from wam_tools.fault_injection.stack_observer import poll_until
from wam_tools.stack_launch import StackLaunchError

EXIT_TIMEOUT_S = 30.0
STOP_DURATION_S = 1.0  # longer than it takes to detect a stopped node
# report of a missing node, and whether the joints must rest without it
DETECTION = {
    'sim': (r'motion: .*no joint state', True),
    'policy': (r'motion: .*underrun', True),
    'motion': (r'watch: motion is silent', True),
    'recorder': (r'watch: recorder is silent', False),
}
NOTES = {
    'sim': 'robot and controllers; restarts at the home position',
    'motion': 'no node is left to report it; the trajectory sent ends at rest',
}
WORKER_ROLES = ('cond', 'uncond')


def make_kill_fault(name: str) -> Fault:
    def inject(bench: FaultTestBench) -> None:
        bench.undo.callback(bench.stack.restart_process, name)
        bench.stack.stop_process(name, signal.SIGKILL)

    detect, rests = DETECTION[name]
    return Fault(
        f'process/{name} killed',
        (name,),
        inject,
        detect,
        rests,
        latches=name == 'sim',  # it restarts at home, which can be far from the command
        note=NOTES.get(name, ''),
    )


def make_stop_fault(name: str) -> Fault:
    def inject(bench: FaultTestBench) -> None:
        bench.undo.callback(bench.stack.processes[name].send_signal, signal.SIGCONT)
        bench.stack.processes[name].send_signal(signal.SIGSTOP)

    detect, rests = DETECTION[name]
    return Fault(
        f'process/{name} stopped',
        (name,),
        inject,
        detect,
        rests,
        duration_s=STOP_DURATION_S,
    )


def make_worker_fault(rank: int, number: signal.Signals, suffix: str, detect: str) -> Fault:
    """Return a fault that signals one worker; the policy restarts both."""
    return Fault(
        f'process/worker {WORKER_ROLES[rank]} {suffix}',
        ('policy',),
        lambda bench: bench.stack.find_workers()[rank].send_signal(number),
        detect,
        True,
        within_s=10.0,
    )


def make_recorder_kill_fault() -> Fault:
    """Return a fault that kills the recorder during an episode; at most 1 s may be lost."""

    def inject(bench: FaultTestBench) -> None:
        name = bench.start_episode()
        time.sleep(1.5)
        bench.undo.callback(restart, bench, name)
        bench.stack.stop_process('recorder', signal.SIGKILL)

    def restart(bench: FaultTestBench, name: str) -> None:
        bench.stack.restart_process('recorder')  # repairs the interrupted episode
        bench.saved_episodes.append(bench.stack.episodes_dir / name)
        bench.start_episode()
        time.sleep(0.5)
        bench.save_episode()

    return Fault(
        'process/recorder killed while recording',
        ('recorder',),
        inject,
        DETECTION['recorder'][0],
        False,
        note='the episode is repaired at the next start',
    )


def make_recorder_stop_fault() -> Fault:
    def inject(bench: FaultTestBench) -> None:
        bench.start_episode()
        bench.undo.callback(go_on, bench)
        bench.stack.processes['recorder'].send_signal(signal.SIGSTOP)

    def go_on(bench: FaultTestBench) -> None:
        bench.stack.processes['recorder'].send_signal(signal.SIGCONT)
        if not poll_until(lambda: bench.client.episode.state == EpisodeStatus.RECORDING, 10.0):
            raise StackLaunchError('the recorder does not continue')
        bench.save_episode()

    return Fault(
        'process/recorder stopped while recording',
        ('recorder',),
        inject,
        DETECTION['recorder'][0],
        False,
    )


def start_second_nodes(bench: FaultTestBench) -> None:
    """Start every lifecycle node once more, as a second launch does; ValueError if one stays."""
    for node in LIFECYCLE_NODES:
        log_path = bench.stack.log_path(f'second {node}')
        with log_path.open('w') as log:
            process = subprocess.Popen(
                bench.stack.processes[node].args,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=bench.stack.environment,
            )
        try:
            status = process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            if IS_SOLE_NODE in log_path.read_text(errors='replace'):
                raise ValueError(f'a second {node} did not find the first and runs') from None
            raise ValueError(
                f'not judged: a second {node} had not looked for the first after '
                f'{EXIT_TIMEOUT_S:g} s'
            ) from None
        finally:
            process.kill()
            process.wait()
        if status != ALREADY_RUNNING:
            raise ValueError(f'a second {node} ended with status {status}')


FAULTS = (
    *(make_kill_fault(name) for name in ('sim', 'policy', 'motion')),
    make_recorder_kill_fault(),
    *(
        make_worker_fault(rank, signal.SIGKILL, 'killed', r'policy: HOLDING.*SIGKILL')
        for rank in (0, 1)
    ),
    *(make_stop_fault(name) for name in ('sim', 'policy', 'motion')),
    make_recorder_stop_fault(),
    *(
        make_worker_fault(rank, signal.SIGSTOP, 'stopped', r'policy: HOLDING.*did not answer')
        for rank in (0, 1)
    ),
    Fault(
        'requests/second launch',
        ('lifecycle',),
        start_second_nodes,
        None,
        False,
        note=f'each second node exits with code {ALREADY_RUNNING}',
    ),
)
