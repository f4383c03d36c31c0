"""Stand-ins for the ros2cli commands that this prefix lacks; an installed ROS 2 has its own."""
