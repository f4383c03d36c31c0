"""Look for a running node of our name before ours exists: two of them would command one robot.

A node that was killed is still discovered for ten seconds, the lease of DDS. What counts is
therefore an answer: only a process that runs gives one, and a stack that was killed can be started
again at once.
"""

import time
from collections.abc import Callable

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

ALREADY_RUNNING = 3  # exit status of a node that found another one of its name
# Discovery on one host took 0.03 to 0.4 s, on one with a load of 12 on two cores, too.
DISCOVERY_S = 1.2  # how long to look for another node
ANSWER_S = 2.0  # in all, where one is discovered that has not answered yet
REPEAT_S = 0.5  # between two questions: the first may come before the way back is known
POLL_S = 0.02


def find_running_node(name: str, stop: Callable[[], bool] = lambda: False) -> tuple[str, bool]:
    """Return our full name in the default context, and whether another node answers to it.

    `name` is the node's own, before remapping. Blocks for DISCOVERY_S, at most ANSWER_S, or until
    `stop` returns true; longer where this process gets too little time for its polls, since the
    other one then answers late as well.
    """
    probe = rclpy.create_node(
        name,
        enable_rosout=False,
        start_parameter_services=False,
        parameter_overrides=[Parameter('start_type_description_service', value=False)],
    )
    executor = SingleThreadedExecutor()
    executor.add_node(probe)
    client = probe.create_client(GetParameters, '~/get_parameters')
    begin_s = requested_s = time.monotonic()
    answers, poll_count = [], 0
    try:
        while not stop():
            now_s = time.monotonic()
            is_discovered = client.service_is_ready()
            window_s = ANSWER_S if is_discovered else DISCOVERY_S
            if now_s - begin_s > window_s and poll_count * POLL_S > window_s:
                break
            poll_count += 1
            if is_discovered and (not answers or now_s - requested_s > REPEAT_S):
                requested_s = now_s
                answers.append(client.call_async(GetParameters.Request()))
            executor.spin_once(timeout_sec=POLL_S)
            if any(answer.done() for answer in answers):
                return probe.get_fully_qualified_name(), True
        return probe.get_fully_qualified_name(), False
    finally:
        executor.shutdown()
        probe.destroy_node()
