"""What the stack knows without ROS, torch or a clock: types, robots, timing and motion."""
