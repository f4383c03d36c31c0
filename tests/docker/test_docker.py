"""The image can't be built on every machine; what it names must at least exist here."""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / 'docker/Dockerfile').read_text()
COMPOSE = yaml.safe_load((ROOT / 'docker/compose.yaml').read_text())
JOINED_DOCKERFILE = DOCKERFILE.replace('\\\n', ' ')


def test_every_copied_path_exists() -> None:
    """A COPY of something that moved would only fail in a build."""
    sources = [
        source
        for line in JOINED_DOCKERFILE.splitlines()
        if line.startswith('COPY ')
        for source in line.split()[1:-1]
    ]
    assert sources
    assert [s for s in sources if not (ROOT / s).exists()] == []


def test_every_wam_command_exists() -> None:
    """The image runs the same entry script as every other machine."""
    used = set(
        re.findall(
            r'\./wam (\w+)', JOINED_DOCKERFILE + (ROOT / 'docker/entrypoint.sh').read_text()
        )
    )
    assert {'setup', 'build', 'test', 'shell'} <= used
    known = subprocess.run(
        [ROOT / 'wam', 'help'], capture_output=True, text=True, check=True
    ).stdout
    assert [c for c in used if not re.search(rf'^\s+{c}\b', known, re.M)] == []


def test_stages_and_entrypoint() -> None:
    """The four stages that the operating guide and compose name are there."""
    assert re.findall(r'^FROM \S+ AS (\w+)', DOCKERFILE, re.M) == ['deps', 'build', 'test', 'run']
    entrypoint = ROOT / 'docker/entrypoint.sh'
    assert entrypoint.stat().st_mode & 0o111
    subprocess.run(['bash', '-n', entrypoint], check=True)


def test_ros_packages_are_those_the_manifests_ask_for() -> None:
    """Each ros-jazzy-* package installed is a dependency of one of our package.xml files."""
    manifests = ' '.join(p.read_text() for p in (ROOT / 'src').glob('*/package.xml'))
    for name in re.findall(r'ros-jazzy-([\w-]+)', JOINED_DOCKERFILE.split('FROM', 1)[1]):
        if name in ('ros-base', 'rmw-cyclonedds-cpp'):
            continue  # the base image and the middleware
        assert name.replace('-', '_') in manifests, f'{name}: no package.xml depends on it'


def test_compose_launches_what_exists() -> None:
    """Launch files and arguments named in compose.yaml exist, and two GPUs are reserved."""
    launch = ROOT / 'src/wam_bringup/launch'
    known = yaml.safe_load((launch / 'arguments.yaml').read_text())
    for service in COMPOSE['services'].values():
        verb, action, package, file, *arguments = service['command']
        assert (verb, action, package) == ('ros2', 'launch', 'wam_bringup')
        assert (launch / file).is_file()
        for argument in arguments:
            assert argument.split(':=')[0] in known, argument
    gpus = COMPOSE['services']['robot']['deploy']['resources']['reservations']['devices'][0]
    assert gpus['device_ids'] == ['0', '1']


def test_entrypoint_passes_each_argument_whole(tmp_path: Path) -> None:
    """Spaces and quotes in an argument survive the way through `./wam shell -c`."""
    (tmp_path / 'wam').write_text('#!/bin/bash\n[ "$1 $2" = "shell -c" ] && exec bash -c "$3"\n')
    (tmp_path / 'wam').chmod(0o755)
    words = ['printf', '<%s>', "{data: 'pick up'}", 'two words', '$HOME']
    ran = subprocess.run(
        [ROOT / 'docker/entrypoint.sh', *words],
        capture_output=True,
        text=True,
        check=True,
        env={'PATH': '/usr/bin:/bin', 'WAM_HOME': tmp_path},
    )
    assert ran.stdout == ''.join(f'<{w}>' for w in words[2:])
