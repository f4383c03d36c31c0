"""Parameters of the console node, with default, range and description."""

from dataclasses import dataclass

from wam_policy.nodes.parameters import parameter, validate_fields
from wam_policy.nodes.robot_parameters import joint_states_parameter, robot_namespace_parameter


@dataclass(frozen=True, slots=True)
class ConsoleParams:
    """Configure console_node; an invalid value raises ValueError at start."""

    embodiment: str = parameter('agibot_g1', 'robot: a folder of wam_policy/robots')
    robot_namespace: str = robot_namespace_parameter()
    address: str = parameter(
        '127.0.0.1',
        'address to listen on; any other than 127.0.0.1, ::1 and localhost needs a token of at '
        'least 16 characters in the environment variable WAM_CONSOLE_TOKEN',
        pattern=r'[\w.:-]+',
    )
    port: int = parameter(
        8080,
        'port of the page; where it is in use, the next free one of the following nine; 0: any',
        low=0,
        high=65535,
    )
    joint_states_topic: str = joint_states_parameter('measured joint positions of the robot')
    compressed_images: bool = parameter(False, 'subscribe to <camera topic>/compressed')
    camera_rate_hz: float = parameter(
        5.0, 'images per camera and second that the page gets', unit='Hz', low=0.5, high=30.0
    )
    image_width: int = parameter(
        320, 'width of the images that the page gets', unit='pixels', low=64, high=1280
    )
    jpeg_quality: int = parameter(65, 'of the images that the page gets', low=10, high=95)

    __post_init__ = validate_fields
