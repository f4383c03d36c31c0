"""`./wam export BAGS... OUT`: turn episodes into a data set."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the export."""
    exec_module.exec_module('wam_learning.data.export_dataset', arguments)
