"""Programs for developers: demo, soak test, fault injection, evaluation through ROS."""
