"""`./wam faults`: faults injected into a running stack, and what the robot does about each."""

import os
from typing import NoReturn

from cli import domain, exec_module


def main(arguments: list[str]) -> NoReturn:
    """Become the injector, in a ROS domain where nobody hears what it spoils."""
    os.environ['ROS_DOMAIN_ID'] = str(domain.find_free_domain(os.getpid()))
    exec_module.exec_module('wam_tools.fault_injection.run_faults', arguments)
