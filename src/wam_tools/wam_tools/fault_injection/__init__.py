"""Inject faults into the processes of a stack and evaluate its reaction: `./wam faults`."""
