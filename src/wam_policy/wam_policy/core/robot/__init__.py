"""A robot as data: its joints, limits, safety settings and units; numpy only."""
