"""What holds for all tests: those marked slow run only when asked for, and say so otherwise."""

import importlib.util

import pytest

# torch's compiler brings an LLVM, the simulator's off-screen OpenGL another. Only tests have both in
# one process, and there the compiler's must be loaded first: loaded second, it crashes.
if importlib.util.find_spec('triton'):
    import triton  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--slow', action='store_true', help='also run the tests marked slow')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption('--slow'):
        return
    skipped = pytest.mark.skip(reason='takes more than ten seconds: ./wam test --slow runs it')
    for item in items:
        if 'slow' in item.keywords:
            item.add_marker(skipped)
