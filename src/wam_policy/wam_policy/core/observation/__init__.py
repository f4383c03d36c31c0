"""What the sensors delivered, by time stamp, and the two clocks."""
