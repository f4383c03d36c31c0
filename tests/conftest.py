"""What holds for all tests: those marked slow run only when asked for, and say so otherwise."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--slow', action='store_true', help='also run the tests marked slow')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption('--slow'):
        return
    skipped = pytest.mark.skip(reason='takes more than ten seconds: ./wam test --slow runs it')
    for item in items:
        if 'slow' in item.keywords:
            item.add_marker(skipped)
