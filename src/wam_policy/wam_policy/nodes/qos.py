"""Quality of service by what a topic carries; every endpoint of the stack names one of these.

Publisher and subscriber of a topic take the same profile. Sensors are best effort on our side, so
that both reliable and best-effort drivers match.
"""

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

_BEST_EFFORT = ReliabilityPolicy.BEST_EFFORT
_RELIABLE = ReliabilityPolicy.RELIABLE

# Late is wrong and a lost frame is followed by another: never wait for a retransmission.
IMAGE = QoSProfile(depth=2, reliability=_BEST_EFFORT)
JOINTS = QoSProfile(depth=5, reliability=_BEST_EFFORT)

# Only the newest chunk counts, and not for longer than its observation may be old.
CHUNK = QoSProfile(depth=1, reliability=_RELIABLE, lifespan=Duration(seconds=1.0))

# A trajectory is published when the plan changes, so it has no deadline; one that could not be
# delivered at once belongs to a past that the controller has left.
TRAJECTORY = QoSProfile(depth=1, reliability=_RELIABLE, lifespan=Duration(seconds=0.1))

# A stream of set-points to a driver: a gap of more than 20 ms is a fault worth an event.
STREAM = QoSProfile(
    depth=1, reliability=_RELIABLE, deadline=Duration(seconds=0.02), lifespan=Duration(seconds=0.1)
)

# State that a late subscriber must see at once: status, e-stop, the current task.
LATCHED = QoSProfile(depth=1, reliability=_RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

# An e-stop counts whoever sends it. A reliable subscription does not match a best-effort
# publisher, and a best-effort one loses messages of a reliable publisher: subscribe with both.
ESTOP_SIGNAL = (
    QoSProfile(depth=1, reliability=_RELIABLE),
    QoSProfile(depth=1, reliability=_BEST_EFFORT),
)

# Frames as tf2 listens to them: reliable, and the newest is enough.
FRAMES = QoSProfile(depth=5, reliability=_RELIABLE)

# Plans for viewers; RViz and Foxglove ask for reliable.
PREVIEW = QoSProfile(depth=1, reliability=_RELIABLE)

# What people and tools send now and then; volatile, as `ros2 topic pub` offers nothing more.
REQUEST = QoSProfile(depth=1, reliability=_RELIABLE)
