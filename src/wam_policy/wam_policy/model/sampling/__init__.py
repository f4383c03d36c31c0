"""Noise schedules and samplers; they know no network."""
