"""Find the topic and type of a camera's images among the transports of image_transport.

Raw images and `compressed` (JPEG, PNG) are read. Depth and packets of a video are not: a frame of
a video depends on those before it, so it cannot be taken when it is needed.
"""

from collections.abc import Iterable

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

RAW, COMPRESSED = 'raw', 'compressed'
TRANSPORTS = (RAW, COMPRESSED)
_REPUBLISH = 'ros2 run image_transport republish {transport} compressed'
# transport -> what its messages are, and the fix
_UNSUPPORTED = {
    'compressedDepth': ('depth images', 'name the color topic of the camera'),
    **{
        name: (
            'packets of a video',
            f'publish compressed instead, or {_REPUBLISH.format(transport=name)}',
        )
        for name in ('theora', 'ffmpeg', 'foxglove')
    },
    'zstd': ('images packed by zstd', f'use {_REPUBLISH.format(transport="zstd")}'),
}
_VIDEO_TYPES = {'FFMPEGPacket': 'ffmpeg', 'Packet': 'theora', 'CompressedVideo': 'foxglove'}


def resolve_camera_topic(topic: str, transport: str) -> tuple[str, type]:
    """Return what to subscribe to for a camera; a topic may name its transport itself.

    Raises ValueError for a transport whose messages are not single color images.
    """
    last = topic.rpartition('/')[2]
    for name, source in ((last, f'topic {topic}'), (transport, 'image_transport')):
        if name in _UNSUPPORTED:
            raise ValueError(f'{source}: {describe_unsupported(name)}')
    if last == COMPRESSED:
        return topic, CompressedImage
    if transport == COMPRESSED:
        return f'{topic}/{COMPRESSED}', CompressedImage
    if transport == RAW:
        return topic, Image
    raise ValueError(f'image_transport: want {" or ".join(TRANSPORTS)}, got {transport!r}')


def describe_unsupported(transport: str) -> str:
    """Return what the messages of a transport are, and the fix."""
    what, fix = _UNSUPPORTED[transport]
    return f'{transport} are {what}; want {" or ".join(TRANSPORTS)}: {fix}'


def describe_publishers(node: Node, topic: str, message_type: type) -> str:
    """Return why nothing arrives on a camera's topic, as far as the graph tells; else nothing.

    Another type is published there, or only another transport of the camera.
    """
    topic = node.resolve_topic_name(topic)
    published = {
        name: types
        for name, types in node.get_topic_names_and_types()
        if name.startswith(topic.removesuffix(f'/{COMPRESSED}')) and node.count_publishers(name)
    }
    wanted = f'sensor_msgs/msg/{message_type.__name__}'
    types = published.pop(topic, None)
    if types is not None:
        return '' if wanted in types else f'{topic} is {_describe_type(types)}, want {wanted}'
    base = topic.removesuffix(f'/{COMPRESSED}')
    if message_type is CompressedImage and base in published:
        return f'only raw images are published, on {base}: set image_transport to {RAW}'
    others = {name.rpartition('/')[2] for name in published if name.rpartition('/')[0] == base}
    if message_type is Image and COMPRESSED in others:
        return f'only {base}/{COMPRESSED} is published: set image_transport to {COMPRESSED}'
    found = sorted(others & _UNSUPPORTED.keys())
    return (
        f'only {base}/{found[0]} is published: {describe_unsupported(found[0])}' if found else ''
    )


def _describe_type(types: Iterable[str]) -> str:
    name = next(iter(types))
    transport = _VIDEO_TYPES.get(name.rpartition('/')[2])
    return f'{name} ({describe_unsupported(transport)})' if transport else name
