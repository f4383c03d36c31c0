"""Find participants of the ROS domain that run another RMW implementation than this process.

Topics cross between Cyclone DDS and Fast DDS; service and action calls do not. They hang, or are
executed with wrong values. The GUID of every DDS endpoint begins with the vendor's ID (RTPS 2.3,
9.3.1.5), which rclpy shows as the endpoint's GID.
"""

from collections.abc import Iterable

from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier

# vendor ID (OMG's list) -> product, as RMW implementations of Jazzy use them
PRODUCTS = {b'\x01\x01': 'RTI Connext', b'\x01\x0f': 'Fast DDS', b'\x01\x10': 'Cyclone DDS'}
VENDOR_IDS = {
    'rmw_connextdds': b'\x01\x01',
    'rmw_fastrtps_cpp': b'\x01\x0f',
    'rmw_fastrtps_dynamic_cpp': b'\x01\x0f',
    'rmw_cyclonedds_cpp': b'\x01\x10',
}
# every node publishes on both by default: enough to find nodes without looking at all topics
NODE_TOPICS = ('/rosout', '/parameter_events')


def list_endpoints(node: Node, topics: Iterable[str]) -> list[TopicEndpointInfo]:
    """Return the publishers and subscriptions that `node` has discovered on `topics`."""
    return [
        endpoint
        for topic in topics
        for endpoint in (
            *node.get_publishers_info_by_topic(topic),
            *node.get_subscriptions_info_by_topic(topic),
        )
    ]


def find_foreign_nodes(endpoints: Iterable[TopicEndpointInfo], rmw: str) -> list[str] | None:
    """Return `name (product)` of each node that is not of `rmw`; None if its vendor is unknown.

    Cyclone DDS does not learn the names of nodes on Fast DDS; those are `unnamed`.
    """
    own = VENDOR_IDS.get(rmw)
    if own is None:
        return None
    found = set()
    for endpoint in endpoints:
        vendor = bytes(endpoint.endpoint_gid[:2])
        if vendor == own:
            continue
        name = f'{endpoint.node_namespace.rstrip("/")}/{endpoint.node_name}'
        if 'UNKNOWN' in name:
            name = 'unnamed'
        found.add(f'{name} ({PRODUCTS.get(vendor, f"vendor {vendor.hex()}")})')
    return sorted(found)


def describe_domain(node: Node, topics: Iterable[str] = NODE_TOPICS) -> tuple[bool, str]:
    """Return whether no other RMW is seen, and a sentence for a person."""
    rmw = get_rmw_implementation_identifier()
    foreign = find_foreign_nodes(list_endpoints(node, topics), rmw)
    if foreign is None:
        return True, f'check not active: the DDS vendor of {rmw} is unknown'
    if foreign:
        return False, (
            f'{", ".join(foreign)}: not {rmw}; their service and action calls hang or arrive '
            f'with wrong values, topics work: set RMW_IMPLEMENTATION={rmw} there'
        )
    return True, f'no node with another DDS seen; in use: {rmw}'
