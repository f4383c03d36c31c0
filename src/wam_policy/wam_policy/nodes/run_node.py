"""How a node lives as a program: one executor, one way out, exit status 0 on Ctrl-C.

The signal ends the node first and the ROS context last. rclpy's own handler does it the other way
round, and then whatever still publishes fails. An end that does not come is forced.
"""

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import rclpy
from rclpy.experimental import EventsExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

SIGNAL_POLL_S = 0.05  # how late a signal may be seen
SHUTDOWN_TIMEOUT_S = 8.0  # launch kills after 10 s: before that, the stacks tell what hangs


def freeze_gc() -> None:
    """Keep what lives now out of later collections, which stop every thread of the process.

    A node is 85,000 objects, most of them imported code: walking them took 50 ms on a slow core,
    and with others on it longer than joint states may be missing.
    """
    gc.collect()
    gc.freeze()


class ExecutorThread:
    """Spin nodes in one thread of their own and keep what went wrong in it.

    EventsExecutor: rclpy's multi-threaded one wakes up late and spins on Jazzy.
    """

    def __init__(self, nodes: Sequence[Node], on_exit: Callable[[], None] = lambda: None) -> None:
        self._executor = EventsExecutor(context=nodes[0].context)
        for node in nodes:
            self._executor.add_node(node)
        self._on_exit = on_exit
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name='executor')
        self._thread.start()

    def stop(self) -> None:
        """End the spinning and raise what ended it before, if anything did."""
        self._executor.shutdown(timeout_sec=0)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._executor.spin()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that stops
            self._error = error
        finally:
            self._on_exit()


def run_node(
    make_node: Callable[[], Node],
    args: list[str] | None = None,
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
) -> NoReturn:
    """Run the node that `make` returns until a signal comes, then `close` it.

    What has not ended `ending_s` later is stuck: every thread's stack goes to stderr and the
    process leaves with status 1. A node that has ended leaves at once, with status 0: what is left
    is taking an interpreter and a middleware apart, which can take seconds on a busy machine.
    """
    # Neither an Event nor a blocking wait: a signal in the middle of an Event's `wait` or `set`
    # waits for itself in `set`, and one just before a wait begins wakes nobody.
    asked: list[object] = []

    def request_shutdown(*reason: object) -> None:
        asked.append(reason)
        if len(asked) == 1:  # impatience does not put it off
            faulthandler.dump_traceback_later(shutdown_timeout_s, exit=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_shutdown)
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = make_node()
    freeze_gc()
    spinning = ExecutorThread([node], request_shutdown)
    try:
        while not asked:
            time.sleep(SIGNAL_POLL_S)
        spinning.stop()
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
        # Ctrl-C reaches a launched node twice, and an ending interpreter would die of the second
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
