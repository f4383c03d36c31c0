"""How measurements are written down, with the circumstances they were taken under."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wam_policy.provenance import collect_provenance


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures with their circumstances."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**collect_provenance(), **content}, indent=1) + '\n')


def format_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Lay rows out in columns as wide as what is in them."""
    cells = [[str(row.get(name, '')) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [columns, *cells]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
