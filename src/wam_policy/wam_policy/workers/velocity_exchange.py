"""Exchange of velocities between two workers that run one branch of guidance each.

Both then do the same arithmetic on the same numbers, so their samples stay identical and nothing
else is sent. The rendezvous is a file in a folder that only this user can access: no port, no
host name.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from wam_policy.workers.protocol import PeerLost


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """Hold the rank, the world size and the rendezvous of a worker."""

    rank: int
    world_size: int
    backend: str  # gloo | nccl
    rendezvous: str  # file:///folder/name, not existing yet
    start_timeout_s: float  # limit for the other worker to load its model
    timeout_s: float  # limit for one exchange; gloo detects an exit at once

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size <= 2:
            raise ValueError(
                f'rank {self.rank} of {self.world_size}: want rank 0 or 1 of at most 2'
            )
        if self.backend not in ('gloo', 'nccl'):
            raise ValueError(f'dist backend {self.backend!r}: want gloo or nccl')
        if self.world_size == 2 and not self.rendezvous.startswith('file:///'):
            raise ValueError(f'rendezvous {self.rendezvous!r}: want file:///folder/name')


class VelocityExchange:
    """Exchange (video, action) velocities with the other worker.

    The constructor joins the process group and waits for the other worker; it raises PeerLost if
    that does not join in time.
    """

    def __init__(self, config: ExchangeConfig, device: torch.device) -> None:
        # both workers run on this machine; other interfaces may have no name or no route
        os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
        os.environ.setdefault('NCCL_SOCKET_IFNAME', 'lo')
        self._peer_rank, self._rank = 1 - config.rank, config.rank
        self._start_timeout = timedelta(seconds=config.start_timeout_s)
        self._starting, self._exchanges = True, 0
        self._pin_memory = config.backend == 'gloo' and device.type != 'cpu'
        self._buffer_device = torch.device('cpu') if config.backend == 'gloo' else device
        self._send_buffer = self._receive_buffer = torch.empty(0)
        try:
            self._store = store = FileStore(
                str(Path(config.rendezvous.removeprefix('file://'))), config.world_size
            )
            store.set(f'loaded {config.rank}', 'yes')
            # one worker may load for minutes: wait here, so that exchanges can have a short limit
            store.wait(
                [f'loaded {rank}' for rank in range(config.world_size)],
                timedelta(seconds=config.start_timeout_s),
            )
            dist.init_process_group(
                config.backend,
                store=store,
                rank=config.rank,
                world_size=config.world_size,
                timeout=timedelta(seconds=config.timeout_s),
                device_id=device if config.backend == 'nccl' else None,
            )
        except (RuntimeError, dist.DistError) as error:
            raise PeerLost(f'worker {self._peer_rank} did not join: {error}') from error

    def __call__(self, video: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Send these velocities and return the other's: same shapes, dtype and device."""
        split, size = video.numel(), video.numel() + action.numel()
        if self._send_buffer.numel() != size or self._send_buffer.dtype != video.dtype:
            self._send_buffer, self._receive_buffer = (
                torch.empty(
                    numel,
                    dtype=video.dtype,
                    device=self._buffer_device,
                    pin_memory=self._pin_memory,
                )
                for numel in (size, 2 * size)
            )
        if self._starting:
            self._wait_for_peer()
        self._send_buffer[:split].copy_(video.reshape(-1))
        self._send_buffer[split:].copy_(action.reshape(-1))
        try:
            # one collective: a send and a receive each way took up to ten times as long
            dist.all_gather_into_tensor(self._receive_buffer, self._send_buffer)
        except (RuntimeError, dist.DistError) as error:
            raise PeerLost(f'worker {self._peer_rank} was lost: {error}') from error
        theirs = self._receive_buffer[self._peer_rank * size : (self._peer_rank + 1) * size]
        # a copy: the sampler reuses velocities in steps that it skips
        theirs = theirs.to(video.device, copy=True)
        return theirs[:split].view_as(video), theirs[split:].view_as(action)

    def end_start(self) -> None:
        """Apply the short limit to every exchange from now on: both workers are warm."""
        self._starting = False

    def _wait_for_peer(self) -> None:
        """Wait until the peer begins the same exchange, as long as a start may take.

        One worker may compile for minutes while the other is ready; a collective would take that
        for a lost peer.
        """
        self._exchanges += 1
        try:
            self._store.set(f'exchange {self._exchanges} {self._rank}', 'yes')
            self._store.wait(
                [f'exchange {self._exchanges} {self._peer_rank}'], self._start_timeout
            )
        except (RuntimeError, dist.DistError) as error:
            raise PeerLost(f'worker {self._peer_rank} was lost: {error}') from error

    def close(self) -> None:
        """Leave the process group."""
        dist.destroy_process_group()
