"""World Action Models on ROS 2: see core, model, worker and ros for who may know what."""
