"""Faults of disk, memory and weights."""

import resource
import shutil
import time

import psutil

from wam_msgs.srv import Reload
from wam_policy.core.robot import checkpoints
from wam_policy.recording import bag_folder
from wam_policy.recording.bag_repair import repair
from wam_tools.fault_injection.fault import Fault, FaultTestBench
from wam_tools.fault_injection.stack_observer import poll_until
from wam_tools.stack_launch import StackLaunchError

DISK_MARGIN_BYTES = 100_000  # 0.5 s of an episode until the disk is full
TRUNCATED_CHECKPOINT = 'truncated'
DISK_FULL_REASON = r'recorder: .*(disk|room)'
DISK_FULL_TIMEOUT_S = 15.0  # with few messages the space lasts longer
LOAD_TIMEOUT_S = 180.0  # for torch on a machine under load


def fill_disk(bench: FaultTestBench) -> None:
    """Limit the size of the recorder's files, as a full disk or a quota does."""
    start_s, name = time.monotonic(), bench.start_episode()
    time.sleep(1.5)
    written = bag_folder.find_mcap_file(bench.stack.episodes_dir / name).stat().st_size
    recorder = psutil.Process(bench.stack.processes['recorder'].pid)
    _, hard = recorder.rlimit(resource.RLIMIT_FSIZE)
    recorder.rlimit(resource.RLIMIT_FSIZE, (written + DISK_MARGIN_BYTES, hard))

    def end() -> None:
        # with another fault that was detected first, the disk may not be full yet
        poll_until(lambda: bench.find_log_entry(DISK_FULL_REASON, start_s), DISK_FULL_TIMEOUT_S)
        recorder.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
        episode = bench.stack.episodes_dir / name
        repair(episode)  # makes the written part readable
        bench.saved_episodes.append(episode)
        bench.start_episode()
        time.sleep(0.5)
        bench.save_episode()

    bench.undo.callback(end)


def limit_worker_memory(bench: FaultTestBench) -> None:
    """Limit the first worker's address space to its present size."""
    worker = bench.stack.find_workers()[0]
    _, hard = worker.rlimit(resource.RLIMIT_AS)
    worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms, hard))


def truncate_checkpoint(bench: FaultTestBench) -> None:
    """Copy a shipped checkpoint and truncate its largest file."""
    folder = bench.stack.folder / TRUNCATED_CHECKPOINT
    if not folder.exists():
        shutil.copytree(checkpoints.resolve_checkpoint('mini'), folder)
        weights = max(folder.rglob('*.safetensors'), key=lambda path: path.stat().st_size)
        with weights.open('r+b') as file:
            file.truncate(weights.stat().st_size // 2)


def reload_truncated_checkpoint(bench: FaultTestBench) -> None:
    bench.undo.callback(restore_checkpoint, bench)
    reload_checkpoint(bench, str(bench.stack.folder / TRUNCATED_CHECKPOINT))


def reload_checkpoint(bench: FaultTestBench, checkpoint: str) -> None:
    answer = bench.client.call_service(Reload, 'reload', 10.0, checkpoint=checkpoint)
    if answer is None or not answer.success:
        raise StackLaunchError(f'not loading: {answer.message if answer else "policy is silent"}')


def restore_checkpoint(bench: FaultTestBench) -> None:
    reload_checkpoint(bench, '')
    if not poll_until(lambda: bench.client.policy.state_name != 'ERROR', LOAD_TIMEOUT_S):
        raise StackLaunchError('the policy does not load a valid checkpoint any more')


FAULTS = (
    Fault(
        'disk/full while recording',
        ('recorder',),
        fill_disk,
        DISK_FULL_REASON,
        False,
        within_s=DISK_FULL_TIMEOUT_S,
        note='the written part is repaired; the next episode is complete',
    ),
    Fault(
        'memory/worker out of memory',
        ('policy',),
        limit_worker_memory,
        r'policy: HOLDING.*worker',
        True,
        within_s=10.0,
    ),
    Fault(
        'checkpoint/truncated at load',
        ('policy',),
        reload_truncated_checkpoint,
        r'policy: ERROR.*',
        True,
        within_s=LOAD_TIMEOUT_S,
        prepare=truncate_checkpoint,
        note='the present workers are stopped before the new ones load',
    ),
)
