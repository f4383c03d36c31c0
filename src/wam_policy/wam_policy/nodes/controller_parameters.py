"""Parameters of the trajectory controllers that the simulator and stream_node stand in for.

They answer `/<controller>/list_parameters` and `/<controller>/get_parameters` as a controller of
ros2_control does, so that motion_node does the same checks on them. Nothing can be set.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.service import Service

from wam_policy.core.motion.jtc_emulator import make_emulated_parameters
from wam_policy.core.robot.embodiment import Embodiment


class ControllerParameterServer:
    """Answer for every controller of a robot until closed."""

    def __init__(
        self, node: Node, robot: Embodiment, update_rate_hz: int, prefix: str = ''
    ) -> None:
        """Open the services of `node`; `prefix` is removed from the names of topics."""
        self._node = node
        self.parameters: dict[str, dict[str, Any]] = {
            controller.name: make_emulated_parameters(controller.joints, update_rate_hz)
            for controller in robot.controllers
        }
        self._services: list[Service] = []
        for controller in robot.controllers:
            base = controller.topic.removeprefix(prefix).rpartition('/')[0]
            values = self.parameters[controller.name]
            self._services += [
                node.create_service(
                    ListParameters, f'{base}/list_parameters', partial(_on_list, values)
                ),
                node.create_service(
                    GetParameters, f'{base}/get_parameters', partial(_on_get, values)
                ),
            ]

    def close(self) -> None:
        """Answer no more."""
        for service in self._services:
            self._node.destroy_service(service)
        self._services = []


def _on_list(
    values: Mapping[str, Any], _: ListParameters.Request, response: ListParameters.Response
) -> ListParameters.Response:
    response.result.names = list(values)
    return response


def _on_get(
    values: Mapping[str, Any], request: GetParameters.Request, response: GetParameters.Response
) -> GetParameters.Response:
    """Return what is known; an unknown name has no value, as of any rclpy node."""
    response.values = [
        Parameter(name, value=values.get(name)).get_parameter_value() for name in request.names
    ]
    return response
