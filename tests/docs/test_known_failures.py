"""Every test that the page of known failures names exists, and no covered row lacks one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs/reference/known-failures.md'
NAMED = re.compile(r'`(test_\w+\.py)(?:::(test_\w+))?`')
ROWS = [
    line.strip('|').split('|')
    for line in PAGE.read_text(encoding='utf-8').splitlines()
    if line.startswith('| ') and not line.startswith('| failure')
]


@pytest.mark.parametrize(('file', 'test'), sorted(set(NAMED.findall(PAGE.read_text()))))
def test_a_named_test_exists(file, test):
    found = list((ROOT / 'tests').rglob(file))
    assert len(found) == 1, file
    assert not test or f'def {test}(' in found[0].read_text(encoding='utf-8')


def test_a_row_is_covered_by_a_test_or_says_what_is_open():
    for failure, here, tests in ROWS:
        assert ('covered' in here) == bool(NAMED.search(tests)), failure
        assert 'covered' in here or here.strip().startswith('open'), failure
