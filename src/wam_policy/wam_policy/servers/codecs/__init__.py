"""Encodings of policy-server messages; nothing is ever unpickled."""
