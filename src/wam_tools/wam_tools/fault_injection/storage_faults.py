"""Faults of disk, memory, weights and parameters."""

import resource
import subprocess
import sys
import time

import psutil
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from wam_msgs.srv import Reload
from wam_policy.recording import bag_folder
from wam_policy.recording.bag_repair import repair
from wam_tools.fault_injection.fault import Bench, Fault, nothing
from wam_tools.fault_injection.stack_observer import NoStack, until

ROOM_BYTES = 100_000  # half a second of an episode, until the disk is full
TRUNCATED = 'truncated'
FULL = r'recorder: .*(disk|room)'
NOTICED_S = 15.0  # with few messages the room lasts a while
LOADING_S = 180.0  # torch takes its time on a busy machine
WRONG = (  # node, parameter, value
    ('motion', 'speed_scale', 7.0),
    ('motion', 'rate_hz', 0.0),
    ('motion', 'enable_motion', False),
    ('policy', 'max_query_rate_hz', 1e6),
    ('policy', 'max_query_rate_hz', float('nan')),
    ('policy', 'max_query_rate_hz', 'fast'),
    ('policy', 'checkpoint', '/nowhere'),
    ('recorder', 'jpeg_quality', 1000),
)


def fill_disk(bench: Bench) -> None:
    """Let the recorder's files grow no further, as a full disk or a quota would."""
    begun_s, name = time.monotonic(), bench.start_episode()
    time.sleep(1.5)
    written = bag_folder.file_of(bench.stack.episodes / name).stat().st_size
    recorder = psutil.Process(bench.stack.processes['recorder'].pid)
    _, hard = recorder.rlimit(resource.RLIMIT_FSIZE)
    recorder.rlimit(resource.RLIMIT_FSIZE, (written + ROOM_BYTES, hard))

    def end() -> None:
        # beside another fault that was noticed first the disk may not be full yet
        until(lambda: bench.found(FULL, begun_s), NOTICED_S)
        recorder.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
        episode = bench.stack.episodes / name
        repair(episode)  # what was written is an episode again
        bench.saved.append(episode)
        bench.start_episode()
        time.sleep(0.5)
        bench.save_episode()

    bench.undo['disk'] = end


def starve_worker(bench: Bench) -> None:
    """Let the first worker have no more memory than it has."""
    worker = bench.stack.workers()[0]
    _, hard = worker.rlimit(resource.RLIMIT_AS)
    worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms, hard))


def set_wrongly(bench: Bench) -> None:
    """Set parameters to what they must not be; each has to be refused with a reason."""
    for node, name, value in WRONG:
        kinds = {
            float: ('double_value', ParameterType.PARAMETER_DOUBLE),
            int: ('integer_value', ParameterType.PARAMETER_INTEGER),
            bool: ('bool_value', ParameterType.PARAMETER_BOOL),
            str: ('string_value', ParameterType.PARAMETER_STRING),
        }
        slot, kind = kinds[type(value)]
        answer = bench.watch.call(
            SetParameters,
            f'{node}/set_parameters',
            5.0,
            parameters=[Parameter(name=name, value=ParameterValue(type=kind, **{slot: value}))],
        )
        if answer is None or answer.results[0].successful or not answer.results[0].reason:
            raise NoStack(f'{node} takes {name}: {value}' if answer else f'{node} is silent')
    bench.watch.repeat('parameters')
    bench.watch.note('parameters', f'all {len(WRONG)} refused')


def truncate_checkpoint(bench: Bench) -> None:
    """Write a checkpoint whose largest file ends too early."""
    folder = bench.stack.folder / TRUNCATED
    if not folder.exists():
        subprocess.run(
            [
                sys.executable,
                '-m',
                'wam_policy.model.checkpoint.random_checkpoint',
                str(folder),
                '--toy',
            ],
            check=True,
            capture_output=True,
        )
        weights = max(folder.rglob('*.safetensors'), key=lambda path: path.stat().st_size)
        with weights.open('r+b') as file:
            file.truncate(weights.stat().st_size // 2)


def load_truncated(bench: Bench) -> None:
    reload(bench, str(bench.stack.folder / TRUNCATED))


def reload(bench: Bench, checkpoint: str) -> None:
    answer = bench.watch.call(Reload, 'reload', 10.0, checkpoint=checkpoint)
    if answer is None or not answer.success:
        raise NoStack(f'not loading: {answer.message if answer else "policy is silent"}')


def whole_again(bench: Bench) -> None:
    reload(bench, '')
    if not until(lambda: bench.watch.policy.state_name != 'ERROR', LOADING_S):
        raise NoStack('the policy does not load anything any more')


FAULTS = (
    Fault(
        'disk/full while recording',
        ('recorder',),
        fill_disk,
        lambda bench: bench.undo.pop('disk')(),
        FULL,
        False,
        within_s=NOTICED_S,
        note='what was written before is repaired; the next episode is whole',
    ),
    Fault(
        'memory/worker out of memory',
        ('policy',),
        starve_worker,
        nothing,
        r'policy: HOLDING.*worker',
        True,
        within_s=10.0,
    ),
    Fault(
        'checkpoint/truncated at load',
        ('policy',),
        load_truncated,
        whole_again,
        r'policy: ERROR.*',
        True,
        within_s=LOADING_S,
        prepare=truncate_checkpoint,
        note='the present workers are given up before the others load',
    ),
    Fault(
        'parameters/out of range at run time',
        ('parameters',),
        set_wrongly,
        nothing,
        r'parameters: all',
        False,
    ),
)
