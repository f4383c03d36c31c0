"""The robot objects."""
