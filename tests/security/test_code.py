"""What our code never does: run or unpickle what it reads, start a shell, take unchecked YAML."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCANNED_FOLDERS = ('src', 'tools', 'benchmarks')
PICKLE_MODULES = ('pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal')


def find_unsafe_code(text: str) -> Iterator[str]:
    """Yield what a file does that reads data as code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or '']
            )
            yield from (
                f'line {node.lineno}: imports {name}'
                for name in names
                if name.split('.')[0] in PICKLE_MODULES
            )
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: word.value for word in node.keywords}
        said = {name: ast.unparse(value) for name, value in given.items() if name}
        if called == 'torch.load' and said.get('weights_only') != 'True':
            yield f'line {node.lineno}: torch.load without weights_only=True'
        if said.get('allow_pickle', 'False') != 'False':
            yield f'line {node.lineno}: allow_pickle'
        if called in ('yaml.unsafe_load', 'yaml.full_load') or (
            called == 'yaml.load'
            and said.get('Loader')
            not in ('yaml.SafeLoader', 'yaml.CSafeLoader', '_UniqueKeyLoader')
        ):
            yield f'line {node.lineno}: {called} builds whatever the file says'
        if said.get('shell', 'False') != 'False' or called in ('os.system', 'os.popen'):
            yield f'line {node.lineno}: {called} starts a shell'
        if said.get('trust_remote_code', 'False') != 'False':
            yield f'line {node.lineno}: trust_remote_code runs what a checkpoint brings'


def test_nothing_that_is_read_is_run() -> None:
    found = [
        f'{path.relative_to(ROOT)}: {what}'
        for folder in SCANNED_FOLDERS
        for path in sorted((ROOT / folder).rglob('*.py'))
        for what in find_unsafe_code(path.read_text(encoding='utf-8'))
    ]
    assert not found, '\n'.join(found)


@pytest.mark.parametrize(
    'text',
    [
        'import pickle',
        'from dill import loads',
        'torch.load(path)',
        'yaml.unsafe_load(text)',
        'torch.load(path, weights_only=False)',
        'np.load(path, allow_pickle=True)',
        'yaml.load(text)',
        'subprocess.run(words, shell=True)',
        'os.system(words)',
        'AutoModel.from_pretrained(path, trust_remote_code=True)',
    ],
)
def test_a_planted_breach_is_found(text: str) -> None:
    assert list(find_unsafe_code(text))


@pytest.mark.parametrize(
    'text',
    [
        'torch.load(path, weights_only=True)',
        'np.load(path, allow_pickle=False)',
        'yaml.safe_load(text)',
        'subprocess.run(words)',
    ],
)
def test_what_is_safe_passes(text: str) -> None:
    assert not list(find_unsafe_code(text))


def test_bandit_finds_nothing() -> None:
    pytest.importorskip('bandit', reason='bandit is not installed: ./wam setup brings it')
    ended = subprocess.run(
        [
            sys.executable,
            '-m',
            'bandit',
            '-q',
            '-c',
            'pyproject.toml',
            '-f',
            'json',
            '-r',
            'src',
            'tools',
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    results = json.loads(ended.stdout)['results']
    assert not results, '\n'.join(
        f'{found["filename"]}:{found["line_number"]}: {found["test_id"]} {found["issue_text"]}'
        for found in results
    )
