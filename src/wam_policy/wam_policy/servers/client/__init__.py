"""What the remote worker needs to query a server: a connection, a memory, checks."""
