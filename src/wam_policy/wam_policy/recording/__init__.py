"""Episodes on disk: rosbag2 folders with one MCAP file; no ROS, messages are not decoded."""
