"""Demonstrations of a scripted expert in the simulator."""
