"""Every value of a robot's folder is read by code that acts on it, not only by the parser.

StrictMapping refuses keys that the parser does not read. What it reads ends in a field of a
dataclass: here each field must be read outside the parser. The vendor block goes to the driver as
it stands; tests/nodes/stream/test_vendor_values.py traces it.
"""

import ast
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from wam_policy.core.robot import embodiment, safety_limits

SRC = Path(embodiment.__file__).resolve().parents[4]
PARSERS = ('from_mapping', '_parse_')
RECORDS = [
    record
    for module in (embodiment, safety_limits)
    for record in vars(module).values()
    if dataclasses.is_dataclass(record) and record.__module__ == module.__name__
]


def find_reads(tree: ast.AST) -> Iterator[str]:
    """Yield what is read as an attribute, or named for getattr, outside of parsers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith(PARSERS):
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        yield from find_reads(node)


def find_unread_fields(record: type, sources: Iterable[str]) -> list[str]:
    read = {name for source in sources for name in find_reads(ast.parse(source))}
    return [field.name for field in dataclasses.fields(record) if field.name not in read]


@pytest.fixture(scope='module')
def sources() -> list[str]:
    return [path.read_text(encoding='utf-8') for path in sorted(SRC.glob('*/*/**/*.py'))]


@pytest.mark.parametrize('record', RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_a_robots_description_is_used(record, sources):
    assert len(sources) > 100  # of the whole stack
    assert find_unread_fields(record, sources) == []


def test_a_number_that_only_the_parser_reads_is_found():
    @dataclasses.dataclass
    class Config:
        hold_s: float
        used_s: float

    parser = 'def from_mapping(m):\n    return m.hold_s, m.used_s\n'
    assert find_unread_fields(Config, [parser, 'x = config.used_s']) == ['hold_s']
    assert find_unread_fields(Config, ['config.hold_s = 1.0', 'x = config.used_s']) == ['hold_s']
