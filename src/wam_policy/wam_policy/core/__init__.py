"""Code without ROS, torch, files or a clock: types, robots, observations, sessions, motion."""
