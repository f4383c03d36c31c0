"""The only place that knows rclpy: nodes that translate, call one function and publish."""
