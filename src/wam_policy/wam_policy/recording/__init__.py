"""Episodes on disk: rosbag2 folders with one MCAP file; no ROS, no message is ever decoded."""
