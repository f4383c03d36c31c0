"""From action chunks to trajectories: validation, planning, state machine, monitors."""
