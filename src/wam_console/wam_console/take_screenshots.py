"""Take the screenshots of the operator's page for the documents, from a simulated stack.

`python -m wam_console.take_screenshots DIR` in ./wam shell. Launches the stack four times: as it
is, stopped, as a dry run and with random weights, drives the page in headless Chromium as a person
would, and writes WebP images. Needs Chromium and the pinned playwright.
"""

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH_PX, HEIGHT_PX = 1400, 900
QUALITY = 82
DRAW_MS = 1500  # between drawings of the robot: this machine runs the policy, too
START_TIMEOUT_S = 240.0
PAGE_TIMEOUT_MS = 60_000
RUNNING_TIMEOUT_S = 180.0  # a busy machine seldom decodes predicted video
PAGE_PATTERN = re.compile(r"operator's page: (http://\S+)")
CHROMIUM_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = (
    '--no-sandbox',
    '--no-first-run',
    '--disable-background-networking',
    '--use-gl=angle',
    '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader',
)


@dataclass(frozen=True, slots=True)
class Photographer:
    """Take pictures of one open page."""

    page: Any
    folder: Path

    def take(self, name: str, *, in_control: bool = True) -> None:
        if in_control:
            self.take_control()
        image = Image.open(io.BytesIO(self.page.screenshot()))
        path = self.folder / f'{name}.webp'
        image.save(path, quality=QUALITY, method=6)
        print(f'{path}: {path.stat().st_size / 1000:.0f} kB', flush=True)

    def press(self, selector: str) -> None:
        self.page.dispatch_event(selector, 'click')

    def wait_for_text(self, selector: str, words: str) -> None:
        self.page.wait_for_function(
            '([selector, words]) => document.querySelector(selector).textContent.includes(words)',
            arg=[selector, words],
        )

    def take_control(self) -> None:
        """Take control unless this page has it: a page that was stuck has lost it."""
        if not self.page.query_selector('#control.mine'):
            self.press('#control')
            self.page.wait_for_selector('#control.mine')

    def start_task(self) -> None:
        """Send the task of the scene, after a stop that came by itself that of the next one."""
        self.take_control()
        self.wait_for_text('#simulation', 'cube')
        if 'STOP' in self.page.text_content('#motion'):
            self.press('#next')
            self.press('#reset')
            self.press('#confirm-yes')
            time.sleep(1.0)
        if 'DISABLED' in self.page.text_content('#motion'):
            self.press('#enable')
            self.press('#confirm-yes')
            time.sleep(1.0)
        # a page that was stuck may lose control between two steps: try again with the next state
        self.page.evaluate(
            """() => {
              const task = document.querySelector('#scene-task').textContent;
              document.querySelector('#text').value = task;
              document.querySelector('#instruct').requestSubmit();
            }"""
        )

    def wait_until_running(self, condition: str) -> None:
        """Wait until the policy runs and a condition of the page, in JavaScript, holds."""
        end_s = time.monotonic() + RUNNING_TIMEOUT_S
        while time.monotonic() < end_s:
            states = self.page.text_content('#policy') + self.page.text_content('#motion')
            if 'RUNNING' in states and 'silent' not in states and self.page.evaluate(condition):
                return
            if 'STOP' in states or 'DISABLED' in states or 'no instr' in states:
                self.start_task()
            time.sleep(0.3)
        raise TimeoutError(f'not within {RUNNING_TIMEOUT_S:g} s: {condition}; {states}')

    def show_theme(self, theme: str) -> None:
        self.page.evaluate('(theme) => { document.documentElement.dataset.theme = theme; }', theme)
        time.sleep(2.0)


@contextmanager
def run_stack(robot: str, *arguments: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Launch a stack; give the page's address and a function that kills the console alone."""
    log_path = Path(tempfile.mkstemp(prefix='wam-screenshots-', suffix='.log')[1])
    command = ['ros2', 'launch', 'wam_bringup', f'{robot}.launch.py', 'sim:=true', *arguments]
    with log_path.open('w') as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield (
            wait_for_page(process, log_path),
            lambda: kill_console(process.pid),
        )
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log_path.unlink()


def wait_for_page(process: subprocess.Popen, log_path: Path) -> str:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s and process.poll() is None:
        found = PAGE_PATTERN.search(log_path.read_text(errors='replace'))
        if found:
            return found[1]
        time.sleep(0.5)
    raise RuntimeError(f'no page: {log_path.read_text(errors="replace")[-2000:]}')


def kill_console(session: int) -> None:
    """Kill the console of one launch without a warning, as a crash would."""
    import psutil

    for child in psutil.Process(session).children(recursive=True):
        if any('console_node' in word for word in child.cmdline()):
            child.kill()


def photograph_running(photographer: Photographer, kill: Callable[[], None]) -> None:
    photographer.start_task()
    # the usual range needs ten blocks
    photographer.wait_until_running(
        "document.querySelector('#error-key').textContent.includes('–') && "
        "!document.querySelector('.stale')"
    )
    photographer.show_theme('dark')
    photographer.take('console_dark')
    photographer.show_theme('light')
    photographer.take('console_light')
    photographer.show_theme('dark')
    photographer.press('[data-tab=imagination]')
    photographer.wait_until_running(
        "document.querySelector('.view') && [...document.querySelectorAll('.view canvas')]"
        '.every((canvas) => canvas.width !== 300)'  # the width of a canvas that was not drawn
    )
    time.sleep(8.0)
    photographer.wait_until_running("!document.querySelector('.stale')")
    photographer.take('console_imagination')
    photographer.press('[data-tab=joints]')
    time.sleep(1.0)
    photographer.take('console_joints')


def photograph_stopped(photographer: Photographer, kill: Callable[[], None]) -> None:
    photographer.page.keyboard.press('Escape')
    photographer.wait_for_text('#estop', 'acknowledged')
    time.sleep(2.0)
    photographer.take('console_estopped', in_control=False)
    kill()
    photographer.wait_for_text('#banners', 'DISCONNECTED')
    time.sleep(3.0)
    photographer.take('console_disconnected', in_control=False)


def photograph_banner(words: str, name: str) -> Callable[[Photographer, Callable], None]:
    def photograph(photographer: Photographer, _: Callable[[], None]) -> None:
        photographer.start_task()
        photographer.wait_for_text('#banners', words)
        time.sleep(6.0)
        photographer.take(name, in_control=False)

    return photograph


SCENES: dict[str, tuple[tuple[str, ...], Callable[[Photographer, Callable], None]]] = {
    'running': ((), photograph_running),
    'stopped': ((), photograph_stopped),
    'dry_run': (('enable_motion:=false',), photograph_banner('DRY RUN', 'console_dry_run')),
    'untrained': (
        ('checkpoint:=preset:tiny',),
        photograph_banner('UNTRAINED', 'console_untrained'),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Take the screenshots of the operator's page")
    parser.add_argument('folder', type=Path)
    parser.add_argument('--robot', default='agibot_g1')
    parser.add_argument('--scenes', nargs='+', choices=list(SCENES), default=list(SCENES))
    options = parser.parse_args()
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        parser.error('no Chromium: apt-get install chromium')
    from playwright.sync_api import ViewportSize, sync_playwright

    options.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        for name in options.scenes:
            arguments, photograph = SCENES[name]
            recording = (
                'record:=manual',
                f'record_dir:={tempfile.mkdtemp(prefix="wam-screenshots-")}',
            )
            with run_stack(options.robot, *recording, *arguments) as (url, kill):
                browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
                page = browser.new_page(
                    viewport=ViewportSize(width=WIDTH_PX, height=HEIGHT_PX), color_scheme='dark'
                )
                page.set_default_timeout(PAGE_TIMEOUT_MS)
                page.goto(f'{url}/?draw_ms={DRAW_MS}')
                page.wait_for_selector('body[data-ready]')
                photograph(Photographer(page, options.folder), kill)
                browser.close()
    return 0


if __name__ == '__main__':
    sys.exit(main())
