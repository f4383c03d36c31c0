"""Publishers whose messages are made only while somebody subscribes to them."""

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile


class OnDemandPublishers:
    """Own publishers by key until closed; whether each is wanted is as of the last refresh."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publishers: dict[str, Publisher] = {}
        self._wanted: frozenset[str] = frozenset()

    def add(self, key: str, message_type: type, topic: str, profile: QoSProfile) -> None:
        """Open one more."""
        self._publishers[key] = self._node.create_publisher(message_type, topic, profile)

    def refresh(self) -> bool:
        """Look who subscribes; return whether anybody does."""
        self._wanted = frozenset(
            key for key, each in self._publishers.items() if each.get_subscription_count()
        )
        return bool(self._wanted)

    def is_wanted(self, key: str) -> bool:
        """Return whether somebody subscribes to a publisher; False for one that is not open."""
        return key in self._wanted

    def publish(self, key: str, message: object) -> None:
        """Publish if the publisher is open; KeyError for an unknown one."""
        self._publishers[key].publish(message)

    def close(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()
        self._wanted = frozenset()
