"""One HTML page of an episode, for people who have neither ROS nor the robot."""
