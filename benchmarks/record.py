"""Show measurements as tables, and write them with their provenance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wam_policy.command_line import CommandParser
from wam_policy.provenance import collect_provenance


def make_parser(description: str | None) -> CommandParser:
    """Return a parser with the option --json."""
    parser = CommandParser(description=description)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the results to FILE')
    return parser


def show(
    path: Path | None,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] = (),
    **about: Any,
) -> None:
    """Print a table of `columns`, by default of all; write all to `path`, if one is given."""
    print(format_table(rows, columns or list(rows[0])))
    if path:
        write_report(path, {**about, 'rows': rows})


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures and their provenance as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**collect_provenance(), **content}, indent=1) + '\n')


def format_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Format rows as a table with aligned columns."""
    cells = [[str(row.get(name, '')) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [columns, *cells]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
