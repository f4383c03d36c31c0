"""What is written stays where it belongs, and workers are spoken to by their parent alone."""

import os
import stat
from pathlib import Path

import pytest

from wam_learning.data.lerobot_writer import LeRobotWriter
from wam_policy.core.robot import embodiment
from wam_policy.recording import bag_folder, episode_info
from wam_policy.recording.bag_repair import repair
from wam_policy.recording.bag_writer import BagWriter
from wam_policy.workers import protocol

MALICIOUS_INSTRUCTIONS = [
    '../../etc/passwd',
    '/etc/cron.d/x',
    '..',
    '.',
    'a\x00b',
    'C:\\x',
    '~root',
    '$(reboot)',
    'a' * 10_000,
    '\u202e../x',
    '..%2f..%2fx',
]


@pytest.mark.parametrize('instruction', MALICIOUS_INSTRUCTIONS)
def test_no_instruction_leads_an_episode_out_of_its_folder(tmp_path: Path, instruction: str):
    name = episode_info.make_folder_name(10**18, instruction, ())
    assert Path(name).name == name and not name.startswith('.') and len(name) < 80
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()


def test_an_episode_never_goes_where_something_is_already(tmp_path: Path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'root').mkdir()
    (tmp_path / 'root' / 'e').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(FileExistsError):
        BagWriter(tmp_path / 'root' / 'e', (), {})
    assert not list((tmp_path / 'elsewhere').iterdir())


def make_linked_root(tmp_path: Path) -> tuple[Path, Path]:
    """Return a root with a link to an interrupted episode elsewhere, and that episode's file."""
    outside, root = tmp_path / 'outside' / 'e', tmp_path / 'root'
    writer = BagWriter(outside, (), {})
    writer.sync()
    writer._file.close()  # as if killed
    root.mkdir()
    (root / 'e').symlink_to(outside)
    (root / 'f').mkdir()
    (root / 'f' / 'f_0.mcap').symlink_to(outside / 'e_0.mcap')
    return root, outside / 'e_0.mcap'


def test_repair_follows_no_link_out_of_its_folder(tmp_path: Path):
    root, file = make_linked_root(tmp_path)
    before = file.read_bytes()
    assert bag_folder.find_interrupted(root) == []
    for name in ('e', 'f'):
        with pytest.raises(ValueError, match='is a symbolic link'):
            repair(root / name)
    assert file.read_bytes() == before and sorted(p.name for p in file.parent.iterdir()) == [
        'e_0.mcap'
    ]


def test_an_export_replaces_nothing_and_follows_no_link(tmp_path: Path):
    robot = embodiment.load_embodiment('yam')
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'precious').write_text('x')
    (tmp_path / 'out').symlink_to(elsewhere)
    with pytest.raises(FileExistsError):
        LeRobotWriter(tmp_path / 'out', robot)
    (tmp_path / 'set.part').symlink_to(elsewhere)
    with pytest.raises(OSError):
        LeRobotWriter(tmp_path / 'set', robot)
    assert (elsewhere / 'precious').read_text() == 'x' and len(list(elsewhere.iterdir())) == 1


def test_a_worker_is_spoken_to_over_a_pair_that_nobody_else_can_open():
    near, far = protocol.make_socket_pair()
    with near, far:
        for end in (near, far):
            assert end.getsockname() in ('', b'') and end.getpeername() in ('', b'')
            assert not os.get_inheritable(end.fileno())  # only what is passed on is passed on
            assert stat.S_ISSOCK(os.fstat(end.fileno()).st_mode)
