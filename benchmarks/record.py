"""Show measurements as tables, and write them with their provenance."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wam_policy.command_line import CommandParser
from wam_policy.provenance import collect_provenance


def make_parser(
    description: str | None, report: str = '--json', *, required: bool = False
) -> CommandParser:
    """Return a parser with an option for the file of the results."""
    parser = CommandParser(description=description)
    text = 'write the results to FILE'
    parser.add_argument(report, type=Path, metavar='FILE', required=required, help=text)
    return parser


def show(
    path: Path | None,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] = (),
    **about: Any,
) -> None:
    """Print a table of `columns`, by default of all; write all to `path`, if one is given."""
    print(format_table(rows, columns or list(rows[0])))
    write_report(path, {**about, 'rows': rows})


def write_report(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write figures and their provenance as JSON, if a file is given."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**collect_provenance(), **content}, indent=1) + '\n')


def summarize_range(values: Iterable[float]) -> dict[str, float]:
    """Return median, least and most."""
    ordered = sorted(values)
    return {'median': statistics.median(ordered), 'low': ordered[0], 'high': ordered[-1]}


def format_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Format rows as a table with aligned columns."""
    cells = [[str(row.get(name, '')) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [columns, *cells]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
