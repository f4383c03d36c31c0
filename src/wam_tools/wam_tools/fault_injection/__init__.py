"""Faults injected into real processes, and what the robot does about them: `./wam faults`."""
