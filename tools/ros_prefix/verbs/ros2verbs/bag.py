"""`ros2 bag info`, `play` and `record`, with the package rosbags."""

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros2cli.command import CommandExtension
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import StoragePlugin, Writer
from rosidl_runtime_py.utilities import get_message

from ros2verbs.message_definitions import load_definition, load_type_hash

DISCOVERY_PERIOD_S = 0.5  # how often topics that appeared later are looked for
STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
FORMAT_VERSION = 9  # of rosbag2's metadata.yaml, that of Jazzy


class BagCommand(CommandExtension):
    """Show, play and record bags."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str) -> None:
        """Declare the verbs."""
        verbs = parser.add_subparsers(dest='verb', required=True)
        info = verbs.add_parser('info', help='show what a bag contains')
        info.add_argument('bag', type=Path, help='folder or file')
        play = verbs.add_parser('play', help='publish the messages of a bag')
        play.add_argument('bag', type=Path, help='folder or file')
        play.add_argument('-r', '--rate', type=float, default=1.0, help='speed (default: 1)')
        play.add_argument('-l', '--loop', action='store_true', help='start again at the end')
        play.add_argument('--topics', nargs='+', default=[], help='only these')
        play.add_argument(
            '-d', '--delay', type=float, default=0.0, help='seconds before it starts'
        )
        record = verbs.add_parser('record', help='write messages into a bag until Ctrl-C')
        record.add_argument('topics', nargs='*')
        record.add_argument('-a', '--all', action='store_true', help='every topic')
        record.add_argument('-o', '--output', type=Path, help='folder (default: by the time)')
        record.add_argument('-s', '--storage', choices=STORAGES, default='mcap')

    def main(self, *, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int | str:
        """Run the chosen verb; a text is an error."""
        if args.verb == 'play' and not args.rate > 0:
            return f'--rate: want more than 0, got {args.rate:g}'
        if args.verb == 'record' and args.all == bool(args.topics):
            return 'name topics, or give --all'
        run = {'info': print_info, 'play': play_bag, 'record': record_bag}[args.verb]
        try:
            return run(args)
        except (AnyReaderError, OSError, ValueError) as error:
            return f'bag {args.verb}: {error}'
        except KeyboardInterrupt:
            return 0
        finally:
            rclpy.try_shutdown()


def print_info(args: argparse.Namespace) -> int:
    """Print duration, size and topics of a bag."""
    files = sorted(args.bag.iterdir()) if args.bag.is_dir() else [args.bag]
    with AnyReader([args.bag]) as reader:
        size = sum(path.stat().st_size for path in files)
        print(f'Files:             {", ".join(path.name for path in files)}')
        print(f'Bag size:          {size / 2**20:.1f} MiB')
        print(f'Duration:          {reader.duration / 1e9:.9f}s')
        print(f'Start:             {datetime.fromtimestamp(reader.start_time / 1e9)}')
        print(f'End:               {datetime.fromtimestamp(reader.end_time / 1e9)}')
        print(f'Messages:          {reader.message_count}')
        for i, (topic, entry) in enumerate(sorted(reader.topics.items())):
            title = '' if i else 'Topic information:'
            print(f'{title:<19}Topic: {topic} | Type: {entry.msgtype} | Count: {entry.msgcount}')
    return 0


def play_bag(args: argparse.Namespace) -> int:
    """Publish the messages at the intervals at which they were recorded."""
    rclpy.init()
    node = rclpy.create_node('rosbag2_player')
    with AnyReader([args.bag]) as reader:
        missing = sorted(set(args.topics) - set(reader.topics))
        if missing:
            raise ValueError(f'no {", ".join(missing)} in {args.bag}')
        chosen = [c for c in reader.connections if not args.topics or c.topic in args.topics]
        publishers = {
            connection.topic: node.create_publisher(
                get_message(connection.msgtype), connection.topic, _read_qos(connection)
            )
            for connection in chosen
        }
        time.sleep(args.delay)
        while True:
            start_s = time.monotonic()
            for connection, stamp_ns, data in reader.messages(chosen):
                due_s = start_s + (stamp_ns - reader.start_time) / 1e9 / args.rate
                time.sleep(max(0.0, due_s - time.monotonic()))
                publishers[connection.topic].publish(bytes(data))
            if not args.loop:
                break
    time.sleep(0.5)  # reliable readers take the last messages
    return 0


def _read_qos(connection: Any) -> QoSProfile:
    """Return the profile that was offered when the topic was recorded, else reliable."""
    offered = getattr(connection.ext, 'offered_qos_profiles', ())
    is_latched = any(profile.durability.name == 'TRANSIENT_LOCAL' for profile in offered)
    return QoSProfile(
        depth=10,
        reliability=ReliabilityPolicy.RELIABLE,  # serves readers of both kinds
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched else DurabilityPolicy.VOLATILE,
    )


def record_bag(args: argparse.Namespace) -> int:
    """Write the topics as they appear, until Ctrl-C."""
    folder = args.output or Path(time.strftime('rosbag2_%Y_%m_%d-%H_%M_%S'))
    if folder.exists():
        raise ValueError(f'{folder} exists; name another folder with --output')
    rclpy.init()
    node = rclpy.create_node('rosbag2_recorder')
    writer = Writer(folder, version=FORMAT_VERSION, storage_plugin=STORAGES[args.storage])
    recorder = TopicRecorder(node, writer, args.topics)
    with writer:
        print(f'recording into {folder}; Ctrl-C ends it', flush=True)
        node.create_timer(DISCOVERY_PERIOD_S, recorder.subscribe_new)
        recorder.subscribe_new()
        with suppress(KeyboardInterrupt, ExternalShutdownException):
            rclpy.spin(node)
    print(f'{recorder.count} messages of {len(recorder.subscribed)} topics in {folder}')
    return 0


class TopicRecorder:
    """Subscribe to topics, all or those named, and write what arrives as it is."""

    def __init__(self, node: Node, writer: Writer, topics: list[str]) -> None:
        self._node, self._writer = node, writer
        self._wanted = {node.resolve_topic_name(topic) for topic in topics}
        self.subscribed: set[str] = set()
        self.count = 0

    def subscribe_new(self) -> None:
        """Subscribe to topics that are published and not yet recorded."""
        known: Mapping[str, list[str]] = dict(self._node.get_topic_names_and_types())
        for topic, types in known.items():
            if topic in self.subscribed or (self._wanted and topic not in self._wanted):
                continue
            publishers = self._node.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            self.subscribed.add(topic)
            try:
                message_type = get_message(types[0])
                connection = self._writer.add_connection(
                    topic,
                    types[0],
                    msgdef=load_definition(types[0]),
                    rihs01=load_type_hash(types[0]),
                )
            except (ImportError, AttributeError, LookupError, OSError, ValueError) as error:
                print(f'{topic}: {types[0]} is not known here and not recorded: {error}')
                continue
            offered = [publisher.qos_profile for publisher in publishers]
            is_reliable = all(q.reliability is ReliabilityPolicy.RELIABLE for q in offered)
            is_latched = all(q.durability is DurabilityPolicy.TRANSIENT_LOCAL for q in offered)
            profile = QoSProfile(
                depth=100,
                reliability=ReliabilityPolicy.RELIABLE
                if is_reliable
                else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL
                if is_latched
                else DurabilityPolicy.VOLATILE,
            )
            self._node.create_subscription(
                message_type, topic, self._make_writer(connection), profile, raw=True
            )

    def _make_writer(self, connection: Any) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            self._writer.write(connection, time.time_ns(), data)
            self.count += 1

        return write
