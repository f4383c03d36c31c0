"""The layouts for RViz, Foxglove and PlotJuggler name topics and fields that exist."""

import importlib
import importlib.util
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from launch import LaunchContext

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
BRINGUP = ROOT / 'src/wam_bringup'
CLASSES = {  # of an RViz display -> types of its topic
    'RobotModel': 'std_msgs/String',
    'MarkerArray': 'visualization_msgs/MarkerArray',
    'Path': 'nav_msgs/Path',
    'Image': 'sensor_msgs/Image',
}


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/docs/{name}.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LAYOUTS = load_tool('generate_viewer_layouts')
REFERENCE = load_tool('generate_reference')


def read_topic_table() -> dict[str, str]:
    """Return the type of every topic of the generated table."""
    page = (ROOT / 'docs/reference/topics-and-services.md').read_text()
    return dict(re.findall(r'^\| `(/[^`]+)` \| `(\w+/\w+)` \|', page, re.MULTILINE))


TOPICS = read_topic_table()


def find_type(topic: str) -> str:
    """Return the type of a topic; fails for one that no node publishes or takes."""
    general = REFERENCE.generalize_name(topic)
    assert general in TOPICS, f'{topic} is not in docs/reference/topics-and-services.md'
    return TOPICS[general]


def check_field(topic: str, path: list[str]) -> None:
    """Fail if a message of the topic has no such field; 'positions[0]' is one of a sequence."""
    package, name = find_type(topic).split('/')
    kind: Any = getattr(importlib.import_module(f'{package}.msg'), name)
    for part in path:
        field, _, index = part.partition('[')
        fields = kind.get_fields_and_field_types()
        assert field in fields, f'{topic}: {kind.__name__} has no {field}'
        assert bool(index) == fields[field].startswith('sequence'), f'{topic}: {part}'
        if '/' in fields[field] and not index:
            package, name = fields[field].split('/')
            kind = getattr(importlib.import_module(f'{package}.msg'), name)


def iterate_values(node: Any, key: str) -> Iterator[Any]:
    """Yield every value under `key` in nested lists and mappings."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        if name == key:
            yield value
        if isinstance(value, dict | list):
            yield from iterate_values(value, key)


def test_the_committed_layouts_are_the_generated_ones() -> None:
    made = LAYOUTS.make_layouts()
    assert {
        str(path.relative_to(BRINGUP))
        for folder in ('rviz', 'foxglove', 'plotjuggler')
        for path in (BRINGUP / folder).iterdir()
    } == set(made)
    for path, text in made.items():
        assert (BRINGUP / path).read_text() == text, (
            "./wam shell -c 'python tools/docs/generate_viewer_layouts.py'"
        )


@pytest.mark.parametrize('robot', LAYOUTS.ROBOTS)
def test_rviz_shows_topics_of_the_stack(robot: str) -> None:
    document = yaml.safe_load((BRINGUP / f'rviz/{robot}.rviz').read_text())
    shown = 0
    for display in document['Visualization Manager']['Displays']:
        topic = display.get('Description Topic') or display.get('Topic')
        if topic is not None:
            kind = display['Class'].rpartition('/')[2]
            assert find_type(topic['Value']) == CLASSES[kind]
            shown += 1
    assert shown >= 7


@pytest.mark.parametrize('robot', LAYOUTS.ROBOTS)
def test_foxglove_shows_topics_and_fields_of_the_stack(robot: str) -> None:
    document = json.loads((BRINGUP / f'foxglove/{robot}.json').read_text())
    panels = document['configById']
    for key, kind in (
        ('imageTopic', 'sensor_msgs/Image'),
        ('calibrationTopic', 'sensor_msgs/CameraInfo'),
        ('topicName', 'std_msgs/String'),
        ('topic', 'std_msgs/String'),
    ):
        topics = list(iterate_values(panels, key))
        assert topics and {find_type(topic) for topic in topics} == {kind}
    for topic in panels['3D!scene']['topics']:
        assert find_type(topic) == 'visualization_msgs/MarkerArray'
    for path in iterate_values(panels, 'paths'):
        for each in path:
            topic, *fields = each['value'].split('.')
            check_field(topic, fields)
    placed = {
        value
        for key in ('first', 'second')
        for value in iterate_values(document, key)
        if isinstance(value, str)
    }
    assert placed == set(panels)


@pytest.mark.parametrize('robot', LAYOUTS.ROBOTS)
def test_plotjuggler_draws_fields_of_the_stack(robot: str) -> None:
    root = ElementTree.parse(BRINGUP / f'plotjuggler/{robot}.xml').getroot()
    selected = {topic.get('name', '') for topic in root.iter('topic')}
    curves = [curve.get('name', '') for curve in root.iter('curve')]
    assert len(curves) >= 19
    for curve in curves:
        topic = next(name for name in selected if curve.startswith(f'{name}/'))
        check_field(topic, curve.removeprefix(f'{topic}/').split('/'))


@pytest.mark.parametrize('path', sorted(BRINGUP.glob('rviz/*.rviz')), ids=lambda path: path.stem)
def test_rviz_shows_a_robot_in_a_namespace_under_its_names(path: Path) -> None:
    viewers = runpy.run_path(str(BRINGUP / 'launch/viewers.launch.py'))
    topics = viewers['list_topics'](yaml.safe_load(path.read_text()))
    assert set(topics) == set(re.findall(r'Value: (/\S+)', path.read_text()))
    context = LaunchContext()
    context.launch_configurations['robot_namespace'] = ''
    assert viewers['map_to_robot'](context, topics) == []
    context.launch_configurations['robot_namespace'] = 'robot_1'
    assert ('/robot_description', '/robot_1/robot_description') in viewers['map_to_robot'](
        context, topics
    )
