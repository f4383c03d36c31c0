"""The text of message types, as a bag carries it so that readers need nothing of ours."""

import json
import re
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

SEPARATOR = '=' * 80
FIELD = re.compile(r'^\s*([A-Za-z]\w*(?:/\w+)?)(?:<=\d+)?(?:\[[^\]]*\])?\s+[a-z]\w*', re.MULTILINE)
PLAIN = frozenset(
    (
        'bool',
        'byte',
        'char',
        'string',
        'wstring',
        *(f'{kind}{bits}' for kind in ('int', 'uint', 'float') for bits in (8, 16, 32, 64)),
    )
)


def definition(kind: str) -> str:
    """Return the text of `package/msg/Name` and of every type in it, in the ros2msg format."""
    pending, texts = [kind], {}
    while pending:
        name = pending.pop(0)
        if name in texts:
            continue
        texts[name] = _file(name, '.msg').read_text(encoding='utf-8')
        package = name.split('/')[0]
        pending += [
            _full(found[1], package)
            for found in FIELD.finditer(texts[name])
            if found[1] not in PLAIN
        ]
    first, *others = texts.items()
    return first[1] + ''.join(
        f'\n{SEPARATOR}\nMSG: {name.replace("/msg/", "/")}\n{text}' for name, text in others
    )


def type_hash(kind: str) -> str:
    """Return the hash by which DDS peers recognise the type (REP-2016)."""
    hashes = json.loads(_file(kind, '.json').read_text(encoding='utf-8'))['type_hashes']
    return next(entry['hash_string'] for entry in hashes if entry['type_name'] == kind)


def _full(name: str, package: str) -> str:
    owner, _, short = name.rpartition('/')
    return f'{owner or package}/msg/{short}'


def _file(kind: str, suffix: str) -> Path:
    package, folder, name = kind.split('/')
    return Path(get_package_share_directory(package)) / folder / f'{name}{suffix}'
