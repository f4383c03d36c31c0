"""Closed-loop evaluation without ROS, and reports."""
