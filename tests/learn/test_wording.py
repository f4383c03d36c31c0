"""How instructions are varied in training."""

import re

import numpy as np
import pytest
from wam_policy.learn.wording import COLOURS, contrasted, swapped, varied
from wam_policy.model.text import ByteTokenizer
from wam_sim.tasks import TEXTS

TOUCH, PUSH = 'left hand: touch the red cube', 'push the blue cube to the right'
MARKED = 'touch the cube that was marked with the left hand'


def test_words_are_shuffled_among_those_in_use():
    assert swapped([TOUCH, PUSH], ('red', 'green', 'blue')) == [
        'left hand: touch the blue cube', 'push the red cube to the right']
    assert swapped([TOUCH, PUSH], ('left', 'right')) == [
        'right hand: touch the red cube', 'push the blue cube to the left']
    assert swapped([TOUCH], ('red', 'blue')) == [TOUCH]


def test_a_contrast_names_every_colour_but_the_one_that_is_meant():
    rng = np.random.default_rng(1)
    others = {re.fullmatch(rf'{TOUCH}, not the (\w+) one', contrasted(TOUCH, rng))[1]
              for _ in range(200)}
    assert others == set(COLOURS) - {'red'}
    assert contrasted(MARKED, rng) == MARKED        # nothing to set it against


def test_shares_of_texts_are_left_out_and_contrasted():
    found = varied([TOUCH, PUSH, MARKED] * 1000, 0.1, 0.4, np.random.default_rng(2))
    assert found.count('') == pytest.approx(300, abs=60)
    assert sum(', not the ' in text for text in found) == pytest.approx(720, abs=90)
    assert varied([TOUCH, PUSH], 0.0, 0.0, np.random.default_rng(2)) == [TOUCH, PUSH]


def test_the_longest_contrast_still_fits_what_a_mini_reads():
    rng = np.random.default_rng(3)
    for template in TEXTS['touch'] + TEXTS['push'] + TEXTS['lift']:
        text = template.format(colour='yellow', side='right')
        longest = max((contrasted(text, rng) for _ in range(50)), key=len)
        ids, mask = ByteTokenizer(64)([longest])
        assert int(mask.sum()) == len(longest) + 1 and ids[0, len(longest)] == 1
