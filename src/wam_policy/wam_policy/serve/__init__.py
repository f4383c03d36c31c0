"""Our engine behind the OpenPI protocol, for clients on this machine or on others.

The protocol itself lives in remote/; ROS may not come in here, torch only into `main`.
"""
