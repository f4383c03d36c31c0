"""Checkpoint folders: layout, tensor names, statistics, inspection, random weights."""
