"""Where robot and table are in any posture, by MuJoCo's collision engine."""
