"""recorder_node and its parts."""
