"""Give the tests of this folder the fixtures that start nodes and whole stacks."""

from tests.stack_fixtures import apart, launched, started, watching

__all__ = ['apart', 'launched', 'started', 'watching']
