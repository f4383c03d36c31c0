"""The controllers given for a real robot are those that motion_node accepts, with its names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from wam_policy.core.motion.controller_checks import ControllerReading, find_faults
from wam_policy.core.motion.jtc_emulator import make_emulated_parameters
from wam_policy.core.robot.embodiment import load_embodiment

CONFIG_DIR = Path(__file__).resolve().parents[2] / 'src' / 'wam_bringup' / 'config'
FILES = sorted((CONFIG_DIR / 'ros2_control').glob('*.yaml'))


class RepeatedKeyLoader(yaml.SafeLoader):
    """Keep each `/**` section of a parameter file, as rcl does; a mapping has one of each key."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        for i, (key, _) in enumerate(node.value):
            if key.value == '/**':
                key.value = f'/**{i}'
        return node


def load_nodes(path: Path) -> dict[str, dict[str, Any]]:
    """Return the parameters of each node."""
    document = yaml.load(path.read_text(), RepeatedKeyLoader)  # noqa: S506 - a SafeLoader
    return {
        name: node['ros__parameters']
        for section in document.values()
        for name, node in section.items()
    }


def flatten(table: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_motion_node_accepts_the_controllers_of_the_arms(path):
    robot, nodes = load_embodiment(path.stem), load_nodes(path)
    served = robot.vendor['served_controllers']
    arms = [each for each in robot.controllers if each.name not in served]
    assert arms
    for controller in arms:
        assert nodes['controller_manager'][controller.name]['type'].startswith('joint_trajectory')
        given = dict(flatten(nodes[controller.name]))
        assert set(nodes[controller.name]['gains']) == set(controller.joints)
        # tolerances that are not given are 0 in a controller, the interpolation is not
        defaults = make_emulated_parameters(controller.joints, 1000) | {
            'interpolation_method': 'splines',
            'interpolate_from_desired_state': False,
        }
        reading = ControllerReading(controller, defaults | given, is_active=True)
        assert find_faults(reading) == ()
        left_out = {name: defaults.get(name) for name in given if name.startswith('interpolate')}
        assert left_out and find_faults(
            ControllerReading(controller, defaults | given | left_out, is_active=True)
        )
    assert nodes['controller_manager']['update_rate'] >= robot.vendor['stream_hz']


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_the_gripper_of_the_description_is_the_one_that_is_controlled(path):
    robot, nodes = load_embodiment(path.stem), load_nodes(path)
    name = robot.vendor['command_topic'].split('/')[1]
    assert nodes['controller_manager'][name]['type'].startswith('forward_command_controller')
    assert nodes[name]['joints'] == [gripper.command_name for gripper in robot.grippers]
