"""The generated reference pages equal what the code says now."""

import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'docs'))
import generate_reference  # noqa: E402 # pyright: ignore[reportMissingImports]

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]


@pytest.mark.parametrize('name', generate_reference.PAGES)
def test_committed_page_equals_the_generated_one(name):
    page = generate_reference.PAGES[name]()
    committed = (ROOT / 'docs' / 'reference' / name).read_text(encoding='utf-8')
    assert committed == page, (
        f"docs/reference/{name} is out of date: ./wam shell -c 'python "
        "tools/docs/generate_reference.py'"
    )


def test_unknown_topic_is_an_error_that_names_the_fix():
    with pytest.raises(KeyError, match='add its type and meaning'):
        generate_reference.find_interface('topic', '/wam/no_such_topic')


def test_names_of_one_family_become_one_row():
    assert generate_reference.generalize_name('/left_arm_controller/joint_trajectory') == (
        '/<controller>/joint_trajectory'
    )
    assert generate_reference.generalize_name('/camera/head_color') == '/camera/<camera>'
    assert generate_reference.generalize_name('/wam/status') == '/wam/status'
