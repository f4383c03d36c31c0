"""Reports of evaluations that are made in parts: an interrupted command continues its own."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wam_learning.evaluation import evaluate


def get_settings(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the options that must be the same for parts to stand in one report, as JSON has them.

    The checkpoint is its folder's name.
    """
    found = {name: getattr(options, name) for name in names}
    return found | {
        'checkpoint': Path(options.checkpoint).name,
        'families': list(options.families),
    }


def read_earlier(path: Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report that `path` has, {} if there is none.

    Raise ValueError if it is not such a report or has other settings.
    """
    if path is None or not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f'{path} is not a report of this command: name another --report')
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f'{path} has {name} {found.get(name)!r}, asked for {value!r}: name another '
                '--report, or repeat its settings to continue it'
            )
    return found


def print_table(
    command: str,
    options: argparse.Namespace,
    run: Callable[[argparse.Namespace], dict[str, Any]],
    format_report: Callable[[Mapping[str, Any]], str],
) -> int:
    """Run, write --report as JSON and Markdown, print the Markdown; return the exit status."""
    try:
        report = run(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f'{command}: {error}\n')
        return 1
    except KeyboardInterrupt:
        return 130
    text = format_report(report)
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + '\n')
        options.report.with_suffix('.md').write_text(text + '\n')
    evaluate.print_flushed(text)
    return 0
