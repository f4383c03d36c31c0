"""Which nodes of the stack report on /diagnostics, and what they report.

Every node of ours reports once a second, also one whose topics nobody looks at: a node that was
killed or stopped is seen here, whatever it publishes.
"""

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

STACK_NODES = ('sim', 'stream', 'motion', 'policy', 'recorder', 'description')
MAX_MESSAGE = 300  # characters


class NodeHealth:
    """Keep the newest report of each task of each node of the stack."""

    def __init__(self, robot_namespace: str) -> None:
        """Listen to the nodes of one robot: their full names, if it has a namespace."""
        self._prefix = f'/{robot_namespace}/' if robot_namespace else ''
        self._reported_s: dict[str, float] = {}  # monotonic clock
        self._problems: dict[str, dict[str, str]] = {}  # node -> task -> message

    def add(self, msg: DiagnosticArray, now_s: float) -> None:
        """Take a message of /diagnostics; statuses of other programs are left out."""
        for status in msg.status:
            full_name, _, task = status.name.partition(': ')
            # without a namespace these are bare names: '/robot_1/wam/motion' is another robot's
            node = full_name.rpartition('/')[2] if self._prefix else full_name
            if node not in STACK_NODES or not full_name.startswith(self._prefix):
                continue
            if task != 'process':  # that is the launch's word about a node that has exited
                self._reported_s[node] = now_s
            problems = self._problems.setdefault(node, {})
            if status.level == DiagnosticStatus.ERROR:
                problems[task] = status.message[:MAX_MESSAGE]
            else:
                problems.pop(task, None)

    def describe(self, now_s: float) -> list[dict[str, Any]]:
        """Return age in s and errors of each node; age None: no report of its own."""
        return [
            {
                'name': node,
                'age_s': round(now_s - self._reported_s[node], 3)
                if node in self._reported_s
                else None,
                'errors': list(self._problems.get(node, {}).values()),
            }
            for node in STACK_NODES
            if node in self._reported_s or self._problems.get(node)
        ]
