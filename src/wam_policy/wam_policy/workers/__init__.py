"""The process seam: torch on the far side, everybody else on this side; no ROS on either."""
