"""Prompts: insertion, cleaning, refusals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.model.encoders import prompts


def test_the_instruction_is_inserted_twice_and_lower_cased() -> None:
    text = prompts.make_prompt('yam', 'Fold The Towel.')
    assert text.count('fold the towel.') == 2
    assert text.startswith('A multi-view video shows that a robot fold the towel. The video')


@pytest.mark.parametrize(
    ('instruction', 'words'),
    [
        ("['first', 'second']", 'first'),
        ("('only',)", 'only'),
        ('[]', ''),
        ('42', '42'),
        ("don't stop", "don't stop"),
        ('<LAPA>wave<COTRAIN>', 'wave'),
        ('a {i} b', 'a {i} b'),
    ],
)
def test_spoken(instruction: str, words: str) -> None:
    assert prompts.extract_instruction(instruction) == words


def test_broken_unicode_html_and_white_space_are_repaired() -> None:
    assert prompts.clean_text('  a &amp;amp; b\n\tcafÃ©  ') == 'a & b café'


@settings(deadline=None)
@given(st.text(alphabet='abc {}.', min_size=1))
def test_braces_in_an_instruction_are_just_text(instruction: str) -> None:
    expected = prompts.clean_text(prompts.extract_instruction(instruction).lower())
    assert prompts.fill_template(prompts.PLAIN_TEMPLATE, instruction) == expected


def test_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match='oxe_droid, agibot'):
        prompts.make_prompt('toaster', 'go')
