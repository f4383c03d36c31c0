"""Instructions in training: words exchanged, left out, or set against others.

A pair of words that training never shows, such as a colour with a hand, leaves a gap that a model
fills as it likes: whoever saw "purple" with the right hand alone may take "purple" itself for
"right". A contrast says both words about different things, so that neither stands for the other.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

COLOURS = ('red', 'green', 'blue', 'yellow', 'orange', 'purple', 'white', 'black')
SIDES = ('left', 'right')
_COLOUR = re.compile(rf'\b({"|".join(COLOURS)})\b')


def swapped(texts: Sequence[str], words: Sequence[str]) -> list[str]:
    """Replace each of `words` in every text by another one that the texts use."""
    used = [word for word in words if any(re.search(rf'\b{word}\b', text) for text in texts)]
    if len(used) < 2:
        return list(texts)
    other: Mapping[str, str] = dict(zip(used, [*used[1:], used[0]], strict=True))
    pattern = re.compile(rf'\b({"|".join(used)})\b')
    return [pattern.sub(lambda match: other[match[1]], text) for text in texts]


def contrasted(text: str, rng: np.random.Generator) -> str:
    """Add which other colour is not meant to a text that names one; others stay as they are."""
    named = _COLOUR.search(text)
    if named is None:
        return text
    other = rng.choice([colour for colour in COLOURS if colour != named[1]])
    return f'{text}, not the {other} one'


def varied(texts: Sequence[str], dropout: float, contrast: float,
           rng: np.random.Generator) -> list[str]:
    """Leave out a share of all texts, and set a share of the others against another colour."""
    found = list(texts)
    if dropout:
        dice = rng.random(len(found))
        found = ['' if roll < dropout else text for roll, text in zip(dice, found, strict=True)]
    if contrast:
        dice = rng.random(len(found))
        found = [contrasted(text, rng) if roll < contrast else text
                 for roll, text in zip(dice, found, strict=True)]
    return found
