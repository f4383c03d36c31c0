"""Robots of folders outside the package: found by the variable, never in place of ours."""

import shutil
from pathlib import Path

import pytest

from wam_policy import robot_folders
from wam_policy.core.robot import embodiment

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ROOT / 'benchmarks' / 'metaworld' / 'robots'


def test_without_the_variable_only_the_packages_robots_are_known(monkeypatch) -> None:
    monkeypatch.delenv(robot_folders.ROBOT_PATH_VARIABLE, raising=False)
    assert robot_folders.list_robots() == embodiment.list_robots()
    assert robot_folders.load_robot('yam').name == 'yam'
    with pytest.raises(ValueError, match=f'metaworld_sawyer.*{robot_folders.ROBOT_PATH_VARIABLE}'):
        robot_folders.load_robot('metaworld_sawyer')


def test_the_variable_adds_robots(monkeypatch) -> None:
    monkeypatch.setenv(robot_folders.ROBOT_PATH_VARIABLE, str(OUTSIDE))
    assert {'yam', 'metaworld_sawyer'} <= set(robot_folders.list_robots())
    robot = robot_folders.load_robot('metaworld_sawyer')
    assert robot.commanded == ('hand_x', 'hand_y', 'hand_z', 'gripper')
    with pytest.raises(ValueError, match='no robot .*in WAM_ROBOT_PATH: metaworld_sawyer'):
        robot_folders.load_robot('nobody')


def test_a_missing_folder_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv(robot_folders.ROBOT_PATH_VARIABLE, f'{OUTSIDE}:{tmp_path / "gone"}')
    with pytest.raises(ValueError, match=r'WAM_ROBOT_PATH: .*gone: no such folder'):
        robot_folders.load_robot('yam')


def test_a_name_that_stands_twice_is_refused(monkeypatch, tmp_path: Path) -> None:
    shutil.copytree(embodiment.ROBOTS_DIR / 'yam', tmp_path / 'yam')
    monkeypatch.setenv(robot_folders.ROBOT_PATH_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=r"robot 'yam' is in .* and in "):
        robot_folders.load_robot('yam')
