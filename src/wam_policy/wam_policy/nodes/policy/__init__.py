"""policy_node and its parts."""
