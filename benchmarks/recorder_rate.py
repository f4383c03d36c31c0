"""Measure how many messages the recorder loses with three cameras and joint states.

A separate process publishes images and joint states at fixed rates; the recorder runs as its
program. A message counts as lost if it was published between the first and the last recorded stamp
of its topic and is not in the bag, whatever the cause. Run it with `./wam bench recorder_rate`, or
`python benchmarks/recorder_rate.py` in ./wam shell.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import record

from wam_policy.command_line import to_options

ROBOT = 'yam'
JOINTS_HZ = 100.0
IMAGE_SIZES = {'640x480': (640, 480), '1280x720': (1280, 720)}


def main() -> int:
    """Measure each load, print a table, write JSON."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--seconds', type=float, default=20.0, help='(default: %(default)s)')
    parser.add_argument(
        '--hz',
        type=float,
        nargs='+',
        default=[30.0],
        help='images per second and camera (default: 30)',
    )
    parser.add_argument('--size', default='640x480', choices=IMAGE_SIZES)
    parser.add_argument(
        '--images', nargs='+', default=['jpeg'], choices=('jpeg', 'raw', 'compressed')
    )
    parser.add_argument('--publish', type=float, metavar='HZ', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        run_robot(options.publish, IMAGE_SIZES[options.size])
        return 0
    rows = [measure_load(images, hz, options) for images in options.images for hz in options.hz]
    record.show(options.json, rows)
    return 0


def run_robot(camera_hz: float, size: tuple[int, int]) -> None:
    """Publish three cameras with moving, textured images, and joint states, until a signal."""
    import rclpy
    from sensor_msgs.msg import Image, JointState

    from wam_policy.core.robot import embodiment
    from wam_policy.core.types import JointState as Posture
    from wam_policy.nodes import message_conversion, qos
    from wam_policy.nodes.images import image_conversion

    robot = embodiment.load_embodiment(ROBOT)
    rclpy.init()
    node = rclpy.create_node('robot')
    cameras = [node.create_publisher(Image, camera.topic, qos.IMAGE) for camera in robot.cameras]
    joints = node.create_publisher(JointState, '/joint_states', qos.JOINTS)
    picture = make_image(size)
    shown = [
        image_conversion.image_to_msg(np.roll(picture, 8 * i, axis=1), 0, 'c') for i in range(8)
    ]
    rest = robot.home_positions(robot.observed)
    start_s, sent_pictures, sent_joints = time.monotonic(), 0, 0
    while rclpy.ok():
        passed_s = time.monotonic() - start_s
        now_ns = node.get_clock().now().nanoseconds
        if passed_s * JOINTS_HZ >= sent_joints:
            sent_joints += 1
            joints.publish(
                message_conversion.joint_state_to_msg(Posture(now_ns, robot.observed, rest))
            )
        if passed_s * camera_hz * len(cameras) >= sent_pictures:  # one after the other
            msg = shown[sent_pictures // len(cameras) % len(shown)]
            msg.header.stamp = message_conversion.time_to_msg(now_ns)
            # with the number, `count_messages` counts missing images
            msg.header.frame_id = str(sent_pictures // len(cameras))
            cameras[sent_pictures % len(cameras)].publish(msg)
            sent_pictures += 1
        time.sleep(0.0005)


def make_image(size: tuple[int, int]) -> np.ndarray:
    """Return an image as hard to compress as a camera's, uint8 [h w 3]: blocks with noise."""
    rng = np.random.default_rng(0)
    width, height = size
    blocks = np.kron(rng.integers(0, 255, (height // 10, width // 10, 3)), np.ones((10, 10, 1)))
    return np.clip(blocks + rng.normal(0, 4, blocks.shape), 0, 255).astype(np.uint8)


def measure_load(images: str, camera_hz: float, options: argparse.Namespace) -> dict:
    """Record at one load and count missing messages."""
    with tempfile.TemporaryDirectory() as folder:
        given = {'robot': ROBOT, 'out': folder, 'images': images, 'instruction': 'wave'}
        command = [
            *(sys.executable, '-m', 'wam_policy.nodes.recorder.record_command'),
            *to_options(given | {'seconds': options.seconds}),
        ]
        robot = subprocess.Popen(
            [sys.executable, __file__, '--publish', str(camera_hz), '--size', options.size]
        )
        try:
            time.sleep(2.0)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as recorder:
                process, cpu_s, start_s = psutil.Process(recorder.pid), 0.0, time.monotonic()
                peak_mb = 0.0
                while recorder.poll() is None:
                    try:
                        cpu_s = sum(process.cpu_times()[:2])
                        peak_mb = max(peak_mb, process.memory_info().rss / 1e6)
                    except psutil.NoSuchProcess:
                        break
                    time.sleep(0.2)
                wall_s = time.monotonic() - start_s
        finally:
            robot.send_signal(signal.SIGTERM)
            robot.wait()
        counted = count_messages(next(Path(folder).iterdir()))
    return {
        'images': images,
        'size': options.size,
        'camera_hz': camera_hz,
        **counted,
        'cpu_cores': round(cpu_s / wall_s, 2),
        'peak_mb': round(peak_mb),
        'load': round(os.getloadavg()[0], 1),
    }


def count_messages(folder: Path) -> dict:
    """Count recorded and missing images and joint states of a bag."""
    from wam_learning.data import bag_reader
    from wam_policy.core.robot import embodiment
    from wam_policy.recording import bag_access

    robot = embodiment.load_embodiment(ROBOT)
    cameras = {
        name for camera in robot.cameras for name in (camera.topic, f'{camera.topic}/compressed')
    }
    numbers: dict[str, list[int]] = {}
    stamps_ns = []
    for message in bag_reader.read_messages(folder, cameras | {'/joint_states'}):
        if isinstance(message, bag_reader.DamagedMessage):
            raise RuntimeError(f'{folder}: {message.topic}: {message.error}')
        header = message.content.header
        if message.topic in cameras:
            numbers.setdefault(message.topic, []).append(int(header.frame_id))
        else:
            stamps_ns.append(header.stamp.sec * 10**9 + header.stamp.nanosec)
    span_s = (stamps_ns[-1] - stamps_ns[0]) / 1e9
    about = bag_access.read_metadata(folder)
    size_mb = next(folder.glob('*.mcap')).stat().st_size / 1e6
    return {
        'pictures': sum(map(len, numbers.values())),
        'lost': sum(max(n) - min(n) + 1 - len(n) for n in numbers.values()),
        'joints': len(stamps_ns),
        'joints_lost': max(0, round(span_s * JOINTS_HZ) + 1 - len(stamps_ns)),
        'counted_drops': int(about['dropped']),
        'mb_per_s': round(size_mb / span_s, 1),
    }


if __name__ == '__main__':
    sys.exit(main())
