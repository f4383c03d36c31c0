"""Run one episode with a policy: a server over the wire, random actions or the expert.

Each policy returns rows [n 4] (setpoint, m, and opening) to execute from now on.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from benchmarks.metaworld import sawyer_actions
from benchmarks.metaworld.mt10_tasks import HORIZON, IMAGE_PERIOD_ROWS
from benchmarks.metaworld.policy_client import OpenPiClient, PolicyServerError

Images = Mapping[str, np.ndarray]
STATE_PARTS = {
    'observation/hand_position': slice(0, 3),
    'observation/gripper_opening': slice(3, 4),
}
MEMORIES = ('none', 'blocks')


class ObservedScene(Protocol):
    """What a policy reads of the environment; MT10Scene has it."""

    instruction: str
    observation: np.ndarray

    @property
    def setpoint(self) -> np.ndarray: ...
    def compute_expert_action(self) -> np.ndarray: ...


class SteppedScene(ObservedScene, Protocol):
    """What an episode needs besides."""

    step_count: int
    success: bool

    def step(self, action: np.ndarray) -> None: ...
    def render(self) -> Images: ...


class ChunkPolicy(Protocol):
    """What evaluate.py calls."""

    needs_images: bool

    def begin(self, scene: ObservedScene, seed: int) -> None: ...
    def on_images(self, row: int, images: Images) -> None: ...
    def compute_rows(self, scene: ObservedScene) -> np.ndarray: ...


class ExpertRows:
    """The package's scripted policy, one row at a time: it knows where everything is."""

    needs_images = False

    def begin(self, scene: ObservedScene, seed: int) -> None:
        """Do nothing: the scene has made a new expert."""

    def on_images(self, row: int, images: Images) -> None:
        """Do nothing: it sees the state."""

    def compute_rows(self, scene: ObservedScene) -> np.ndarray:
        action = scene.compute_expert_action()
        target = scene.setpoint + sawyer_actions.STEP_M * action[:3]
        return sawyer_actions.to_row(target, action[3])[None]


class RandomRows:
    """Uniform actions, a new one at every step."""

    needs_images = False

    def begin(self, scene: ObservedScene, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def on_images(self, row: int, images: Images) -> None:
        """Do nothing: it sees nothing."""

    def compute_rows(self, scene: ObservedScene) -> np.ndarray:
        action = self._rng.uniform(-1.0, 1.0, 4)
        target = scene.setpoint + sawyer_actions.STEP_M * action[:3]
        return sawyer_actions.to_row(target, action[3])[None]


class ServedRows:
    """A policy server: an image per query and no memory, or real images of every block.

    With memory `none` each query begins a session with the newest image. With `blocks` a session
    lasts an episode: four images are committed every 24 rows, and a query in between carries the
    newest image for itself.
    """

    needs_images = True

    def __init__(self, client: OpenPiClient, memory: str) -> None:
        if memory not in MEMORIES:
            raise ValueError(f'memory {memory!r}: want one of {", ".join(MEMORIES)}')
        self._client, self._memory, self._session = client, memory, 0

    def begin(self, scene: ObservedScene, seed: int) -> None:
        self._session += 1
        self._seed, self._queries = 1000 * seed, 0
        self._pending: list[Images] = []
        self._newest: Images = {}
        self._committed, self._instruction = 0, scene.instruction
        if self._memory == 'blocks':
            self._client.reset({**self._names(), 'memory': 'clocked', 'prompt': self._instruction})

    def on_images(self, row: int, images: Images) -> None:
        """Take the images of a row, every sixth; commit those of a finished block."""
        self._newest = images
        if self._memory == 'none':
            return
        self._pending.append(images)
        if row % HORIZON == 0:
            self._client.request(
                {
                    'endpoint': 'commit',
                    **self._names(),
                    'block': self._committed,
                    **_image_keys(self._pending),
                }
            )
            self._committed += 1
            self._pending = []

    def compute_rows(self, scene: ObservedScene) -> np.ndarray:
        state = sawyer_actions.to_state(scene.observation).astype(np.float32)
        self._queries += 1
        message: dict[str, Any] = {
            **{key: state[part] for key, part in STATE_PARTS.items()},
            **self._names(),
            'prompt': self._instruction,
            'seed': self._seed + self._queries,
        }
        if self._memory == 'none':
            self._client.reset(self._names())
        if self._memory == 'none' or self._pending:
            message |= _image_keys([self._newest])
        return check_rows(self._client.request(message))

    def _names(self) -> dict[str, str]:
        return {'session_id': f'episode {self._session}'}


def run_episode(
    scene: SteppedScene, policy: ChunkPolicy, index: int, rows_per_query: int, max_steps: int
) -> None:
    """Execute chunks until success or `max_steps`."""
    policy.begin(scene, index)
    chunk, row = np.zeros((0, 4)), 0
    while scene.step_count < max_steps and not scene.success:
        if policy.needs_images and scene.step_count % IMAGE_PERIOD_ROWS == 0:
            policy.on_images(scene.step_count, scene.render())
        if row >= min(len(chunk), rows_per_query):
            chunk, row = policy.compute_rows(scene), 0
        scene.step(sawyer_actions.to_action(chunk[row], scene.setpoint))
        row += 1


def check_rows(answer: Mapping[str, Any]) -> np.ndarray:
    """Return the rows of an answer; raise PolicyServerError if they are no finite [n 4]."""
    rows = np.asarray(answer.get('actions'))
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows) or rows.dtype.kind != 'f':
        raise PolicyServerError(f'actions {rows.dtype} {list(rows.shape)}: want floats [rows 4]')
    if not np.isfinite(rows).all():
        raise PolicyServerError('actions contain NaN or infinity')
    return rows.astype(np.float64)


def make_policy(name: str, memory: str) -> tuple[ChunkPolicy, Callable[[], None]]:
    """Return the policy of a name (`expert`, `random`, ws://...) and what closes it."""
    if name == 'expert':
        return ExpertRows(), lambda: None
    if name == 'random':
        return RandomRows(), lambda: None
    client = OpenPiClient(name)
    return ServedRows(client, memory), client.close


def _image_keys(images: list[Images]) -> dict[str, np.ndarray]:
    return {
        f'observation/{camera}': np.stack([one[camera] for one in images]) for camera in images[0]
    }
