"""`./wam recipe --out DIR`: make wam-mini again, from nothing."""

from typing import NoReturn

from cli import program


def main(arguments: list[str]) -> NoReturn:
    """Become the recipe."""
    program.become('wam_policy.learn.recipe', arguments)
