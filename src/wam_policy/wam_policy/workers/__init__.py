"""Workers: processes that run the model with torch, and their supervision without it; no ROS."""
