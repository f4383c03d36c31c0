"""Write the C headers of the interface packages that this prefix holds only as binaries.

Runs under the virtual environment's Python with the prefix on PYTHONPATH: `headers.py PREFIX`.
"""

import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

# What an interface package of this project, or of a lab that builds beside it, is made of.
INTERFACE_PACKAGES = (
    'action_msgs',
    'builtin_interfaces',
    'diagnostic_msgs',
    'geometry_msgs',
    'lifecycle_msgs',
    'rcl_interfaces',
    'sensor_msgs',
    'service_msgs',
    'std_msgs',
    'std_srvs',
    'trajectory_msgs',
    'type_description_interfaces',
    'unique_identifier_msgs',
)
# The headers alone: the code they declare is in the prefix's libraries already.
TEMPLATES = {
    'rosidl_generator_c': {
        'idl.h.em': '%s.h',
        'idl__functions.h.em': 'detail/%s__functions.h',
        'idl__struct.h.em': 'detail/%s__struct.h',
        'idl__type_support.h.em': 'detail/%s__type_support.h',
    },
    'rosidl_typesupport_introspection_c': {
        'idl__rosidl_typesupport_introspection_c.h.em': (
            'detail/%s__rosidl_typesupport_introspection_c.h'
        ),
    },
}


def output_folder(prefix: Path, package: str) -> Path:
    """Name the folder that Jazzy gives the headers of `package`."""
    return prefix / 'include' / package / package


def write_visibility(prefix: Path, package: str) -> None:
    """Write the export macros of `package`, one header per generator."""
    for generator in TEMPLATES:
        name = f'{generator}__visibility_control.h'
        text = (prefix / 'share' / generator / 'resource' / f'{name}.in').read_text()
        text = text.replace('@PROJECT_NAME@', package)
        text = text.replace('@PROJECT_NAME_UPPER@', package.upper())
        target = output_folder(prefix, package) / 'msg' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def write_interface(prefix: Path, package: str, idl: str) -> None:
    """Write the headers of one interface; `idl` is its path below `share/<package>`."""
    import rosidl_pycommon

    share = prefix / 'share'
    for generator, templates in TEMPLATES.items():
        arguments = {
            'package_name': package,
            'output_dir': str(output_folder(prefix, package)),
            'template_dir': str(share / generator / 'resource'),
            'idl_tuples': [f'{share / package}:{idl}'],
            'type_description_tuples': [f'{idl}:{(share / package / idl).with_suffix(".json")}'],
            'target_dependencies': [],
        }
        with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
            json.dump(arguments, file)
            file.flush()
            rosidl_pycommon.generate_files(file.name, templates)


def cache_idl_parsing() -> None:
    """Let both generators share one parse of each interface: parsing is most of the time."""
    import rosidl_pycommon

    parse = rosidl_pycommon.parse_idl_file
    parsed = {}

    def parse_cached(locator: Any) -> Any:
        path = locator.get_absolute_path()
        if path not in parsed:
            parsed[path] = parse(locator)
        return parsed[path]

    rosidl_pycommon.parse_idl_file = parse_cached


def write_runtime_descriptions(prefix: Path) -> None:
    """Write rosidl_runtime_c/type_description/: the same structs under the runtime's names."""
    source = output_folder(prefix, 'type_description_interfaces') / 'msg' / 'detail'
    target = output_folder(prefix, 'rosidl_runtime_c') / 'type_description'
    target.mkdir(parents=True, exist_ok=True)
    for header in source.glob('*__struct.h'):
        text = header.read_text()
        text = text.replace(
            'type_description_interfaces/msg/detail/', 'rosidl_runtime_c/type_description/'
        )
        text = text.replace(
            'type_description_interfaces__msg__', 'rosidl_runtime_c__type_description__'
        )
        text = text.replace(
            'TYPE_DESCRIPTION_INTERFACES__MSG__DETAIL__', 'ROSIDL_RUNTIME_C__TYPE_DESCRIPTION__'
        )
        (target / header.name).write_text(text)


def main(prefix: Path) -> None:
    """Write all headers, as many processes as there are cores."""
    jobs = []
    for package in INTERFACE_PACKAGES:
        write_visibility(prefix, package)
        share = prefix / 'share' / package
        jobs += [(package, str(idl.relative_to(share))) for idl in sorted(share.rglob('*.idl'))]
    with ProcessPoolExecutor(initializer=cache_idl_parsing) as pool:
        for done in [pool.submit(write_interface, prefix, *job) for job in jobs]:
            done.result()
    write_runtime_descriptions(prefix)


if __name__ == '__main__':
    main(Path(sys.argv[1]).resolve())
