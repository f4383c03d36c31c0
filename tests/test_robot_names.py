"""Of a robot in a namespace every name moves, and nothing else."""

import dataclasses
from collections.abc import Mapping

import pytest
import yaml

from wam_policy.core.robot import embodiment
from wam_policy.robot_names import add_namespace, list_robot_topics, put_in_namespace

ROBOTS = embodiment.list_robots()


def find_texts(value):
    """Yield every text in a record, mapping or sequence."""
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from find_texts(getattr(value, field.name))
    elif isinstance(value, (Mapping, list, tuple)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from find_texts(each)


def find_names(value):
    return sorted(text for text in find_texts(value) if text.startswith('/'))


@pytest.mark.parametrize('name', ROBOTS)
def test_every_name_of_a_robot_moves(name):
    document = yaml.safe_load((embodiment.ROBOTS_DIR / name / 'embodiment.yaml').read_text())
    robot = embodiment.load_embodiment(name)
    assert find_names(robot) == find_names(document)
    moved = put_in_namespace(robot, 'robot_1')
    assert find_names(moved) == sorted(f'/robot_1{each}' for each in find_names(document))
    assert len(list(find_texts(moved))) == len(list(find_texts(robot)))
    rest = ('cameras', 'controllers', 'vendor')
    for field in dataclasses.fields(robot):
        if field.name not in rest:
            assert getattr(moved, field.name) is getattr(robot, field.name)
    assert moved.vendor.keys() == robot.vendor.keys()


@pytest.mark.parametrize('name', ROBOTS)
def test_without_a_namespace_nothing_changes(name):
    robot = embodiment.load_embodiment(name)
    assert put_in_namespace(robot, '') is robot


def test_relative_names_stay():
    assert add_namespace('robot_1', 'status') == 'status'
    assert add_namespace('', '/tf') == '/tf'
    assert add_namespace('robot_1', '/tf') == '/robot_1/tf'


@pytest.mark.parametrize('name', ROBOTS)
def test_the_topics_of_a_robot_are_told_once_each(name):
    topics = list_robot_topics(embodiment.load_embodiment(name))
    assert len(set(topics)) == len(topics) and '/joint_states' in topics
