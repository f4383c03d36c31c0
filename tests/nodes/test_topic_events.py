"""Events of topics are told, and destroying what they are about ends no process."""

import subprocess
import sys
import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from wam_policy.nodes import topic_events
from wam_policy.nodes.run_node import ExecutorThread

pytestmark = [pytest.mark.ros, pytest.mark.timeout(60)]
# An event comes after the node has asked for the removal of a subscription and before the executor
# has removed it: a publisher of other QoS appears in the callback that destroys it.
DESTROY = """
import os, threading, time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from wam_policy.nodes.run_node import ExecutorThread

rclpy.init()
node, other = rclpy.create_node('inputs'), rclpy.create_node('other')
subscription = node.create_subscription(String, 'words', print, QoSProfile(depth=1))
other_qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
destroyed, went_on = threading.Event(), threading.Event()

def on_timer():
    if destroyed.is_set():
        went_on.set()
        return
    node.destroy_subscription(subscription)
    other.create_publisher(String, 'words', other_qos)
    time.sleep(0.5)
    destroyed.set()

node.create_timer(0.1, on_timer)
ExecutorThread([node])
assert went_on.wait(20)
os._exit(0)
"""


def test_destroying_a_subscription_ends_no_process_when_an_event_is_queued(ros_domain):
    ended = subprocess.run(
        [sys.executable, '-c', DESTROY], capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_events_are_told_once_each_and_none_is_missed(ros_domain, monkeypatch):
    monkeypatch.setattr(topic_events, 'POLL_PERIOD_S', 0.05)
    context = rclpy.Context()
    rclpy.init(context=context)
    node, other = (rclpy.create_node(name, context=context) for name in ('inputs', 'other'))
    events = []
    node.create_subscription(
        String,
        'words',
        print,
        QoSProfile(depth=1),
        event_callbacks=SubscriptionEventCallbacks(incompatible_qos=events.append),
    )
    spinning = ExecutorThread([node])
    try:
        for count in (1, 2):
            best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            other.create_publisher(String, 'words', best_effort)
            end_s = time.monotonic() + 20
            while len(events) < count and time.monotonic() < end_s:
                time.sleep(0.02)
        time.sleep(0.3)  # several polls without news
    finally:
        spinning.stop()
        for each in (node, other):
            each.destroy_node()
        rclpy.shutdown(context=context)
    assert [each.total_count for each in events] == [1, 2]
    assert [each.total_count_change for each in events] == [1, 1]
