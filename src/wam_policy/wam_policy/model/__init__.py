"""The world action model: torch only; no ROS, no files but checkpoints, no logging."""
