"""`ros2 interface list`, `package`, `packages`, `show` and `proto`."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ros2cli.command import CommandExtension
from rosidl_runtime_py import (
    get_interface_path,
    get_interfaces,
    message_to_yaml,
)
from rosidl_runtime_py.utilities import get_action, get_message, get_service

KINDS = ('msg', 'srv', 'action')
TITLES = {'msg': 'Messages:', 'srv': 'Services:', 'action': 'Actions:'}


class InterfaceCommand(CommandExtension):
    """List and show messages, services and actions."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(dest='verb', required=True)
        listing = verbs.add_parser('list', help='list all interfaces')
        for kind, title in (('msg', 'messages'), ('srv', 'services'), ('action', 'actions')):
            listing.add_argument(
                f'-{kind[0]}',
                f'--only-{"msgs" if kind == "msg" else kind + "s"}',
                dest='kinds',
                action='append_const',
                const=kind,
                help=f'only {title}',
            )
        verbs.add_parser('packages', help='list the packages with interfaces')
        package = verbs.add_parser('package', help='list the interfaces of a package')
        package.add_argument('package_name')
        for name, text in (('show', 'print a definition'), ('proto', 'print a value as YAML')):
            verb = verbs.add_parser(name, help=text)
            verb.add_argument('type', help='for example sensor_msgs/msg/Image')

    def main(self, *, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int | str:
        """Run the chosen verb; a text is an error."""
        if args.verb in ('show', 'proto'):
            try:
                return show(args.type) if args.verb == 'show' else print_prototype(args.type)
            except (LookupError, ValueError, AttributeError, ImportError, OSError) as error:
                return f'no interface {args.type!r}, want PACKAGE/msg/NAME: {error}'
        if args.verb == 'package':
            found = get_interfaces([args.package_name])[args.package_name]
            print('\n'.join(f'{args.package_name}/{name}' for name in sorted(found)))
            return 0
        known: Mapping[str, list[str]] = get_interfaces()
        if args.verb == 'packages':
            print('\n'.join(sorted(known)))
            return 0
        for kind in args.kinds or KINDS:
            print(TITLES[kind])
            for package in sorted(known):
                for name in sorted(known[package]):
                    if name.startswith(f'{kind}/'):
                        print(f'    {package}/{name}')
        return 0


def show(name: str) -> int:
    """Print the definition with its comments."""
    print(Path(get_interface_path(name)).read_text(encoding='utf-8').rstrip('\n'))
    return 0


def print_prototype(name: str) -> int:
    """Print a message, request or goal with its default values."""
    kind = name.split('/')[1]
    if kind == 'srv':
        value = get_service(name).Request()
    elif kind == 'action':
        value = get_action(name).Goal()
    else:
        value = get_message(name)()
    print(message_to_yaml(value).rstrip('\n'))
    return 0
