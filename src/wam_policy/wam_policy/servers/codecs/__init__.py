"""Encodings of policy-server messages, without pickle."""
