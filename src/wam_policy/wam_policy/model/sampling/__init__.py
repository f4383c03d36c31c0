"""Noise schedules and samplers, independent of the network."""
