"""Where things lie inside the checkout. Nothing of ours lies outside it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CheckoutLayout:
    """The folders of one checkout."""

    root: Path

    @property
    def venv(self) -> Path:
        """The virtual environment with every Python package."""
        return self.root / '.venv'

    @property
    def python(self) -> Path:
        """The virtual environment's interpreter."""
        return self.venv / 'bin' / 'python'

    @property
    def ros_prefix(self) -> Path:
        """The ROS 2 prefix that setup assembles where none is installed."""
        return self.root / '.ros' / 'jazzy'

    @property
    def install_dir(self) -> Path:
        """What colcon builds `src/` into."""
        return self.root / 'install'

    @property
    def work(self) -> Path:
        """Downloads, logs and stamps."""
        return self.root / '.wam'

    @property
    def downloads(self) -> Path:
        """Files fetched once and kept."""
        return self.work / 'downloads'

    @property
    def logs(self) -> Path:
        """Full output of the programs that setup and build run."""
        return self.work / 'logs'

    @property
    def stamps(self) -> Path:
        """One small file per finished step; see `cli.stamps`."""
        return self.work / 'stamps'


def find_checkout() -> CheckoutLayout:
    """Describe the checkout that this file belongs to."""
    return CheckoutLayout(Path(__file__).resolve().parents[2])
