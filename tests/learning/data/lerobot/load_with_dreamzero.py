"""Load a data set with DreamZero's released loader and print what it gives, as JSON.

Runs in an environment that has the loader's packages, with its repository on PYTHONPATH:
python load_with_dreamzero.py FOLDER TAG CONFIGURATION, which maps video, state, action and
language to the keys that its own configuration of the robot lists.
"""

import json
import sys

from groot.vla.data.dataset.lerobot import (  # pyright: ignore
    LeRobotSingleDataset,
    ModalityConfig,
)

if __name__ == '__main__':
    folder, tag, keys = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    offsets = {'video': [0, 4], 'action': list(range(24))}
    dataset = LeRobotSingleDataset(
        folder,
        {
            name: ModalityConfig(delta_indices=offsets.get(name, [0]), modality_keys=modality_keys)
            for name, modality_keys in keys.items()
        },
        tag,
        use_global_metadata=False,
        video_backend='decord',
        relative_action=True,
        relative_action_keys=json.loads(sys.argv[4]),
    )
    step = dataset[10]
    found = {
        name: value.tolist() if hasattr(value, 'ndim') and value.ndim < 3 else list(value.shape)
        for name, value in step.items()
        if hasattr(value, 'shape')
    }
    texts = {name: list(value) for name, value in step.items() if not hasattr(value, 'shape')}
    print(json.dumps({'steps': len(dataset), **found, **texts}))
