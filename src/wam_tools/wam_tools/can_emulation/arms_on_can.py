"""Two YAM arms on an emulated CAN bus, and one launch after another that drives them.

The motors and the driver are doubles; the launch, the nodes and the starter of stream_node are the
real ones, so that each of them can be killed in motion.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from std_srvs.srv import Trigger

from wam_policy.core.robot.embodiment import load_embodiment
from wam_tools.can_emulation.can_bus import EmulatedCanBus
from wam_tools.can_emulation.dm_motors import ENABLED, LOST_COMMUNICATION
from wam_tools.can_emulation.move_sender import MoveSender

CHANNELS = ('can_follower_l', 'can_follower_r')
DRIVER_FOLDER = Path(__file__).with_name('driver')
OFFSET = np.array([0.3, 0.5, 0.5, 0.2, 0.2, 0.2] * 2 + [-0.3] * 2)
MAX_SPEED_RAD_S = 1.0  # of moves that are planned at up to 0.4 rad/s
MOTORS_PER_ARM = 7
ANSWER_S, DISCOVERY_S = 5.0, 1.0
MOVE_ATTEMPTS, MOVE_TIMEOUT_S = 4, 10.0


class ArmsOnCan:
    """Start launches on the emulated bus, send moves, and look at the motors."""

    def __init__(self, folder: Path, context: Context, domain_id: int | None = None) -> None:
        """Logs and sockets go to `folder`; `domain_id` None: that of the environment."""
        self.bus = EmulatedCanBus(folder, CHANNELS)
        self.bench = MoveSender(context, load_embodiment('yam'))
        self.wait = self.bench.wait
        self._folder = folder
        modules = (str(DRIVER_FOLDER), os.environ.get('PYTHONPATH', ''))
        self._env = os.environ | {
            'WAM_EMULATED_CAN': str(folder),
            'ROS_HOME': str(folder),
            'PYTHONPATH': os.pathsep.join(modules),
            'PYTHONUNBUFFERED': '1',
        }
        if domain_id is not None:
            self._env['ROS_DOMAIN_ID'] = str(domain_id)
        self.launches: list[tuple[subprocess.Popen, Path]] = []
        self.stream: psutil.Process | None = None

    def launch(self, *arguments: str) -> subprocess.Popen:
        """Start a launch without a simulator."""
        log = self._folder / f'launch{len(self.launches)}.log'
        command = ('ros2', 'launch', 'wam_bringup', 'yam.launch.py', 'sim:=false', *arguments)
        with log.open('wb') as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        self.launches.append((process, log))
        return process

    def read_log(self) -> str:
        """Return what the newest launch printed."""
        return self.launches[-1][1].read_text(errors='replace')

    def bring_up(self) -> subprocess.Popen:
        """Launch, and wait until stream and motion are active and the arms are held."""
        process = self.launch(
            'enable_motion:=true', 'record:=manual', 'backend:=remote', 'server:=ws://127.0.0.1:9'
        )
        self.wait(lambda: self.read_state('stream') == State.PRIMARY_STATE_ACTIVE, 90)
        self.wait(lambda: self.read_state('motion') == State.PRIMARY_STATE_ACTIVE, 60)
        self.wait(lambda: all(arm.holds for arm in self.bus.states()))
        self.stream = self.find_process('stream.stream_node', list(psutil.process_iter()))
        for name in CHANNELS:
            self.bus.call(name, 'forget_speed')
        return process

    def find_process(
        self, words: str, among: list[psutil.Process] | None = None
    ) -> psutil.Process:
        """Return the process of the launch (or `among`) whose command line has `words`."""
        launched = self.launches[-1][0].pid
        for process in among or psutil.Process(launched).children(recursive=True):
            try:
                if words in ' '.join(process.cmdline()) and self._is_own(process):
                    return process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        raise AssertionError(f'no process {words} of these arms')

    def _is_own(self, process: psutil.Process) -> bool:
        return process.environ().get('WAM_EMULATED_CAN') == str(self._folder)

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service; return its answer, None without one."""
        client = self.bench.node.create_client(kind, name)
        try:
            if not client.wait_for_service(DISCOVERY_S):
                return None
            future = client.call_async(request)
            end_s = time.monotonic() + ANSWER_S
            while not future.done() and time.monotonic() < end_s:
                time.sleep(0.01)
            return future.result() if future.done() else None
        finally:
            self.bench.node.destroy_client(client)

    def read_state(self, node: str) -> int | None:
        """Return the lifecycle state of a node; None if it does not answer."""
        answer = self.call(GetState, f'/wam/{node}/get_state', GetState.Request())
        return answer and answer.current_state.id

    def start_moving(self) -> None:
        """Send both arms on a way of three seconds; return once they are on it.

        Send it again where it was refused because a busy machine planned it too slowly.
        """
        self.wait(lambda: self.bench.joint_states)
        before = self.bus.states()

        def is_moving() -> bool:
            return all(
                abs(arm.position[1] - start.position[1]) > 0.05
                for arm, start in zip(self.bus.states(), before, strict=True)
            )

        for attempt in range(MOVE_ATTEMPTS):
            sign = 1.0 if self.bench.positions[1] < 0.6 else -1.0
            self.bench.move(sign * OFFSET, rows=90)
            try:
                self.wait(is_moving, MOVE_TIMEOUT_S)
            except AssertionError:
                if attempt + 1 == MOVE_ATTEMPTS:
                    raise
            else:
                return

    def are_at_rest(self) -> bool:
        """Tell whether no motor moves."""
        return all(max(map(abs, arm.velocity)) < 0.02 for arm in self.bus.states())

    def wait_rest(self) -> None:
        self.wait(self.are_at_rest)

    def find_faults(self) -> list[str]:
        """Return which arm lost torque since `forget_errors`, or moved too fast."""
        found = []
        for name, arm in zip(CHANNELS, self.bus.states(), strict=True):
            if not arm.holds or {code for codes in arm.errors for code in codes} - {ENABLED}:
                found.append(f'{name} lost torque: {arm.errors}')
            if arm.max_speed >= MAX_SPEED_RAD_S:
                found.append(f'{name} moved at {arm.max_speed:.2f} rad/s')
        return found

    def check_held(self) -> None:
        """Check that every motor has had torque since it was enabled, and did not jump."""
        assert not self.find_faults(), self.find_faults()

    def have_lost_torque(self) -> bool:
        return all(
            arm.errors == [[ENABLED, LOST_COMMUNICATION]] * MOTORS_PER_ARM
            for arm in self.bus.states()
        )

    def end_command_thread(self, channel: str) -> None:
        """End the driver's thread that turns commands into frames, as an error in it does."""
        (self._folder / f'{channel}.end_commands').touch()

    def release(self) -> Any:
        """Ask for the arms' release until they rest; return the last answer."""

        def is_released() -> Any:
            answer = self.call(Trigger, '/wam/stream/release', Trigger.Request())
            return answer and answer.success and answer

        return self.wait(is_released)

    def close(self) -> None:
        """Kill every process that these arms started."""
        for process, _ in self.launches:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and self._is_own(process):
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
