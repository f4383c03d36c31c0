"""The sub-commands that run here; all others are modules of the stack, see `cli.dispatch`."""
