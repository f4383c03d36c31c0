"""Inspect data sets of any origin before a training: `./wam dataset check` and `view`."""
