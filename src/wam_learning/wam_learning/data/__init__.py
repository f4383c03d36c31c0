"""Bags to data sets to training batches."""
