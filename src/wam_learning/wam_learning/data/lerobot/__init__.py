"""Read, check and convert data sets in the LeRobot layouts v2.1 and v3.0 by their metadata."""
