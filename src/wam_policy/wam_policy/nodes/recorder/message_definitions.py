"""The text of message types, as a bag carries it so that readers need nothing of ours."""

import json
import re
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

SEPARATOR = '=' * 80
FIELD_PATTERN = re.compile(
    r'^\s*([A-Za-z]\w*(?:/\w+)?)(?:<=\d+)?(?:\[[^\]]*\])?\s+[a-z]\w*', re.MULTILINE
)
PRIMITIVE_TYPES = frozenset(
    (
        'bool',
        'byte',
        'char',
        'string',
        'wstring',
        *(f'{kind}{bits}' for kind in ('int', 'uint', 'float') for bits in (8, 16, 32, 64)),
    )
)


def load_definition(type_name: str) -> str:
    """Return the text of `package/msg/Name` and of every type in it, in the ros2msg format."""
    pending, texts = [type_name], {}
    while pending:
        name = pending.pop(0)
        if name in texts:
            continue
        texts[name] = _find_interface_file(name, '.msg').read_text(encoding='utf-8')
        package = name.split('/')[0]
        pending += [
            _qualify_type_name(found[1], package)
            for found in FIELD_PATTERN.finditer(texts[name])
            if found[1] not in PRIMITIVE_TYPES
        ]
    first, *others = texts.items()
    return first[1] + ''.join(
        f'\n{SEPARATOR}\nMSG: {name.replace("/msg/", "/")}\n{text}' for name, text in others
    )


def load_type_hash(type_name: str) -> str:
    """Return the hash by which DDS peers recognize the type (REP-2016)."""
    hashes = json.loads(_find_interface_file(type_name, '.json').read_text(encoding='utf-8'))[
        'type_hashes'
    ]
    return next(entry['hash_string'] for entry in hashes if entry['type_name'] == type_name)


def _qualify_type_name(name: str, package: str) -> str:
    owner, _, short = name.rpartition('/')
    return f'{owner or package}/msg/{short}'


def _find_interface_file(type_name: str, suffix: str) -> Path:
    package, folder, name = type_name.split('/')
    return Path(get_package_share_directory(package)) / folder / f'{name}{suffix}'
