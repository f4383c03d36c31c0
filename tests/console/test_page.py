"""The page in a real browser beside a stand-in for the stack: what is pressed arrives in ROS."""

import time

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from tests.console.conftest import SOFTWARE_GL_FLAGS
from wam_console.console_node import ConsoleNode
from wam_msgs.msg import MotionStatus
from wam_policy.nodes.run_node import ExecutorThread

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]
SIZE = {'width': 1400, 'height': 900}
TIMEOUT_MS = 40_000
# how many colors the 3D view has in the frame after the next; an empty one has a few
DRAWN_SHADES = """
new Promise((done) => {
  const canvas = document.querySelector('#scene'), copy = document.createElement('canvas');
  const look = () => requestAnimationFrame(() => {
    copy.width = canvas.width; copy.height = canvas.height;
    const pen = copy.getContext('2d');
    pen.drawImage(canvas, 0, 0);
    const bytes = pen.getImageData(0, 0, copy.width, copy.height).data, found = new Set();
    for (let i = 0; i < bytes.length; i += 4)
      found.add(65536 * bytes[i] + 256 * bytes[i + 1] + bytes[i + 2]);
    if (found.size > 200) done(found.size); else setTimeout(look, 100);
  });
  look();
})"""
MARKUP = '<img src=x onerror="window.injected = true"><b>bold</b>'


@pytest.fixture
def fake(console):
    """Give the stand-in as a stack that runs; what was asked of it before is forgotten."""
    fake = console.fake
    fake.silent = False
    fake.policy.trained, fake.policy.model, fake.policy.reason = True, 'wam-mini', ''
    fake.motion.dry_run, fake.motion.estop, fake.motion.reason = False, False, 'following chunks'
    fake.motion.state, fake.motion.state_name = MotionStatus.TRACKING, 'TRACKING'
    fake.requests.clear()
    return fake


@pytest.fixture
def open_page(console, browser):
    """Give a function that opens the page in a new tab; all are closed at the end."""
    contexts = []

    def open_one(size=SIZE):
        context = browser.new_context(viewport=size)
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        page = context.new_page()
        page.errors = []
        page.on('pageerror', lambda error: page.errors.append(str(error)))
        page.goto(console.url)
        page.wait_for_selector('body[data-ready]')
        return page

    yield open_one
    for context in contexts:
        assert [error for page in context.pages for error in page.errors] == []
        context.close()


def press(page, selector):
    """Click without waiting for an animation frame: with software GL these are slow."""
    page.dispatch_event(selector, 'click')


def take_control(page):
    press(page, '#control')
    page.wait_for_selector('#control.mine')


def wait_text(page, selector, words):
    page.wait_for_function(
        '([selector, words]) => document.querySelector(selector).textContent.includes(words)',
        arg=[selector, words],
    )


def is_on_top(page, selector):
    """Return whether nothing covers the middle of an element."""
    return page.evaluate(
        """(selector) => {
          const box = document.querySelector(selector).getBoundingClientRect();
          const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
          return hit !== null && hit.closest(selector) !== null;
        }""",
        selector,
    )


def test_an_instruction_is_sent_and_text_of_ros_is_no_markup(fake, open_page):
    fake.policy.reason = MARKUP
    page = open_page()
    assert page.is_disabled('#text') and page.is_disabled('#enable')
    take_control(page)
    page.fill('#text', MARKUP)
    page.press('#text', 'Enter')
    fake.wait_for('instruction', MARKUP)
    wait_text(page, '#instruction', MARKUP)
    wait_text(page, '#reason', MARKUP)
    wait_text(page, '#suggestions', MARKUP)
    assert page.evaluate('document.querySelectorAll("img, b b, #reason *").length') == 0
    assert page.evaluate('window.injected') is None
    press(page, '#hold')
    fake.wait_for('instruction', '')
    press(page, '#next')
    fake.wait_for('/sim/reset')


def test_enable_and_reset_ask_first(fake, open_page):
    page = open_page()
    take_control(page)
    press(page, '#enable')
    page.wait_for_selector('#confirm[open]')
    press(page, '#confirm [value=no]')
    page.wait_for_selector('#confirm:not([open])', state='attached')
    assert fake.requests == []
    press(page, '#enable')
    press(page, '#confirm-yes')
    fake.wait_for('enable', True)
    press(page, '#reset')
    page.wait_for_selector('#confirm[open]')
    assert [request[0] for request in fake.requests] == ['enable']
    press(page, '#confirm-yes')
    fake.wait_for('reset')


@pytest.mark.parametrize('focus', ['nothing', 'prompt', 'dialog'])
def test_the_estop_key_works_with_the_focus_anywhere(fake, open_page, focus):
    page = open_page()
    if focus != 'nothing':
        take_control(page)
    if focus == 'prompt':
        page.focus('#text')
        page.keyboard.type('half a sent')
    elif focus == 'dialog':
        press(page, '#enable')
        page.wait_for_selector('#confirm[open]')
    page.keyboard.press('Escape')
    fake.wait_for('estop')
    wait_text(page, '#estop', 'acknowledged after')
    wait_text(page, '#banners', 'E-STOPPED')
    assert is_on_top(page, '#estop') and ('enable', True) not in fake.requests


def test_an_estop_that_nobody_acknowledges_is_said(fake, open_page):
    page = open_page()
    fake.on_estop = lambda: fake.note('estop')
    try:
        press(page, '#estop')
        fake.wait_for('estop')
        wait_text(page, '#estop', 'NOT ACKNOWLEDGED')
    finally:
        del fake.on_estop


def test_one_of_two_tabs_is_in_control(fake, open_page):
    first, second = open_page(), open_page()
    take_control(first)
    wait_text(second, '#control', 'controls')
    assert second.is_disabled('#hold') and not first.is_disabled('#hold')
    first.context.close()
    wait_text(second, '#control', 'Take control')
    take_control(second)
    assert fake.requests == []


def test_what_is_old_is_gray_and_a_lost_console_moves_nothing(console, fake, open_page):
    page = open_page()
    take_control(page)
    fake.silent = True
    page.wait_for_selector('.camera.stale')
    page.wait_for_selector('.scene.stale')
    page.wait_for_selector('#motion[data-state=unknown]')
    page.wait_for_selector('.tile.stale')
    wait_text(page, '#motion', 'silent for')
    wait_text(page, '#banners', 'STALE')
    fake.silent = False
    page.wait_for_selector('#motion[data-state=ok]')
    page.wait_for_selector('.camera:not(.stale)')
    url = console.url
    console.trigger_deactivate()
    wait_text(page, '#banners', 'DISCONNECTED')
    assert is_on_top(page, '#estop') and page.is_disabled('#hold')
    page.keyboard.press('Escape')
    wait_text(page, '#estop', 'NOT SENT')
    console.set_parameters([console_port(url)])
    console.trigger_cleanup()
    assert console.trigger_configure() == console.trigger_activate()
    assert console.url == url
    wait_text(page, '#link', 'connected')
    wait_text(page, '#control', 'Take control')  # view-only again
    page.wait_for_selector('#motion[data-state=ok]')
    assert fake.requests == []


def console_port(url):
    from rclpy.parameter import Parameter

    return Parameter('port', value=int(url.rpartition(':')[2]))


def test_a_node_that_is_lost_is_named(fake, open_page):
    page = open_page()
    for _ in range(5):  # the first may come before the console is known as a subscriber
        fake.report_health('description')
        time.sleep(0.2)
    assert 'LOST' not in page.text_content('#banners')
    wait_text(page, '#banners', 'DESCRIPTION LOST')
    wait_text(page, '#banners', 'silent for')
    fake.report_health('description')
    page.wait_for_function(
        '() => !document.querySelector("#banners").textContent.includes("LOST")'
    )


def test_the_page_names_the_namespace_of_its_robot(ros_domain, browser):
    context = rclpy.Context()
    rclpy.init(
        context=context,
        args=[
            *('--ros-args', '-r', '__ns:=/robot_1/wam'),
            *('-p', 'robot_namespace:=robot_1', '-p', 'port:=0'),
        ],
    )
    node = ConsoleNode(context=context)
    spinning = ExecutorThread([node])
    try:
        assert node.trigger_configure() == node.trigger_activate()
        with browser.new_context(viewport=SIZE) as tab:
            tab.set_default_timeout(TIMEOUT_MS)
            page = tab.new_page()
            page.goto(node.url)
            wait_text(page, '#robot', 'robot_1: AgiBot G1')
            assert page.title() == "robot_1: agibot_g1: operator's page"
    finally:
        spinning.stop()
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_dry_run_and_untrained_weights_cannot_be_overlooked(fake, open_page):
    fake.policy.trained, fake.policy.model = False, 'UNTRAINED tiny'
    fake.motion.dry_run = True
    fake.on_estop()
    fake.requests.clear()
    page = open_page()
    for words in ('UNTRAINED', 'DRY RUN', 'E-STOPPED'):
        wait_text(page, '#banners', words)
        banner = page.locator('#banners > p', has_text=words).bounding_box()
        assert banner['width'] > 0.3 * SIZE['width'] and banner['height'] >= 30
    for tab in ('overview', 'imagination', 'joints', 'checks'):
        press(page, f'[data-tab={tab}]')
        scrolled = page.evaluate(
            """[document.documentElement, document.body, ...document.querySelectorAll('main *')]
               .filter((each) => getComputedStyle(each).overflow !== 'hidden'
                 && (each.scrollHeight > each.clientHeight + 1 && each.clientHeight > 0)
                 && ['auto', 'scroll'].includes(getComputedStyle(each).overflowY))
               .map((each) => each.id || each.className)"""
        )
        assert scrolled == [] and is_on_top(page, '#estop')
        assert page.evaluate('document.documentElement.scrollHeight') <= SIZE['height']


def test_predicted_video_is_subscribed_to_only_while_its_panel_is_open(fake, open_page):
    page = open_page()
    wait_text(page, '#scene-age', 'joints')
    assert not fake.watches_video
    press(page, '[data-tab=imagination]')
    wait(lambda: fake.watches_video)
    # one imagined view above its real camera for each, cut out of the canvas of all
    page.wait_for_function(
        """(names) => {
          const views = [...document.querySelectorAll('.view')];
          return views.length === names.length && views.every((view, i) =>
            view.children[0].textContent === names[i].replaceAll('_', ' ')
            && view.children[1].width === 320 && view.children[2].width === 320);
        }""",
        arg=[camera.key for camera in fake.robot.cameras],
    )
    shades = page.evaluate(
        """[...document.querySelectorAll('.view')].map((view) =>
             view.children[1].getContext('2d').getImageData(160, 120, 1, 1).data[0])"""
    )
    assert np.abs(np.array(shades) - [40, 120, 180]).max() < 12
    fake.policy.view_layout = ''
    try:
        wait_text(page, '#views', 'all cameras')
    finally:
        fake.policy.view_layout = 'head_beside_hands'
    press(page, '[data-tab=overview]')
    wait(lambda: not fake.watches_video)
    assert fake.watches_images
    page.context.close()
    wait(lambda: not fake.watches_images)


def test_the_robot_is_drawn(console, fake, launch_browser):
    browser = launch_browser(*SOFTWARE_GL_FLAGS)
    try:
        page, errors = browser.new_page(viewport={'width': 1100, 'height': 560}), []
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('console', lambda msg: msg.type == 'error' and errors.append(msg.text))
        page.goto(console.url)
        wait_text(page, '#scene-age', 'old')
        shades = page.evaluate(DRAWN_SHADES)
        assert shades > 200 and errors == []
    finally:
        browser.close()


def wait(condition, timeout_s=30.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)
