"""stream_node and the vendor interfaces it drives."""
