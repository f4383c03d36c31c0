"""Connections to and from policy servers."""
