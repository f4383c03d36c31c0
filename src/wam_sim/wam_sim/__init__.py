"""Simulated robots with the topics of the real ones; may use MuJoCo and wam_policy.core only."""
