"""Paths inside the checkout; this project writes nothing outside it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CheckoutLayout:
    """Folders of one checkout."""

    root: Path

    @property
    def venv(self) -> Path:
        """Return the virtual environment with all Python packages."""
        return self.root / '.venv'

    @property
    def python(self) -> Path:
        """Return the interpreter of the virtual environment."""
        return self.venv / 'bin' / 'python'

    @property
    def ros_prefix(self) -> Path:
        """Return the ROS 2 prefix that setup assembles if none is installed."""
        return self.root / '.ros' / 'jazzy'

    @property
    def install_dir(self) -> Path:
        """Return the install space of colcon."""
        return self.root / 'install'

    @property
    def work(self) -> Path:
        """Return the folder of downloads, logs and stamps."""
        return self.root / '.wam'

    @property
    def downloads(self) -> Path:
        """Return the folder of downloaded files."""
        return self.work / 'downloads'

    @property
    def logs(self) -> Path:
        """Return the folder with the output of programs that setup and build run."""
        return self.work / 'logs'

    @property
    def stamps(self) -> Path:
        """Return the folder with one file per finished step; see `cli.stamps`."""
        return self.work / 'stamps'


def find_checkout() -> CheckoutLayout:
    """Return the layout of the checkout that contains this file."""
    return CheckoutLayout(Path(__file__).resolve().parents[2])
