"""The page about safety is true where a machine can tell: its tests and its checks exist."""

import re
from pathlib import Path

import pytest

from wam_policy.core.robot.safety_checks import CHECKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/explanation/safety.md').read_text(encoding='utf-8')
TABLE = PAGE.partition('## Which check is active on which robot')[2].partition('**Not covered**')[
    0
]


@pytest.mark.parametrize('name', sorted(set(re.findall(r'`(test_\w+)`', PAGE))))
def test_every_test_that_the_page_names_exists(name):
    files = sorted(ROOT.glob('tests/**/test_*.py'))
    assert any(f'def {name}(' in path.read_text(encoding='utf-8') for path in files)


@pytest.mark.parametrize('name', sorted(set(re.findall(r'`(tests/[\w/]+\.py)`', PAGE))))
def test_every_file_that_the_page_names_exists(name):
    assert (ROOT / name).is_file()


def test_every_check_has_a_row_that_says_where_it_is_active_and_a_test():
    rows = {
        cells[1].strip(' `'): [cell.strip() for cell in cells[2:-1]]
        for line in TABLE.splitlines()
        if len(cells := line.split('|')) > 2
    }
    assert set(CHECKS) == set(rows) - {'check', '---'}
    assert all(len(cells) == 5 and all(cells) for cells in rows.values())
    assert all('test' in cells[-1] for name, cells in rows.items() if name in CHECKS)
