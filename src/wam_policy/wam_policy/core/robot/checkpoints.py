"""Where a checkpoint lies, and how its config.json says it likes to be asked.

What needs the network itself is the model's business; this is what a node must know before it
starts a worker.
"""

import json
from dataclasses import dataclass
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2] / 'pretrained'
PRESET = 'preset:'  # random weights
DEFAULT = 'mini'  # the shipped model that is taken unasked
STAND_IN = 'preset:tiny'  # where no shipped model is of the robot


@dataclass(frozen=True, slots=True)
class Advice:
    """Say how a model likes to be asked; None: it does not say."""

    recipe: str | None = None  # as in the policy's parameters
    steps: int | None = None
    guidance: float | None = None


def shipped() -> tuple[str, ...]:
    """Return the names of the models that came with this package."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob('*/config.json')))


def located(checkpoint: str) -> str:
    """Return a folder or preset for a folder, a preset or the name of a shipped model.

    Raises ValueError that lists what there is.
    """
    if checkpoint.startswith(PRESET) or (Path(checkpoint).is_dir() and checkpoint):
        return checkpoint
    if checkpoint in shipped():
        return str(SHIPPED / checkpoint)
    there = ', '.join(shipped()) or 'none'
    raise ValueError(
        f'checkpoint: {checkpoint!r} is no folder and no shipped model ({there}); '
        f'name one, or {PRESET}<name> for random weights'
    )


def drives(name: str, tag: str) -> bool:
    """Tell whether a shipped model was trained on the robot of a model tag.

    Raises ValueError for statistics that cannot be read.
    """
    path = SHIPPED / name / 'experiment_cfg' / 'metadata.json'
    try:
        return path.is_file() and tag in json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} cannot be read: {error}') from error


def fitting(checkpoint: str, tag: str) -> str:
    """Return `checkpoint`, or what stands in where the default one is not of the robot of a tag.

    That is another shipped model, or random weights. ValueError for unreadable statistics.
    """
    if checkpoint != DEFAULT:
        return checkpoint
    candidates = (DEFAULT, *(name for name in shipped() if name != DEFAULT))
    return next((name for name in candidates if drives(name, tag)), STAND_IN)


def advice(checkpoint: str) -> Advice:
    """Return what config.json of a located checkpoint advises; presets and others: nothing.

    Raises ValueError for an advice that cannot be read.
    """
    path = Path(checkpoint) / 'config.json'
    if checkpoint.startswith(PRESET) or not path.is_file():
        return Advice()
    try:
        said = json.loads(path.read_text()).get('wam', {}).get('inference') or {}
        return Advice(
            *(
                None if said.get(name) is None else kind(said[name])
                for name, kind in (('recipe', str), ('steps', int), ('guidance', float))
            )
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f'{path}: wam.inference cannot be read: {error}') from error
