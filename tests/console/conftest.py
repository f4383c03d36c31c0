"""A stand-in for a stack and the console beside it, for tests with and without a browser."""

import shutil

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from tests.console.fake_stack import FakeStack
from wam_console.console_node import ConsoleNode
from wam_policy.nodes.run_node import ExecutorThread

CHROMIUM_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
CHROMIUM_FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
)
# on a processor WebGL takes most of the time of a test: only one test uses it
SOFTWARE_GL_FLAGS = ('--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader')


@pytest.fixture(scope='module')
def console(ros_domain):
    """Give the active console node, with the stand-in as its attribute `fake`."""
    context = rclpy.Context()
    rclpy.init(
        context=context,
        args=['--ros-args', '-r', '__ns:=/wam', '-p', 'port:=0', '-p', 'image_width:=64'],
    )
    node, fake = ConsoleNode(context=context), FakeStack(context=context)
    assert node.trigger_configure() == node.trigger_activate()
    threads = [ExecutorThread([each]) for each in (node, fake)]
    node.fake = fake
    yield node
    for thread in threads:
        thread.stop()
    node.close()
    for each in (node, fake):
        each.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture(scope='module')
def launch_browser():
    """Give a function that starts a headless Chromium; without one the tests fail.

    Nothing else tests the page, so that a missing browser is no reason to skip.
    """
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        pytest.fail('no Chromium: apt-get install chromium (.ci/run does it)')
    with sync_playwright() as playwright:
        yield lambda *flags: playwright.chromium.launch(
            executable_path=path, args=[*CHROMIUM_FLAGS, *flags]
        )


@pytest.fixture(scope='module')
def browser(launch_browser):
    """Give a browser without WebGL."""
    made = launch_browser('--disable-3d-apis', '--disable-gpu')
    yield made
    made.close()
