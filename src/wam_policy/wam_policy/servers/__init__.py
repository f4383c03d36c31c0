"""Engines elsewhere: the OpenPI protocol, its dialects as data, a worker that speaks it.

No torch and no ROS may come in here; what runs a model behind the protocol lives in serve/.
"""
