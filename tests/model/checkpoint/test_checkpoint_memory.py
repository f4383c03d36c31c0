"""Loading holds the model and a tensor: no file, however the weights are split into files."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import model_spec, random_checkpoint, safetensors_shards

MARGIN = 600_000_000  # bytes: a tensor, and what the first use of torch allocates

# Peak resident memory is the process's own for ever, so each measurement is a process. What the
# imports and the finished model occupy is no cost of loading: both are subtracted.
PROGRAM = """
import json, resource, sys, torch
from wam_policy.model.checkpoint import checkpoint_folder, model_spec, tensor_index
tensor_index.build_networks(model_spec.make_preset_spec('tiny'), torch.device('cpu'), None)  # lazy
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
policy = checkpoint_folder.load(sys.argv[1], torch.device('cpu'), torch.bfloat16)
held = sum(p.nbytes for m in (policy.dit, policy.encoders) for p in m.parameters())
print(json.dumps({'extra': peak() - before - held, 'held': held}))
"""


@pytest.mark.slow
@pytest.mark.parametrize('shard', [400_000_000, 10_000_000_000], ids=['shards', 'one file'])
def test_peak_host_memory_is_the_model_and_a_little(tmp_path: Path, shard: int) -> None:
    toy = random_checkpoint.make_toy_spec(model_spec.make_preset_spec('dreamzero_14b'))
    model = replace(toy.model, dim=1024, heads=8, layers=56, ffn_dim=4096)
    robots = [embodiment.load_embodiment('yam')]
    random_checkpoint.write_sparse_checkpoint(
        replace(toy, model=model), robots, tmp_path, dtype=torch.bfloat16, max_shard_size=shard
    )
    files = safetensors_shards.find_weight_files(tmp_path)
    total = sum(path.stat().st_size for path in files)
    assert total > 2_000_000_000 and (len(files) == 1) == (shard > total)
    paths = {'PYTHONPATH': os.pathsep.join(sys.path)}  # pytest's own, which a child lacks
    result = subprocess.run(
        [sys.executable, '-c', PROGRAM, str(tmp_path)],
        timeout=240,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    print(
        f'{total / 1e9:.2f} GB in {len(files)} files: '
        f'{measured["extra"] / 1e9:.2f} GB beside the model'
    )
    assert measured['held'] > 0.99 * total
    # a loader that maps or reads whole files needs the largest of them beside the model
    assert measured['extra'] <= MARGIN < total / 3
