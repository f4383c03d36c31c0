"""`./wam synthetic DIR`: random weights in the layout of a released checkpoint."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the generator."""
    program.become('wam_policy.model.synthetic', arguments)
