"""No package that we pin has a known hole; needs the advisory service, so it skips offline."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADVISORY_SERVICE = ('api.osv.dev', 443)
# Advisories that were looked into and do not reach us: identifier -> why
IGNORED_ADVISORIES: dict[str, str] = {}


def test_no_pinned_package_has_a_known_hole() -> None:
    pytest.importorskip('pip_audit', reason='pip-audit is not installed: ./wam setup brings it')
    try:
        socket.create_connection(ADVISORY_SERVICE, timeout=2.0).close()
    except OSError as error:
        pytest.skip(f'the advisory service {ADVISORY_SERVICE[0]} is not reachable: {error}')
    ignored = [word for name in IGNORED_ADVISORIES for word in ('--ignore-vuln', name)]
    ended = subprocess.run(
        [
            sys.executable,
            '-m',
            'pip_audit',
            '-s',
            'osv',
            '-f',
            'json',
            '--no-deps',
            '--disable-pip',
            '-r',
            str(ROOT / 'tools/requirements/constraints.txt'),
            *ignored,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    if not ended.stdout:
        pytest.skip(f'the advisory service gave no answer: {ended.stderr.strip()[-200:]}')
    found = [
        f'{package["name"]} {package["version"]}: {hole["id"]}'
        for package in json.loads(ended.stdout)['dependencies']
        for hole in package.get('vulns', ())
    ]
    assert not found, '\n'.join(found)
