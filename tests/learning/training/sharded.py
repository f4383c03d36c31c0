"""A training program whose weights are sharded on CPUs, which accelerate leaves to GPUs."""

import sys

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

from wam_learning.training import train, trainer


def make_accelerator(_options) -> Accelerator:
    """Shard as the variables say that `accelerate launch` makes of its file."""
    made = Accelerator(cpu=True)
    made.state._shared_state['distributed_type'] = DistributedType.FSDP
    made.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    return made


class ShardedTrainer(trainer.Trainer):
    """Insist that nothing is whole."""

    def __post_init__(self) -> None:
        trainer.Trainer.__post_init__(self)
        assert all(isinstance(p, DTensor) for p in self.model.parameters())


if __name__ == '__main__':
    train._make_accelerator, train.Trainer = make_accelerator, ShardedTrainer
    sys.exit(train.main())
