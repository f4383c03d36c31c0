"""World Action Models on ROS 2; ARCHITECTURE.md describes the subpackages."""
