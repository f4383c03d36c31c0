"""The robot as viewers want it: its description, its frames and where its plan leads."""
