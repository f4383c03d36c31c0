"""Trim an assembled prefix to C, Python and introspection: what its headers can compile.

C++ and Fast DDS type support cannot be compiled without headers, so CMake must not find them.
"""

import re
from pathlib import Path

DISABLED_PACKAGES = (
    'rosidl_generator_cpp',
    'rosidl_generator_rs',
    'rosidl_typesupport_cpp',
    'rosidl_typesupport_introspection_cpp',
    'rosidl_typesupport_fastrtps_c',
    'rosidl_typesupport_fastrtps_cpp',
)
UNLISTED_RESOURCES = (
    ('rosidl_typesupport_c', 'rosidl_typesupport_fastrtps_c'),
    ('rosidl_generator_packages', 'rosidl_generator_cpp'),
    ('rosidl_generator_packages', 'rosidl_generator_rs'),
)
EXPORT_FILES = (
    'ament_cmake_export_dependencies',
    'ament_cmake_export_targets',
    'ament_cmake_export_libraries',
    'rosidl_cmake_export_typesupport_targets',
    'rosidl_cmake_export_typesupport_libraries',
)
_EXPORT = re.compile(r'(set\(_exported_\w+\s+")([^"]*)("\))')


def is_usable(item: str) -> bool:
    """Tell whether an exported package, target or library can be used in this prefix."""
    return item != 'rmw' and not any(
        word in item for word in ('fastcdr', 'fastrtps', 'cpp', 'rcpputils')
    )


def remove_unusable_exports(cmake: str) -> str:
    """Drop what cannot be used from the `set(_exported_... "a;b")` lists of a CMake file."""

    def keep_usable(match: re.Match[str]) -> str:
        kept = ';'.join(filter(is_usable, match[2].split(';')))
        return match[1] + kept + match[3]

    return _EXPORT.sub(keep_usable, cmake)


def hide_cpp_typesupport(prefix: Path) -> None:
    """Trim the whole prefix. Does nothing the second time."""
    index = prefix / 'share' / 'ament_index' / 'resource_index'
    for entry in (index / 'rosidl_typesupport_cpp').iterdir():
        entry.unlink()
    for kind, name in UNLISTED_RESOURCES:
        (index / kind / name).unlink(missing_ok=True)
    for package in DISABLED_PACKAGES:
        cmake = prefix / 'share' / package / 'cmake'
        if cmake.is_dir():
            cmake.rename(cmake.with_name('cmake.unused'))
    for extra in EXPORT_FILES:
        for file in prefix.glob(f'share/*/cmake/{extra}-extras.cmake'):
            file.write_text(remove_unusable_exports(file.read_text()))
