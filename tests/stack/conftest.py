"""Give the tests of this folder the fixtures that start nodes and whole stacks."""

from tests.stack_fixtures import arms, isolate_ros_domain, launched, started, watching

__all__ = ['arms', 'isolate_ros_domain', 'launched', 'started', 'watching']
