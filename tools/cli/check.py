"""`./wam check DIR`: what a checkpoint folder is, lacks, needs and can drive."""

from typing import NoReturn

from cli import exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the check."""
    exec_module.exec_module('wam_policy.model.checkpoint.inspect_checkpoint', arguments)
