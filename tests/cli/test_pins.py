"""Every package is pinned, has its reason, and is in the full list of exact versions."""

import re
from pathlib import Path

SETUP = Path(__file__).resolve().parents[2] / 'tools' / 'requirements'


def read_pins(name):
    """Read `name==version` lines as a dictionary, and the lines that are none."""
    found, other = {}, []
    for line in (SETUP / name).read_text().splitlines():
        match = re.fullmatch(r'([A-Za-z0-9._-]+)==([^\s;]+)( +#.*| ;.*)?', line)
        if match:
            found[match[1].lower().replace('_', '-')] = match[2]
        elif line and not line.startswith('#'):
            other.append(line)
    return found, other


def test_everything_is_pinned():
    for name in ('requirements.txt', 'constraints.txt', 'tools.txt'):
        found, other = read_pins(name)
        assert found
        assert not other, f'{name}: want name==version'


def test_every_requirement_has_its_reason():
    for line in (SETUP / 'requirements.txt').read_text().splitlines():
        assert not line or line.startswith('#') or re.search(r'  # .{5,}', line), line


def test_the_exact_versions_are_those_of_the_requirements():
    exact, _ = read_pins('constraints.txt')
    wanted, _ = read_pins('requirements.txt')
    assert {name: exact.get(name) for name in wanted} == wanted, (
        'make tools/requirements/constraints.txt again; its head says how'
    )


def test_the_headers_are_pinned_with_hashes():
    lines = (SETUP / 'ros2_headers.txt').read_text().splitlines()
    pins = [line for line in lines if not line.startswith('#')]
    assert pins
    for pin in pins:
        assert re.fullmatch(r'ros-[a-z-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}', pin), pin
    names = [pin.split('==')[0] for pin in pins]
    assert names == sorted(set(names))
