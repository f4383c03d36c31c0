"""Checks that run with the Python of the checkout's environment; used by doctor.

`probe.py NAME` prints one line, or exits with an error whose last line is the reason.
"""

import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

DDS_TIMEOUT_S = 10.0
DISCOVERY_S = 3.0  # nodes on this machine were seen within 1 s on both RMWs


def probe_imports() -> str:
    """Import the main packages and return their versions."""
    import mujoco
    import numpy
    import rclpy
    import torch

    return (
        f'torch {torch.__version__}, numpy {numpy.__version__}, mujoco {mujoco.__version__}, '
        f'rclpy from {rclpy.__path__[0]}'
    )


def probe_rendering() -> str:
    """Render an off-screen image and check that it is not black."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="1" rgba="1 0 0 1"/>'
        '</worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 32, 32) as renderer:
        renderer.update_scene(data)
        picture = renderer.render()
    if picture.max() == 0:
        raise SystemExit('the rendered image is black')
    return 'off-screen rendering works'


def probe_cv_bridge() -> str:
    """Return which cv_bridge the nodes use; see nodes/images/bridge_selection.py."""
    try:
        from wam_policy.nodes.images.bridge_selection import select_bridge
    except ImportError:
        return 'check not active: src/ is not built'
    return select_bridge().description


def probe_gpu() -> str:
    """Return the names of the GPUs that torch can use."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ', '.join(names) or 'none that torch can use: the model runs on the CPU'


def probe_dds() -> str:
    """Receive a message from another process over the loopback device."""
    import rclpy
    from std_msgs.msg import String

    rclpy.init()
    node = rclpy.create_node('wam_doctor_receiver')
    received = []
    node.create_subscription(String, 'wam_doctor', received.append, 1)
    start = time.monotonic()
    with subprocess.Popen([sys.executable, __file__, 'dds_sender']) as sender:
        while not received and time.monotonic() < start + DDS_TIMEOUT_S:
            rclpy.spin_once(node, timeout_sec=0.05)
        sender.terminate()
    if not received:
        raise SystemExit(f'no message between two processes within {DDS_TIMEOUT_S:.0f} s')
    return f'two processes connect, first message after {time.monotonic() - start:.1f} s'


def run_dds_sender() -> str:
    """Publish until terminated, for at most DDS_TIMEOUT_S."""
    import rclpy
    from std_msgs.msg import String

    rclpy.init()
    publisher = rclpy.create_node('wam_doctor_sender').create_publisher(String, 'wam_doctor', 1)
    start = time.monotonic()
    while time.monotonic() < start + DDS_TIMEOUT_S and rclpy.ok():
        publisher.publish(String(data='hello'))
        time.sleep(0.05)
    return 'sent'


def probe_pins() -> str:
    """Return which packages are found in another version than pinned; the pin files follow."""
    pins = {}
    for path in sys.argv[2:]:
        for line in Path(path).read_text().splitlines():
            requirement = line.partition('#')[0].partition(';')[0].strip()
            name, is_exact, version = requirement.partition('==')
            if is_exact:
                pins[name.partition('[')[0].strip()] = version.strip()
    found = {}
    for name in pins:
        with suppress(PackageNotFoundError):  # not for this platform
            found[name] = version_of(name)
    # a local label, as in 2.9.1+cpu, is the same version
    return ', '.join(
        f'{name} {found[name]} (pinned {pin})'
        for name, pin in sorted(pins.items())
        if name in found and found[name].partition('+')[0] != pin.partition('+')[0]
    )


def probe_domain() -> str:
    """Return whether every node that is discovered uses this RMW; see nodes/rmw_vendor.py."""
    import rclpy

    try:
        from wam_policy.nodes import rmw_vendor
    except ImportError:
        return 'check not active: src/ is not built'
    rclpy.init()
    node = rclpy.create_node('wam_doctor_domain')
    end = time.monotonic() + DISCOVERY_S
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    topics = [name for name, _ in node.get_topic_names_and_types()]
    return rmw_vendor.describe_domain(node, topics)[1]


PROBES = {
    'pins': probe_pins,
    'packages': probe_imports,
    'cv_bridge': probe_cv_bridge,
    'render': probe_rendering,
    'gpu': probe_gpu,
    'dds': probe_dds,
    'dds_sender': run_dds_sender,
    'domain': probe_domain,
}

if __name__ == '__main__':
    print(PROBES[sys.argv[1]]())
