"""Resolve names of checkpoints and read the inference defaults of their config.json.

A node needs this before it starts a worker; the network itself is loaded in `model`.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

MODELS_DIR = Path(__file__).resolve().parents[2] / 'pretrained'
PRESET_PREFIX = 'preset:'  # random weights
DEFAULT_CHECKPOINT = 'mini'  # shipped model used by default
FALLBACK_CHECKPOINT = 'preset:tiny'  # for a robot without a shipped model


@dataclass(frozen=True, slots=True)
class InferenceDefaults:
    """Default inference options of a checkpoint; None: not stated."""

    recipe: str | None = None  # as in the policy's parameters
    steps: int | None = None
    guidance: float | None = None


def list_shipped_models() -> tuple[str, ...]:
    """Return the names of the models included in this package, sorted."""
    return tuple(sorted(path.parent.name for path in MODELS_DIR.glob('*/config.json')))


def resolve_checkpoint(checkpoint: str, tag: str = '') -> str:
    """Return a folder or preset for a folder, a preset or the name of a shipped model.

    With the model tag of a robot, the default name is the model that was trained on this robot.
    Raises ValueError with the shipped models, and if none was.
    """
    if tag:
        selected = select_for_robot(checkpoint, tag)
        if selected == FALLBACK_CHECKPOINT != checkpoint:
            raise ValueError(
                f'checkpoint: no shipped model was trained on the robot {tag}; give a folder, or '
                f'{FALLBACK_CHECKPOINT} for random weights'
            )
        checkpoint = selected
    if checkpoint.startswith(PRESET_PREFIX) or os.path.isdir(checkpoint):
        return checkpoint
    if checkpoint in list_shipped_models():
        return str(MODELS_DIR / checkpoint)
    known = ', '.join(list_shipped_models()) or 'none'
    raise ValueError(
        f'checkpoint: {checkpoint!r} is neither a folder nor a shipped model ({known}); '
        f'give one of these, or {PRESET_PREFIX}<name> for random weights'
    )


def resolve_base(base: str) -> str:
    """Return the folder of the complete checkpoint under adapters; '' stays ''.

    Raises ValueError with the shipped models.
    """
    if base.startswith(PRESET_PREFIX):
        raise ValueError(f'base: want a folder or a shipped model, got {base!r}: random weights')
    try:
        return base and resolve_checkpoint(base)
    except ValueError as error:
        raise ValueError(str(error).replace('checkpoint:', 'base:', 1)) from None


def supports_robot(name: str, tag: str) -> bool:
    """Return whether a shipped model was trained on the robot of a model tag.

    Raises ValueError for statistics that cannot be read.
    """
    path = MODELS_DIR / name / 'experiment_cfg' / 'metadata.json'
    try:
        return path.is_file() and tag in json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} cannot be read: {error}') from error


def select_for_robot(checkpoint: str, tag: str) -> str:
    """Return `checkpoint`, or a replacement if the default one is not for the robot of `tag`.

    That is another shipped model, or random weights. Raises ValueError for unreadable statistics.
    """
    if checkpoint != DEFAULT_CHECKPOINT:
        return checkpoint
    candidates = (
        DEFAULT_CHECKPOINT,
        *(name for name in list_shipped_models() if name != DEFAULT_CHECKPOINT),
    )
    return next((name for name in candidates if supports_robot(name, tag)), FALLBACK_CHECKPOINT)


def read_inference_defaults(checkpoint: str, base: str = '') -> InferenceDefaults:
    """Return the inference defaults in a checkpoint's config.json, else its base's.

    Empty for presets.

    Raises ValueError if they cannot be read.
    """
    path = Path(checkpoint) / 'config.json'
    if base and not path.is_file():  # adapters as peft writes them
        path = Path(base) / 'config.json'
    if checkpoint.startswith(PRESET_PREFIX) or not path.is_file():
        return InferenceDefaults()
    try:
        declared = json.loads(path.read_text()).get('wam', {}).get('inference') or {}
        recipe, steps, guidance = map(declared.get, ('recipe', 'steps', 'guidance'))
        return InferenceDefaults(
            None if recipe is None else str(recipe),
            None if steps is None else int(steps),
            None if guidance is None else float(guidance),
        )
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f'{path}: wam.inference cannot be read: {error}') from error
