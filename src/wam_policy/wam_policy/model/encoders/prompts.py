"""Make prompts from instructions, per embodiment tag.

The templates are those of the released models, byte for byte.
"""

import ast
import html
import re

import ftfy

_HAND_VIEWS = (
    'A multi-view video shows that a robot {i} The video is split into four views: The top-left '
    "view shows the camera view from the robot's head, the top-right view shows the camera view "
    'from the right hand, the bottom-left view shows the camera view from the left hand, and the '
    'bottom-right view is a black screen (inactive view). The robot {i}'
)
_SINGLE_VIEW = 'A single view video shows that a human {i}'

TEMPLATES = {
    'oxe_droid': (
        'A multi-view video shows that a robot {i} The video is split into three views: The top '
        "view shows the camera view from the robot's wrist, the bottom-left view shows the camera "
        'view from the left exterior camera, and the bottom-right view shows the camera view from '
        'the right exterior camera. During training, one of the two bottom exterior views may be '
        'a black screen (dropped view). The robot {i}'
    ),
    'agibot': _HAND_VIEWS,
    'xdof': _HAND_VIEWS,
    'yam': (
        'A multi-view video shows that a robot {i} The video is split into four views: The '
        'top-left view shows the top camera, the top-right view shows the right camera, the '
        'bottom-left view shows the left camera, and the bottom-right view is a black screen. '
        'The robot {i}'
    ),
    'gr1_unified': _SINGLE_VIEW,
    'mecka_hands': _SINGLE_VIEW,
}

PLAIN_TEMPLATE = '{i}'  # what models of our own are trained with

NEGATIVE_PROMPT = (
    'Vibrant colors, overexposed, static, blurry details, text, subtitles, style, artwork, '
    'painting, image, still, grayscale, dull, worst quality, low quality, JPEG artifacts, ugly, '
    'mutilated, extra fingers, bad hands, bad face, deformed, disfigured, mutated limbs, fused '
    'fingers, stagnant image, cluttered background, three legs, many people in the background, '
    'walking backwards.'
)

_MARKERS = ('<LAPA>', '<DREAM>', '<COTRAIN>')  # data-source marks of the training sets


def get_template(tag: str) -> str:
    """Return the released template of an embodiment tag."""
    if tag not in TEMPLATES:
        raise ValueError(
            f'no prompt template for embodiment tag {tag!r}; known: {", ".join(TEMPLATES)}'
        )
    return TEMPLATES[tag]


def extract_instruction(instruction: str) -> str:
    """Return the sentence inside an instruction: the first item if it is written as a list."""
    for marker in _MARKERS:
        instruction = instruction.replace(marker, '')
    try:
        value = ast.literal_eval(instruction)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return instruction  # a sentence, not a Python literal: the usual case
    if isinstance(value, list | tuple):
        return str(value[0]) if value else ''
    return str(value)


def clean_text(text: str) -> str:
    """Repair broken Unicode, unescape HTML twice, collapse white space."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r'\s+', ' ', text).strip()


def fill_template(template: str, instruction: str) -> str:
    """Insert the lower-cased instruction into a template."""
    return clean_text(template.replace('{i}', extract_instruction(instruction).lower()))


def make_prompt(tag: str, instruction: str) -> str:
    """Return the prompt a released model expects for this embodiment tag."""
    return fill_template(get_template(tag), instruction)
