"""`ros2 lifecycle nodes`, `get`, `list` and `set`."""

import argparse
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rclpy.node import Node
from ros2cli.command import CommandExtension
from ros2cli.node.direct import DirectNode

DISCOVERY_S = 2.0  # see ros2verbs.action
TIMEOUT_S = 60.0  # a configuration may load a model
STATE_TYPE = 'lifecycle_msgs/srv/GetState'


class LifecycleCommand(CommandExtension):
    """Show and change the states of lifecycle nodes."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(dest='verb', required=True)
        verbs.add_parser('nodes', help='list the lifecycle nodes')
        for name, text in (
            ('get', 'show the state of one or all nodes'),
            ('list', 'show the transitions that are possible now'),
            ('set', 'trigger a transition'),
        ):
            verb = verbs.add_parser(name, help=text)
            verb.add_argument('node_name', nargs='?' if name == 'get' else None)
            if name == 'set':
                verb.add_argument('transition', help='label or number')

    def main(self, *, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int | str:
        """Run the chosen verb; a text is an error."""
        with DirectNode(argparse.Namespace(spin_time=DISCOVERY_S)) as strategy:
            known = find_lifecycle_nodes(strategy.node)
            if args.verb == 'nodes':
                print('\n'.join(known))
                return 0
            if getattr(args, 'node_name', None) is None:
                for name in known:
                    print(f'{name}: {describe_state(strategy.node, name)}')
                return 0
            name = '/' + args.node_name.lstrip('/')
            if name not in known:
                return f'no lifecycle node {name}; there are: {", ".join(known) or "none"}'
            if args.verb == 'get':
                print(describe_state(strategy.node, name))
                return 0
            if args.verb == 'list':
                return print_transitions(strategy.node, name)
            return change_state(strategy.node, name, args.transition)


def find_lifecycle_nodes(node: Node) -> list[str]:
    """Return the names of nodes that answer for their state."""
    return sorted(
        service.removesuffix('/get_state')
        for service, types in node.get_service_names_and_types()
        if STATE_TYPE in types and service.endswith('/get_state')
    )


def describe_state(node: Node, name: str) -> str:
    """Return label and number of a node's state."""
    state = call(node, GetState, f'{name}/get_state', GetState.Request()).current_state
    return f'{state.label} [{state.id}]'


def list_transitions(node: Node, name: str) -> list[Any]:
    """Return the transitions that are possible in the present state."""
    service = f'{name}/get_available_transitions'
    return call(
        node, GetAvailableTransitions, service, GetAvailableTransitions.Request()
    ).available_transitions


def print_transitions(node: Node, name: str) -> int:
    """Print the transitions that are possible in the present state."""
    for entry in list_transitions(node, name):
        print(f'- {entry.transition.label} [{entry.transition.id}]')
        print(f'\tStart: {entry.start_state.label}\n\tGoal: {entry.goal_state.label}')
    return 0


def change_state(node: Node, name: str, wanted: str) -> int | str:
    """Trigger a transition by label or number."""
    possible = {
        entry.transition.label: entry.transition.id for entry in list_transitions(node, name)
    }
    number = int(wanted) if wanted.isdigit() else possible.get(wanted)
    if number not in possible.values():
        state = describe_state(node, name)
        return f'no transition {wanted!r} from {state}; possible: {", ".join(possible)}'
    request = ChangeState.Request(transition=Transition(id=number))
    if not call(node, ChangeState, f'{name}/change_state', request).success:
        return 'Transitioning failed; see the log of the node'
    print('Transitioning successful')
    return 0


def call(node: Node, service_type: type, service: str, request: Any) -> Any:
    """Return the answer of a service; RuntimeError if there is none in time."""
    client = node.create_client(service_type, service)
    try:
        if not client.wait_for_service(TIMEOUT_S):
            raise RuntimeError(f'{service}: no such service within {TIMEOUT_S:g} s')
        future = client.call_async(request)
        rclpy.spin_until_future_complete(node, future, timeout_sec=TIMEOUT_S)
        if future.result() is None:
            raise RuntimeError(f'{service}: no answer within {TIMEOUT_S:g} s')
        return future.result()
    finally:
        node.destroy_client(client)
