"""The motors' bus."""
