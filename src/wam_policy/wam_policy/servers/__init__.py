"""Policy servers: clients of remote ones, and our own server, in the OpenPI protocol.

This package imports neither torch nor ROS; the models run in the processes of `workers/`.
"""
