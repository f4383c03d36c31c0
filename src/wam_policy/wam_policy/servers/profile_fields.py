"""Fields of a server profile: transport, messages, images, state and action columns of a server.

The remote worker (as client) and our server use the same mapping. Joint names are those of the
robot's embodiment; grippers are converted between ours (0 closed .. 1 open) and the server's.
`server_profile` reads the files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wam_policy.core.robot.kinematics import ToolFrame
from wam_policy.servers.mapping.nested_keys import KeyPath
from wam_policy.servers.mapping.rotation_format import FORMATS

ACTION_KINDS = ('absolute', 'relative', 'episode_relative', 'delta', 'rate')
POSE_KINDS = ('absolute', 'relative', 'episode_relative')
STATE_FORMS = ('array', 'list', 'scalar')
POSE_PARTS = ('pose', 'xyz', 'rotation')
# what a server remembers, and when it gets it; `clocked` is our server's, which states it itself
MEMORY_KINDS = ('none', 'block', 'stepwise', 'after_execution')
TRANSPORT_KINDS = ('websocket', 'http', 'zmq')
SCHEMES = MappingProxyType(
    {
        'ws': 'websocket',
        'wss': 'websocket',
        'http': 'http',
        'https': 'http',
        'zmq+tcp': 'zmq',
        'zmq+ipc': 'zmq',
    }
)


@dataclass(frozen=True, slots=True)
class JointGroup:
    """Joints, in the server's order, that share a state key or consecutive action columns."""

    joints: tuple[str, ...]
    key: KeyPath = ()  # of a state, or of actions in arrays of their own; empty: one array
    kind: str = 'absolute'  # of actions, one of ACTION_KINDS
    scale: float = 1.0  # of a rate: change per row at a rate of 1, rad
    in_degrees: bool = False
    ignored: bool = False

    @property
    def width(self) -> int:
        return len(self.joints)


@dataclass(frozen=True, slots=True)
class PoseGroup:
    """Numbers of the pose of a tool: state values or action columns."""

    pose: str  # key of ServerProfile.tools
    part: str  # one of POSE_PARTS
    rotation: str  # key of rotation_format.FORMATS
    key: KeyPath = ()
    kind: str = 'absolute'  # of actions, one of POSE_KINDS
    joints: tuple[str, ...] = ()  # none of its own: those of the tool
    ignored: bool = False

    @property
    def width(self) -> int:
        rotation = 0 if self.part == 'xyz' else FORMATS[self.rotation].width
        return rotation + (0 if self.part == 'rotation' else 3)


@dataclass(frozen=True, slots=True)
class FixedGroup:
    """Values of a state that the robot does not measure, or action columns that drive nothing."""

    width: int
    key: KeyPath = ()
    values: tuple[float, ...] = ()  # of a state
    kind: str = 'absolute'
    joints: tuple[str, ...] = ()
    ignored: bool = True


ValueGroup = JointGroup | PoseGroup | FixedGroup


@dataclass(frozen=True, slots=True)
class FrameSchedule:
    """Images of a request and the interval between requests.

    A server with memory receives one request per `block_steps` steps, with the images at
    `offsets` (steps relative to the newest). A server without receives the newest at any time.
    One that learns what was executed may look back to the image before the block.
    """

    block_steps: int | None  # None: no memory, requests at any time
    offsets: tuple[int, ...]  # ascending, the last is 0
    window: int  # newest images that the server uses
    repeats_first: bool = False  # the first request has its one image at every offset


@dataclass(frozen=True, slots=True)
class ServerTimeouts:
    """Time limits by operation, s; None: that of --query-timeout."""

    connect_s: float = 5.0  # and for the first message or the answer to `greet`
    reset_s: float | None = None
    first_s: float | None = None  # for the first answer, which may have to compile the model
    answer_s: float | None = None


@dataclass(frozen=True, slots=True)
class TransportProfile:
    """How bytes reach the server."""

    kind: str = 'websocket'  # one of TRANSPORT_KINDS
    greets: bool = True  # WebSocket: the server sends its configuration on connect
    auth: str = 'api_key'  # api_key, bearer: a header; field: the map of a request has api_token
    max_answer_mb: float = 16.0
    may_repeat: bool = False  # a request may reach the server twice without an effect
    timeouts: ServerTimeouts = ServerTimeouts()


@dataclass(frozen=True, slots=True)
class Operation:
    """One request that a server knows."""

    route: str = 'POST /'  # of HTTP
    message: Any = None  # template; None: nothing is sent (GET)
    has_answer: bool = True
    id_key: KeyPath | None = None  # of the request's id, in request and answer


@dataclass(frozen=True, slots=True)
class ServerProfile:
    """Message format of one kind of server, for one robot."""

    name: str
    title: str
    robot: str  # embodiment whose joints and cameras are mapped
    is_default: bool  # the profile of this robot unless another is selected
    url_path: str  # appended to an address without a path
    transport: TransportProfile
    codec: str  # key of codec_table.CODECS
    operations: Mapping[str, Operation]
    prompt_key: KeyPath | None  # None: an operation's template has it
    prompt_lists: int  # lists around the prompt
    prompt_text: str  # with {prompt} in it
    session_key: KeyPath | None  # None: the server has no sessions
    endpoint_key: str | None  # holds infer or reset; None: the server has only infer
    constants: Mapping[str, Any]  # of every request
    cameras: Mapping[str, KeyPath]  # in the server's order
    image_size: tuple[int, int] | None  # width, height; None: the size of the camera images
    image_fit: str
    channel_order: str
    image_axes: tuple[str, ...] | None  # of batch, time; None: time only for several images
    image_encoding: str
    frames: FrameSchedule
    memory: str  # one of MEMORY_KINDS
    state: tuple[ValueGroup, ...]
    state_axes: int  # leading axes of one element
    state_form: str
    has_state_history: bool  # one state per image
    gripper_ranges: Mapping[str, tuple[float, float]]  # gripper -> the server's open, closed
    clips_grippers: bool  # values beyond open and closed are these
    actions_key: KeyPath | None  # of the actions; None: the answer is the array
    action_axes: tuple[str, ...]
    action_encoding: str  # of our answers: arrays or lists; received are both
    row_maps: bool  # the answer is a list of maps, one per row
    horizon: int
    drops_extra_rows: bool  # an answer may have more rows; the first `horizon` are used
    drops_extra_columns: bool  # an answer may be padded with more columns
    rows_per_frame: int  # of answers with an axis of frames
    skips_first_frame: bool  # the rows of the first frame of a session are not executed
    step_hz: float
    action_columns: tuple[ValueGroup, ...]
    tools: Mapping[str, ToolFrame]
    configuration: Mapping[str, Any]  # metadata that the server sends on connect

    @property
    def action_dim(self) -> int:
        """Return the number of action columns, without those that drive nothing."""
        return sum(group.width for group in self.action_columns if not group.ignored)

    @property
    def gripper_open(self) -> float:
        """Return the open value of the grippers, of which the first counts."""
        return next(iter(self.gripper_ranges.values()))[0]

    @property
    def gripper_closed(self) -> float:
        return next(iter(self.gripper_ranges.values()))[1]
