"""`./wam check DIR`: what a checkpoint folder is, lacks, needs and can drive."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the check."""
    program.become('wam_policy.model.check', arguments)
