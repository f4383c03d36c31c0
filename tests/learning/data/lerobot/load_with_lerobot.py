"""Load a data set with the lerobot package and print what it says of a row, as JSON.

Runs in an environment of lerobot's own: python load_with_lerobot.py FOLDER ROW
"""

import json
import sys

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore

if __name__ == '__main__':
    dataset = LeRobotDataset('local/dataset', root=sys.argv[1], video_backend='pyav')
    row = dataset[int(sys.argv[2])]
    print(
        json.dumps(
            {
                'rows': len(dataset),
                'episodes': dataset.num_episodes,
                'fps': dataset.fps,
                'task': row['task'],
                'state': row['observation.state'].tolist(),
                'action': row['action'].tolist(),
                'means': {
                    name: (255 * value.mean((1, 2))).tolist()
                    for name, value in row.items()
                    if name.startswith('observation.images.')
                },
                'quantile': dataset.meta.stats['action']['q99'].tolist(),
            }
        )
    )
