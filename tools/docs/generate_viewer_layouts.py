"""Write the layouts for RViz, Foxglove and PlotJuggler from the robots' topics.

`./wam shell -c 'python tools/docs/generate_viewer_layouts.py'` writes
src/wam_bringup/{rviz,foxglove,plotjuggler}/<robot>.*, which are installed in wam_bringup's share.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import yaml

from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.kinematic_tree import KinematicTree

BRINGUP = Path(__file__).resolve().parents[2] / 'src/wam_bringup'
ROBOTS = embodiment.list_robots()
COLORS = ('#3b8eea', '#e8893b', '#4caf6d', '#c2569e', '#8f7ee7', '#c9a227', '#3fb8af')
TEMPLATES = yaml.safe_load(Path(__file__).with_suffix('.yaml').read_text(encoding='utf-8'))


@dataclass(frozen=True, slots=True)
class Curve:
    """One value over time."""

    path: str
    label: str
    color: str


def make_rviz(robot: Embodiment) -> str:
    """Return the configuration of RViz: robot, ghost, plan, contacts, cameras."""
    document = fill_template(TEMPLATES['rviz'], {}, list_repeated(robot))
    return yaml.safe_dump(document, sort_keys=False, width=99)


def make_foxglove(robot: Embodiment) -> str:
    """Return the layout of Foxglove: 3D, images, plots, states, an instruction to publish."""
    known = {'controller': robot.controllers[0]}
    panels = fill_template(TEMPLATES['foxglove'], known, list_repeated(robot))
    images = [name for name in panels if name.startswith('Image!')]
    views = _stack('row', ['3D!scene', _stack('column', images)], 66)
    states = _stack('column', ['StateTransitions!states', 'Publish!instruction'], 62)
    below = _stack('row', [states, _stack('row', ['Plot!joints', 'Plot!latency'], 60)], 38)
    document = {
        'configById': panels,
        'globalVariables': {},
        'userNodes': {},
        'playbackConfig': {'speed': 1},
        'layout': _stack('column', [views, below], 66),
    }
    return json.dumps(document, indent=1) + '\n'


def list_repeated(robot: Embodiment) -> dict[str, Sequence[Any]]:
    """Return what entries with `for_each` are repeated for, by its name."""
    links = KinematicTree.from_urdf(embodiment.load_urdf(robot.name)).links
    controller = robot.controllers[0]
    curves = [
        (f'{controller.state_topic}.{part}.positions[{number}]', f'{joint} {label}')
        for number, joint in enumerate(controller.joints[:3])
        for part, label in (('reference', 'commanded'), ('feedback', 'measured'))
    ]
    return {
        'camera': robot.cameras,
        'tool': [link.removesuffix('_tool') for link in links if link.endswith('_tool')],
        'joint_curve': [
            Curve(*curve, color) for curve, color in zip(curves, COLORS, strict=False)
        ],
    }


def fill_template(
    template: Any, known: Mapping[str, Any], repeated: Mapping[str, Sequence[Any]]
) -> Any:
    """Return a copy, values in braces filled in and entries with `for_each` repeated."""

    def find_cases(entry: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        name = entry.get('for_each') if isinstance(entry, dict) else None
        if name is None:
            yield entry, known
            return
        entry = {key: value for key, value in entry.items() if key != 'for_each'}
        for each in repeated[name]:
            yield entry, {**known, name: each}

    if isinstance(template, dict):
        return {
            key.format(**given): fill_template(case, given, repeated)
            for key, entry in template.items()
            for case, given in find_cases(entry)
        }
    if isinstance(template, list):
        return [
            fill_template(case, given, repeated)
            for entry in template
            for case, given in find_cases(entry)
        ]
    return template.format(**known) if isinstance(template, str) else template


def _stack(direction: str, parts: Sequence[Any], percentage: float = 0.0) -> Any:
    """Return panels next to (row) or below (column) each other, as a tree of pairs."""
    if len(parts) == 1:
        return parts[0]
    return {
        'direction': direction,
        'first': parts[0],
        'second': _stack(direction, parts[1:]),
        'splitPercentage': percentage or 100 / len(parts),
    }


# --- PlotJuggler --------------------------------------------------------------------------------


def make_plotjuggler(robot: Embodiment) -> str:
    """Return the layout of PlotJuggler: a tab per arm, one of the states."""
    root = Element('root')
    tabs = SubElement(root, 'tabbed_widget', {'name': 'Main Window', 'parent': 'main_window'})
    for controller in robot.controllers:
        if len(controller.joints) > 1:
            plots = [
                [
                    f'{controller.state_topic}/{part}/positions[{number}]'
                    for part in ('reference', 'feedback')
                ]
                for number in range(len(controller.joints))
            ]
            _add_tab(tabs, controller.name, plots)
    states = [
        ['/wam/status/query_rate_hz'],
        ['/wam/motion_status/rows_left'],
        ['/wam/motion_status/chunk_age_ms'],
        ['/wam/motion_status/state', '/wam/status/state'],
    ]
    _add_tab(tabs, 'rates and states', states)
    SubElement(tabs, 'currentTabIndex', index='0')
    SubElement(root, 'use_relative_time_offset', enabled='1')
    SubElement(root, 'previouslyLoaded_Datafiles')
    SubElement(root, 'previouslyLoaded_Streamer', name='ROS2 Topic Subscriber')
    topics = sorted(
        {
            *(each.state_topic for each in robot.controllers),
            '/wam/status',
            '/wam/motion_status',
        }
    )
    plugins = SubElement(root, 'Plugins')
    plugin = SubElement(plugins, 'plugin', ID='ROS2 Topic Subscriber')
    selected = SubElement(plugin, 'selected_topics')
    for topic in topics:
        SubElement(selected, 'topic', name=topic)
    ElementTree.indent(root, ' ')
    return ElementTree.tostring(root, encoding='unicode', xml_declaration=False) + '\n'


def _add_tab(tabs: Element, title: str, plots: Sequence[Sequence[str]]) -> None:
    tab = SubElement(tabs, 'Tab', tab_name=title, containers='1')
    share = ';'.join([f'{1 / len(plots):.6f}'] * len(plots))
    splitter = SubElement(
        SubElement(tab, 'Container'),
        'DockSplitter',
        orientation='-',
        sizes=share,
        count=str(len(plots)),
    )
    for curves in plots:
        area = SubElement(splitter, 'DockArea', name='...')
        plot = SubElement(
            area, 'plot', style='Lines', mode='TimeSeries', flip_x='false', flip_y='false'
        )
        for name, color in zip(curves, COLORS, strict=False):
            SubElement(plot, 'curve', name=name, color=color)


LAYOUTS = {
    'rviz/{}.rviz': make_rviz,
    'foxglove/{}.json': make_foxglove,
    'plotjuggler/{}.xml': make_plotjuggler,
}


def make_layouts() -> dict[str, str]:
    """Return the text of every layout by its path in wam_bringup."""
    robots = [embodiment.load_embodiment(name) for name in ROBOTS]
    return {
        path.format(robot.name): make(robot) for path, make in LAYOUTS.items() for robot in robots
    }


def main() -> None:
    for path, text in make_layouts().items():
        (BRINGUP / path).parent.mkdir(exist_ok=True)
        (BRINGUP / path).write_text(text, encoding='utf-8')
        sys.stdout.write(f'{path}\n')


if __name__ == '__main__':
    main()
