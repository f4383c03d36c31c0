import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam_policy.core.session.instruction import clean_instruction


@given(st.text(max_size=200))
def test_what_remains_is_one_plain_line_and_cleaning_again_changes_nothing(text):
    plain = clean_instruction(text, 200)
    assert plain == clean_instruction(plain, 200)
    assert not any(unicodedata.category(c).startswith('C') for c in plain)
    assert '\n' not in plain and plain == plain.strip()


def test_white_space_becomes_blanks_and_control_characters_go():
    assert (
        clean_instruction('pick up\nthe\t red \x1b[31mcube\x00\u202e', 99)
        == 'pick up the red [31mcube'
    )


@pytest.mark.parametrize('text', ['', '   ', '\n', '\x00\x07', '\u200b'])
def test_nothing_readable_means_stop(text):
    assert clean_instruction(text, 99) == ''


def test_words_of_other_languages_stay():
    assert clean_instruction('抓住红色方块', 99) == '抓住红色方块'


def test_too_long_a_text_is_refused_with_both_figures():
    with pytest.raises(ValueError, match='has 501 characters, limit 500'):
        clean_instruction('x' * 501, 500)
