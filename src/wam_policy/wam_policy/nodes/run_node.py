"""Run a node as a program: one executor, one shutdown path, exit status 0 on Ctrl-C.

A signal closes the node first and the ROS context last. rclpy's own handler does it in the other
order, and then whatever still publishes fails. A shutdown that takes too long is forced. What a
callback raises is recorded by the node's guard and does not end the process, except NodeFailure.
"""

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol, runtime_checkable

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_default_context

from wam_policy.nodes import topic_events
from wam_policy.nodes.callback_guard import CallbackGuard
from wam_policy.nodes.sole_node import ALREADY_RUNNING, find_running_node

IS_SOLE_NODE = 'is the only node of its name'  # what the launch files look for
SIGNAL_POLL_S = 0.05  # how late a signal may be seen
SHUTDOWN_TIMEOUT_S = 8.0  # launch kills after 10 s: before that, print what hangs


@runtime_checkable
class RunnableNode(Protocol):
    """Describe what a node has that `run_node` runs."""

    guard: CallbackGuard  # records what callbacks raise

    def close(self) -> None:
        """Come to rest and end threads and processes; the node is of no use afterwards."""


def freeze_gc() -> None:
    """Exclude all present objects from later collections, which stop every thread of the process.

    A node is 85,000 objects, most of them imported code: walking them took 50 ms on a slow core,
    and with others on it longer than joint states may be missing.
    """
    gc.collect()
    gc.freeze()


class NodeFailure(RuntimeError):
    """Raised in a callback of a node that cannot do its work any more: it ends with status 1."""


class ExecutorThread:
    """Spin nodes in a separate thread and store the exception that ended it.

    Uses EventsExecutor: on Jazzy, rclpy's multi-threaded executor wakes up late and busy-waits.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        on_exit: Callable[[], None] = lambda: None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """Start; with `on_error`, what callbacks raise goes there and spinning goes on."""
        self._context, self._on_error = nodes[0].context, on_error
        self._executor = EventsExecutor(context=nodes[0].context)
        for node in nodes:
            topic_events.add_node(self._executor, node)
            node.create_timer(
                topic_events.POLL_PERIOD_S,
                partial(topic_events.poll_topic_events, node),
                clock=Clock(clock_type=ClockType.STEADY_TIME),
            )
        self._on_exit = on_exit
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name='executor')
        self._thread.start()

    def stop(self) -> None:
        """Stop the executor; raise the exception that ended it before, if there was one."""
        self._executor.shutdown(timeout_sec=0)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._spin_until_error():
                pass
        except Exception as error:  # noqa: BLE001 - raised again in the thread that stops
            self._error = error
        finally:
            self._on_exit()

    def _spin_until_error(self) -> bool:
        """Return True when the executor was stopped, False after an exception that is handled."""
        try:
            self._executor.spin()
        except NodeFailure:
            raise
        except Exception as error:  # noqa: BLE001 - handled by the guard of the node
            if self._on_error is None or not self._context.ok():
                raise
            self._on_error(error)
            return False
        return True


def _exit_if_running(name: str, stop: Callable[[], bool]) -> str:
    """Return the full name of the node to be made; exit where another one has it."""
    full_name, is_running = find_running_node(name, stop)
    if is_running:
        sys.stderr.write(
            f'{full_name}: another node of this name answers in ROS domain '
            f'{get_default_context().get_domain_id()}: a stack is running already and is left '
            'alone. Stop it, or choose another ROS_DOMAIN_ID; another namespace only for another '
            'robot\n'
        )
        sys.stderr.flush()
        os._exit(ALREADY_RUNNING)
    return full_name


def _announce(full_name: str) -> None:
    """Say that requests are taken from now on."""
    sys.stdout.write(f'{full_name} {IS_SOLE_NODE}\n')
    sys.stdout.flush()


def _check_runnable(node: Any) -> None:
    if not isinstance(node, RunnableNode):
        raise TypeError(f'{type(node).__name__} lacks what run_node needs: guard and close()')


def run_node(
    make_node: Callable[[], Any],
    name: str,
    args: list[str] | None = None,
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
    may_exit: Callable[[Any], bool] | None = None,
    take_over: Callable[[Any], bool] | None = None,
) -> NoReturn:
    """Run the node that `make_node` returns until SIGINT or SIGTERM, then close it and exit.

    The node has `close()` and, as `guard`, the CallbackGuard that records what callbacks raise.
    `name` is the node's own, before remapping. Where another node of that name answers in this ROS
    domain, none is made and the process exits with ALREADY_RUNNING. Otherwise one line on stdout
    says that requests are taken from now on; the launch waits for its IS_SOLE_NODE.
    With `may_exit` the node goes on after the signal until `may_exit(node)` is true. With
    `take_over`, SIGUSR1 calls it: where `take_over(node)` is true, the node is as just started.

    If closing takes longer than `shutdown_timeout_s`, every thread's stack is printed to stderr
    and the process exits with status 1. After a complete shutdown it exits at once with status 0:
    finalizing the interpreter and the middleware can take seconds on a busy machine.
    """
    # Neither an Event nor a blocking wait: a signal in the middle of an Event's `wait` or `set`
    # waits for itself in `set`, and one just before a wait begins does not end it.
    end_reasons: list[object] = []
    takeovers: list[object] = []

    def request_shutdown(*reason: object) -> None:
        end_reasons.append(reason)
        if len(end_reasons) == 1 and may_exit is None:  # further signals do not postpone it
            faulthandler.dump_traceback_later(shutdown_timeout_s, exit=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_shutdown)
    if take_over is not None:
        signal.signal(signal.SIGUSR1, lambda *received: takeovers.append(received))
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    full_name = _exit_if_running(name, lambda: bool(end_reasons))
    if end_reasons:  # before there was a node: others may not have been looked for long enough
        os._exit(0)
    node = make_node()
    _check_runnable(node)
    freeze_gc()
    spinning = ExecutorThread([node], request_shutdown, node.guard.record)
    _announce(full_name)
    try:
        while not end_reasons or (may_exit is not None and not may_exit(node)):
            time.sleep(SIGNAL_POLL_S)
            if take_over is not None and takeovers:
                takeovers.clear()
                if take_over(node):
                    end_reasons.clear()
                    _announce(full_name)
        if may_exit is not None:
            faulthandler.dump_traceback_later(shutdown_timeout_s, exit=True)
        spinning.stop()
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
        # Ctrl-C reaches a launched node twice; the second would kill the ending interpreter
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
