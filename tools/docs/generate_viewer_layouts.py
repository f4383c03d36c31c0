"""Write the layouts for RViz, Foxglove and PlotJuggler from the robots' topics.

`./wam shell -c 'python tools/docs/generate_viewer_layouts.py'` writes
src/wam_bringup/{rviz,foxglove,plotjuggler}/<robot>.*, which are installed in wam_bringup's share.
"""

import json
import sys
from collections.abc import Sequence
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
# where the scene is looked at: a point in the world, m, and a distance, m
VIEW_TARGET, VIEW_DISTANCE_M = (0.3, 0.0, 0.9), 2.6
COLORS = ('#3b8eea', '#e8893b', '#4caf6d', '#c2569e', '#8f7ee7', '#c9a227', '#3fb8af')
LATCHED = {
    'Depth': 1,
    'Durability Policy': 'Transient Local',
    'History Policy': 'Keep Last',
    'Reliability Policy': 'Reliable',
}
VOLATILE = {**LATCHED, 'Depth': 2, 'Durability Policy': 'Volatile'}
BEST_EFFORT = {**VOLATILE, 'Reliability Policy': 'Best Effort'}


# --- RViz ---------------------------------------------------------------------------------------


def make_rviz(robot: Embodiment) -> str:
    """Return the configuration of RViz: robot, ghost, plan, contacts, cameras."""
    displays = [
        {
            'Class': 'rviz_default_plugins/Grid',
            'Name': 'Grid',
            'Enabled': True,
            'Color': '60; 64; 72',
        },
        _make_rviz_robot('Robot', '', 1.0),
        _make_rviz_robot('Plan comes to rest here', 'plan', 0.3),
        _make_rviz_markers('Planned paths', '/wam/plan/markers'),
        _make_rviz_markers('Contacts ahead', '/wam/plan/contacts'),
        *(
            {
                'Class': 'rviz_default_plugins/Path',
                'Name': f'Path of the {side} tool',
                'Enabled': False,
                'Topic': {'Value': f'/wam/plan/{side}_path', **VOLATILE},
            }
            for side in _list_tools(robot)
        ),
        *(
            {
                'Class': 'rviz_default_plugins/Image',
                'Name': camera.key,
                'Enabled': True,
                'Topic': {'Value': camera.topic, **BEST_EFFORT},
            }
            for camera in robot.cameras
        ),
        {
            'Class': 'rviz_default_plugins/TF',
            'Name': 'Frames',
            'Enabled': False,
            'Marker Scale': 0.3,
        },
    ]
    document = {
        'Panels': [
            {'Class': 'rviz_common/Displays', 'Name': 'Displays'},
            {'Class': 'rviz_common/Views', 'Name': 'Views'},
            {'Class': 'rviz_common/Time', 'Name': 'Time'},
        ],
        'Visualization Manager': {
            'Class': '',
            'Displays': displays,
            'Enabled': True,
            'Global Options': {
                'Background Color': '24; 26; 30',
                'Fixed Frame': 'world',
                'Frame Rate': 30,
            },
            'Name': 'root',
            'Tools': [
                {'Class': 'rviz_default_plugins/MoveCamera'},
                {'Class': 'rviz_default_plugins/Select'},
                {'Class': 'rviz_default_plugins/Measure'},
            ],
            'Value': True,
            'Views': {'Current': _make_rviz_view(), 'Saved': None},
        },
        'Window Geometry': {'Height': 900, 'Width': 1500},
    }
    return yaml.safe_dump(document, sort_keys=False, width=99)


def _make_rviz_view() -> dict[str, Any]:
    x, y, z = VIEW_TARGET
    return {
        'Class': 'rviz_default_plugins/Orbit',
        'Name': 'Current View',
        'Distance': VIEW_DISTANCE_M,
        'Focal Point': {'X': x, 'Y': y, 'Z': z},
        'Pitch': 0.35,
        'Yaw': 0.6,
        'Target Frame': 'world',
    }


def _list_tools(robot: Embodiment) -> list[str]:
    links = KinematicTree.from_urdf(embodiment.load_urdf(robot.name)).links
    return [link.removesuffix('_tool') for link in links if link.endswith('_tool')]


def _make_rviz_robot(name: str, prefix: str, alpha: float) -> dict[str, Any]:
    return {
        'Class': 'rviz_default_plugins/RobotModel',
        'Name': name,
        'Enabled': True,
        'Alpha': alpha,
        'Description Source': 'Topic',
        'Description Topic': {'Value': '/robot_description', **LATCHED},
        'TF Prefix': prefix,
        'Visual Enabled': True,
    }


def _make_rviz_markers(name: str, topic: str) -> dict[str, Any]:
    return {
        'Class': 'rviz_default_plugins/MarkerArray',
        'Name': name,
        'Enabled': True,
        'Topic': {'Value': topic, **VOLATILE},
    }


# --- Foxglove -----------------------------------------------------------------------------------


def make_foxglove(robot: Embodiment) -> str:
    """Return the layout of Foxglove: 3D, images, plots, states, an instruction to publish."""
    panels: dict[str, Any] = {'3D!scene': _make_scene_panel()}
    images = []
    for camera in robot.cameras:
        name = f'Image!{camera.key}'
        panels[name] = {
            'imageMode': {
                'imageTopic': camera.topic,
                'calibrationTopic': camera.info_topic,
            },
            'foxglovePanelTitle': camera.key,
        }
        images.append(name)
    panels['Image!predicted'] = {
        'imageMode': {'imageTopic': '/wam/predicted_video'},
        'foxglovePanelTitle': 'what the model predicts',
    }
    panels['StateTransitions!states'] = {
        'isSynced': True,
        'paths': [
            {'value': f'/wam/{topic}.{field}', 'label': label, 'timestampMethod': 'receiveTime'}
            for topic, field, label in (
                ('status', 'state_name', 'policy'),
                ('motion_status', 'state_name', 'motion'),
                ('motion_status', 'reason', 'reason'),
                ('status', 'instruction', 'instruction'),
            )
        ],
    }
    panels['Publish!instruction'] = {
        'topicName': '/wam/instruction',
        'datatype': 'std_msgs/msg/String',
        'value': json.dumps({'data': 'take the red cube up'}),
        'buttonText': 'Send the instruction',
        'buttonTooltip': 'Empty text: stop and hold',
        'advancedView': True,
    }
    joints = robot.controllers[0].joints
    state_topic = robot.controllers[0].state_topic
    panels['Plot!joints'] = _make_plot(
        f'{robot.controllers[0].name}: commanded and measured',
        [
            (f'{state_topic}.{part}.positions[{number}]', f'{joint} {label}')
            for number, joint in enumerate(joints[:3])
            for part, label in (('reference', 'commanded'), ('feedback', 'measured'))
        ],
    )
    panels['Plot!latency'] = _make_plot(
        'chunk rate in Hz, rows left',
        [
            ('/wam/status.query_rate_hz', 'chunks per second'),
            ('/wam/motion_status.rows_left', 'rows left'),
        ],
    )
    views = _stack('row', ['3D!scene', _stack('column', [*images, 'Image!predicted'])], 66)
    below = _stack(
        'row',
        [
            _stack('column', ['StateTransitions!states', 'Publish!instruction'], 62),
            _stack('row', ['Plot!joints', 'Plot!latency'], 60),
        ],
        38,
    )
    document = {
        'configById': panels,
        'globalVariables': {},
        'userNodes': {},
        'playbackConfig': {'speed': 1},
        'layout': _stack('column', [views, below], 66),
    }
    return json.dumps(document, indent=1) + '\n'


def _make_scene_panel() -> dict[str, Any]:
    layers = {
        'grid': {'layerId': 'foxglove.Grid', 'label': 'Grid', 'size': 4, 'divisions': 16},
        'robot': {'layerId': 'foxglove.Urdf', 'label': 'Robot', 'framePrefix': ''},
        'ghost': {
            'layerId': 'foxglove.Urdf',
            'label': 'Plan comes to rest here',
            'framePrefix': 'plan/',
            'displayMode': 'collision',
        },
    }
    for order, (name, layer) in enumerate(layers.items(), 1):
        layer |= {'instanceId': name, 'visible': True, 'frameLocked': True, 'order': order}
        if layer['layerId'] == 'foxglove.Urdf':
            layer |= {'sourceType': 'topic', 'topic': '/robot_description'}
            layer.setdefault('displayMode', 'visual')
    return {
        'followTf': 'world',
        'fixedFrame': 'world',
        'followMode': 'follow-none',
        'cameraState': {
            'perspective': True,
            'distance': VIEW_DISTANCE_M,
            'phi': 65,
            'thetaOffset': 55,
            'target': [0, 0, 0],
            'targetOffset': list(VIEW_TARGET),
            'targetOrientation': [0, 0, 0, 1],
            'fovy': 45,
            'near': 0.05,
            'far': 100,
        },
        'scene': {'transforms': {'visible': False}},
        'transforms': {},
        'topics': {
            topic: {'visible': True} for topic in ('/wam/plan/markers', '/wam/plan/contacts')
        },
        'layers': layers,
    }


def _make_plot(title: str, paths: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        'title': title,
        'foxglovePanelTitle': title,
        'paths': [
            {
                'value': path,
                'label': label,
                'enabled': True,
                'timestampMethod': 'receiveTime',
                'color': COLORS[number % len(COLORS)],
            }
            for number, (path, label) in enumerate(paths)
        ],
        'showLegend': True,
        'legendDisplay': 'floating',
        'isSynced': True,
        'xAxisVal': 'timestamp',
        'followingViewWidth': 20,
    }


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
