"""YAM arms as they look from the CAN bus, and a double of their driver."""
