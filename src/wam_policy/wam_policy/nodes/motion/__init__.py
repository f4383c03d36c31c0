"""motion_node and its parts."""
