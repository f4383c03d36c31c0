"""The house rules that a machine can check; each is proven by a planted fault."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_COLUMNS, MAX_MODULES = 500, 75, 99, 16
POLICY = 'src/wam_policy/wam_policy'
LEARNING = 'src/wam_learning/wam_learning'
# Programs that talk to a person at a terminal; under src/ these are the modules that can be run.
COMMAND_FOLDERS = ('tools/cli/', 'tools/ros_prefix/', 'benchmarks/')
# Names are verbs for what acts and the field's own words; ARCHITECTURE.md and CONTRIBUTING.md.
IRREGULAR_PARTICIPLES = re.compile(
    'begun|bound|brought|built|caught|chosen|done|drawn|driven|fallen|felt|found|frozen|given|'
    'gone|grown|heard|held|hidden|hung|kept|known|laid|led|left|lived|lost|made|meant|met|paid|'
    'said|seen|sent|shaken|shown|slept|spent|spoken|spun|stolen|struck|sung|taken|taught|told|'
    'thought|thrown|understood|undone|won|worn|woven|written'
)
# verbs and nouns that end like participles
NOT_PARTICIPLES = re.compile(
    'bring|embed|exceed|feed|need|proceed|ring|seed|speed|spread|spring|string|succeed|thread|'
    'timing|training|setting'
)
METAPHORS = re.compile(
    'audience|crew|desk|hurry|hushed|journal|lane|leash|leavings|mind|mischief|obey|oracle|'
    'passage|patience|posture|tally|tape|witness'
)
# Words of persons in names: programs publish, receive and request. nodes/ and core/motion still
# have some, so they are not checked for these.
PERSONIFICATIONS = re.compile(
    'asked|begun|believed|dice|heard|hurry|lived|nobody|rival|said|spoken|tamper|told|trick|'
    'trouble|ugly|unwell'
)
TORCH_PACKAGES = ('torch', 'torchvision', 'diffusers', 'transformers', 'safetensors')
# What rclpy's nodes keep under these names; a node that assigns one breaks silently (without
# `_services` nobody answers its lifecycle and parameter services any more).
RCLPY_ATTRIBUTES = frozenset(
    f'_{name}'
    for name in (
        'callbacks',
        'clients',
        'clock',
        'context',
        'default_callback_group',
        'descriptors',
        'guards',
        'logger',
        'managed_entities',
        'parameters',
        'publishers',
        'rate_group',
        'services',
        'state_machine',
        'subscriptions',
        'time_source',
        'timers',
    )
)
WORKER_CLIENT_MODULES = tuple(
    f'wam_policy.workers.{name}'
    for name in (
        'model_options',
        'protocol',
        'supervisor',
        'worker_group',
        'worker_process',
    )
)
NODES = (
    'wam_policy.nodes',
    'wam_policy.core',
    'wam_policy.recording',
    'wam_policy.mujoco_collision',
    'wam_policy.command_line',
    'wam_policy.provenance',
    'wam_policy.robot_names',
    *WORKER_CLIENT_MODULES,
)


@dataclass(frozen=True)
class ImportLayer:
    """Say what the files under a path may import."""

    path: str  # folder, or file
    own_modules: tuple[str, ...]  # the only modules of ours
    forbidden_packages: tuple[str, ...] = ()  # top-level packages
    allowed_packages: tuple[str, ...] | None = (
        None  # if given, the only packages beyond the library
    )
    may_import_ros: bool = False


# The first layer whose path fits a file counts.
LAYERS = (
    ImportLayer(f'{POLICY}/core/robot/strict_yaml.py', (), ('time',), ('yaml',)),
    ImportLayer(
        f'{POLICY}/core/', ('wam_policy.core',), ('time',), ('numpy', 'scipy', 'ruckig', 'daqp')
    ),
    ImportLayer(
        f'{POLICY}/model/',
        (
            'wam_policy.model',
            'wam_policy.core',
            'wam_policy.command_line',
            'wam_policy.robot_folders',
        ),
        ('yaml', 'pickle'),
    ),
    ImportLayer(f'{POLICY}/workers/protocol.py', (), ('pickle',), ('numpy',)),
    *(
        ImportLayer(
            f'src/wam_policy/{name.replace(".", "/")}.py',
            (*WORKER_CLIENT_MODULES, 'wam_policy.core', 'wam_policy.robot_folders'),
            ('pickle',),
            ('numpy',),
        )
        for name in WORKER_CLIENT_MODULES
    ),
    ImportLayer(
        f'{POLICY}/workers/',
        (
            'wam_policy.workers',
            'wam_policy.model',
            'wam_policy.core',
            'wam_policy.robot_folders',
            'wam_policy.command_line',
        ),
        ('pickle',),
    ),
    ImportLayer(
        f'{POLICY}/servers/',
        (
            'wam_policy.servers',
            'wam_policy.mujoco_kinematics',
            *WORKER_CLIENT_MODULES,
            'wam_policy.core',
            'wam_policy.robot_folders',
            'wam_policy.command_line',
        ),
        (*TORCH_PACKAGES, 'pickle'),
        ('numpy', 'cv2', 'scipy', 'websockets', 'msgpack', 'prometheus_client', 'zmq'),
    ),
    # where the robot's links are at given joint positions; core asks through a protocol of its own
    ImportLayer(
        f'{POLICY}/mujoco_collision.py',
        ('wam_policy.core',),
        ('time', 'pickle'),
        ('numpy', 'mujoco'),
    ),
    # poses of tools, for servers that answer poses
    ImportLayer(
        f'{POLICY}/mujoco_kinematics.py',
        ('wam_policy.core',),
        ('time', 'pickle'),
        ('numpy', 'mujoco', 'mink'),
    ),
    # episodes on disk, for the node that writes them and for the programs that read them
    ImportLayer(
        f'{POLICY}/recording/',
        ('wam_policy.recording', 'wam_policy.core'),
        ('pickle',),
        ('mcap', 'yaml', 'numpy', 'rosbags', 'backports'),
    ),
    ImportLayer(
        f'{POLICY}/nodes/', (*NODES, 'wam_msgs'), (*TORCH_PACKAGES, 'pickle'), may_import_ros=True
    ),
    ImportLayer(f'{POLICY}/__init__.py', (), (), ()),
    ImportLayer(f'{POLICY}/robot_folders.py', ('wam_policy.core',), ('time', 'pickle'), ()),
    # of nodes, of tools and in recorded episodes
    ImportLayer(f'{POLICY}/robot_names.py', ('wam_policy.core',), ('time', 'pickle'), ()),
    ImportLayer(f'{POLICY}/command_line.py', (), (), ()),  # for every command line
    ImportLayer(f'{POLICY}/provenance.py', (), (), ()),  # of a measurement, for any report
    ImportLayer(
        'src/wam_learning/wam_learning/',
        (
            'wam_learning',
            'wam_policy.model',
            'wam_policy.core',
            'wam_policy.recording',
            'wam_policy.nodes.message_conversion',
            'wam_policy.workers.protocol',  # to a policy server, through the remote worker
            'wam_policy.nodes.images.image_conversion',
            'wam_policy.command_line',
            'wam_policy.provenance',
            'wam_policy.robot_folders',
            'wam_policy.robot_names',
            'wam_sim.physics',
            'wam_sim.screenshot',
            'wam_sim.tasks',
        ),
        ('rclpy', 'pickle'),
        may_import_ros=True,
    ),
    ImportLayer(
        'src/wam_tools/wam_tools/',
        ('wam_tools', *NODES, 'wam_msgs'),
        (*TORCH_PACKAGES, 'pickle'),
        may_import_ros=True,
    ),
    ImportLayer(
        'src/wam_sim/wam_sim/',
        ('wam_sim', 'wam_policy.core', 'wam_policy.nodes', 'wam_msgs'),
        TORCH_PACKAGES,
        may_import_ros=True,
    ),
    # what a page shows of the stack: its messages and numpy, no policy, no model
    ImportLayer(
        'src/wam_console/wam_console/',
        (
            'wam_console',
            'wam_msgs',
            'wam_policy.core',
            *(
                f'wam_policy.nodes.{name}'
                for name in (
                    'callback_guard',
                    'cdr_reader',
                    'images',
                    'message_conversion',
                    'node_clock',
                    'parameters',
                    'qos',
                    'robot_parameters',
                    'run_node',
                )
            ),
            'wam_policy.robot_names',
            'wam_sim.physics',
        ),
        (*TORCH_PACKAGES, 'pickle'),
        may_import_ros=True,
    ),
    ImportLayer(
        'src/wam_bringup/',
        (),
        (),
        (
            'launch',
            'launch_ros',
            'ament_index_python',
            'lifecycle_msgs',
            'diagnostic_msgs',
            'yaml',
        ),
        may_import_ros=True,
    ),
)
DRIVER_DOUBLE = 'src/wam_tools/wam_tools/can_emulation/driver/'
OWN_PACKAGES = (
    'wam_policy',
    'wam_learning',
    'wam_tools',
    'wam_sim',
    'wam_console',
    'wam_msgs',
    'wam_bringup',
    'cli',
    'tests',
)


def find_violations(root: Path) -> list[str]:
    """Return every breach of a rule as 'file: what'."""
    found, trees = [], {}
    for path in sorted(
        (
            *root.glob('src/**/*.py'),
            *root.glob('tools/**/*.py'),
            *root.glob('benchmarks/**/*.py'),
        )
    ):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding='utf-8')
        tree = ast.parse(text)
        for rule in (check_imports, check_shape, check_statements, check_nodes, check_names):
            found += [f'{name}: {what}' for what in rule(name, text, tree)]
        trees[name] = tree
    found += check_duplicate_classes(trees)
    found += check_folder_sizes(trees)
    found += [f'{folder}: {what}' for folder, what in check_robots(root)]
    return found


def check_imports(name: str, text: str, tree: ast.Module) -> Iterator[str]:
    """Check who imports whom; imports inside functions count too."""
    if name.endswith('setup.py') or not name.startswith('src/'):
        return
    layer = next((layer for layer in LAYERS if name.startswith(layer.path)), None)
    if layer is None:
        yield 'belongs to no layer: add it to the table of tests/test_house.py'
        return
    for module in find_imports(tree):
        top = module.split('.')[0]
        if top in OWN_PACKAGES:
            # the package alone holds nothing; bringup does not need even that
            if not is_within(module, layer.own_modules) and (
                module != 'wam_policy' or not layer.own_modules
            ):
                yield f'imports {module}, which its layer must not know'
        elif top in layer.forbidden_packages:
            yield f'imports {top}, which its layer must not know'
        elif (
            layer.allowed_packages is not None
            and not is_stdlib(top)
            and top not in layer.allowed_packages
        ):
            yield (
                f'imports {top}, its layer uses '
                f'{", ".join(layer.allowed_packages) or "nothing"} only'
            )
        elif not layer.may_import_ros and is_ros(top):
            yield f'imports {top}: ROS stays in nodes/'


def find_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                'relative' if node.level else f'{node.module}.{alias.name}' for alias in node.names
            )
        elif isinstance(node, ast.Call) and called_name(node) in ('import_module', '__import__'):
            yield from (
                arg.value
                for arg in node.args[:1]
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            )


def called_name(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, 'id', '')


def is_within(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f'{name}.') for name in allowed)


def is_stdlib(top: str) -> bool:
    from sys import stdlib_module_names

    return top in stdlib_module_names


def is_ros(top: str) -> bool:
    return top.endswith(('_msgs', '_interfaces', '_srvs')) or top.startswith(
        ('rcl', 'launch', 'ament_', 'rosidl', 'rosgraph', 'diagnostic_', 'ros2')
    )


def check_shape(name: str, text: str, tree: ast.Module) -> Iterator[str]:
    """Check sizes, names and that the module says what it is for."""
    lines = text.splitlines()
    if len(lines) > MAX_FILE_LINES:
        yield f'{len(lines)} lines; the limit is {MAX_FILE_LINES}: split the file'
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield f'line {number} has {len(line)} columns, at most {MAX_COLUMNS} fit'
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            # a launch file is one list, read from top to bottom
            if length > MAX_FUNCTION_LINES and not name.endswith('.launch.py'):
                yield f'{node.name} has {length} lines, at most {MAX_FUNCTION_LINES} fit'
    # below a double of another project's package, names are its own
    if not name.startswith(DRIVER_DOUBLE) and {
        *('utils', 'common', 'helpers', 'util', 'helper', 'misc')
    } & {part.removesuffix('.py') for part in name.split('/')}:
        yield 'a drawer for anything: name the noun'
    if not ast.get_docstring(tree) and not name.endswith('setup.py'):
        yield 'does not say what it is for: add a docstring'


def check_statements(name: str, text: str, tree: ast.Module) -> Iterator[str]:
    """Check single statements that are never right here."""
    command = name.startswith(COMMAND_FOLDERS) or "if __name__ == '__main__':" in text
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f'line {node.lineno}: bare except hides every fault'
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f'line {node.lineno}: relative import: write the whole name'
        if isinstance(node, ast.ImportFrom) and node.names[0].name == '*':
            yield f'line {node.lineno}: star import'
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ('eval', 'exec'):
                yield f'line {node.lineno}: {node.func.id} runs text as code'
            if node.func.id == 'print' and not command:
                yield f'line {node.lineno}: print outside a command'
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r'#.*\b(TODO|FIXME|XXX|HACK)\b', line):
            yield f'line {number}: do it or delete it'


def check_nodes(name: str, text: str, tree: ast.Module) -> Iterator[str]:
    """Check that no node assigns an attribute that rclpy's own class lives on."""
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        if not any(getattr(base, 'id', '').endswith('Node') for base in kind.bases):
            continue
        for node in ast.walk(kind):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and getattr(node.value, 'id', '') == 'self'
                and node.attr in RCLPY_ATTRIBUTES
            ):
                yield f"line {node.lineno}: {node.attr} is rclpy's own: take another name"


def check_names(name: str, text: str, tree: ast.Module) -> Iterator[str]:
    """Check that functions are verbs and that no name is a metaphor."""
    defined = {Path(name).stem}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if is_participle(node.name) and not any('property' in one for one in decorators):
                yield f'{node.name}: a function is a verb, not a participle'
            defined.add(node.name)
        elif isinstance(node, ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            defined.add(node.attr)
    for one in sorted(defined):
        if is_metaphor(one):
            yield f"{one}: a metaphor: use the field's word"
        elif has_word(one, PERSONIFICATIONS):
            yield f'{one}: programs are no persons: use request, receive, report, publish'


def is_participle(function: str) -> bool:
    """Tell whether a name is one word, and that a participle: written, stopped, settling."""
    word = function.strip('_')
    regular = re.fullmatch('[a-z]{3,}(ed|ing)', word) and not NOT_PARTICIPLES.fullmatch(word)
    return bool(regular or IRREGULAR_PARTICIPLES.fullmatch(word))


def is_metaphor(name: str) -> bool:
    # what replaces an old public name must name it
    return has_word(name, METAPHORS) and not {'deprecated', 'replace'} & set(split_words(name))


def has_word(name: str, pattern: re.Pattern[str]) -> bool:
    return any(map(pattern.fullmatch, split_words(name)))


def split_words(name: str) -> list[str]:
    """Return the words of a snake_case or CamelCase name in lower case."""
    return [word.lower() for word in re.findall('[A-Z]?[a-z]+|[A-Z]+', name)]


def check_duplicate_classes(trees: dict[str, ast.Module]) -> Iterator[str]:
    """Check that a class name stands once in the repository."""
    files: dict[str, list[str]] = {}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                files.setdefault(node.name, []).append(name)
    for kind, names in files.items():
        if len(names) > 1:
            yield f'{names[-1]}: class {kind} is also in {names[0]}'


def check_folder_sizes(trees: dict[str, ast.Module]) -> Iterator[str]:
    """Check that no folder has so many modules that nobody finds one."""
    folders = Counter(
        name.rpartition('/')[0] for name in trees if not name.endswith('__init__.py')
    )
    for folder, count in folders.items():
        if count > MAX_MODULES:
            yield f'{folder}: {count} modules, at most {MAX_MODULES} fit: make a folder of them'


def check_robots(root: Path) -> Iterator[tuple[str, str]]:
    """Check that all robots have the same shape and that every block has its source."""
    for home in (f'{POLICY}/robots', 'src/wam_sim/wam_sim/robots'):
        contents = {
            folder: frozenset(path.name for path in folder.iterdir())
            for folder in sorted((root / home).glob('*'))
            if folder.is_dir()
        }
        for folder, names in contents.items():
            usual = max(contents.values(), key=list(contents.values()).count)
            if names != usual:
                yield (
                    folder.relative_to(root).as_posix(),
                    f'holds {", ".join(sorted(names))}, the others {", ".join(sorted(usual))}',
                )
    for path in sorted((root / POLICY / 'robots').glob('*/embodiment.yaml')):
        folder = path.parent.relative_to(root).as_posix()
        text, readme = path.read_text(encoding='utf-8'), path.with_name('README.md')
        headings = (
            re.findall(r'^## (.*)$', readme.read_text(encoding='utf-8'), re.MULTILINE)
            if readme.exists()
            else []
        )
        explained = {key for heading in headings for key in heading.split(', ')}
        for key in yaml.safe_load(text):
            if key in ('name', 'title'):
                continue
            if key not in explained:
                yield folder, f'README.md does not say where {key} comes from'
        blocks = re.split(r'^(?=[a-z_]+:)', text, flags=re.MULTILINE)
        for before, block in zip(blocks, blocks[1:], strict=False):
            key = block.split(':')[0]
            comment = before.rsplit('\n\n', 1)[-1] + block
            if key not in ('name', 'title', 'commanded', 'state_only') and not re.search(
                r'#.*\[[VD]\]', comment
            ):
                yield folder, f'{key} has no [V] or [D] beside it'


def test_the_house_is_in_order() -> None:
    found = find_violations(ROOT)
    assert not found, '\n' + '\n'.join(found)


def test_the_check_sees_every_layer() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in ROOT.glob('src/**/*.py')]
    for layer in LAYERS:
        if (ROOT / layer.path).exists():
            assert any(name.startswith(layer.path) for name in names), layer.path


DOCSTRING = '"""Say what it is for."""\n'
VIOLATION_EXAMPLES = [
    (f'{POLICY}/core/x.py', DOCSTRING + 'import torch\n', 'imports torch, its layer uses numpy'),
    (f'{POLICY}/core/x.py', DOCSTRING + 'import time\n', 'imports time'),
    (f'{POLICY}/core/x.py', DOCSTRING + 'import yaml\n', 'imports yaml'),
    (f'{POLICY}/core/x.py', DOCSTRING + 'def f():\n    import rclpy\n', 'imports rclpy'),
    (
        f'{POLICY}/core/x.py',
        DOCSTRING + 'from wam_policy.model import network\n',
        'wam_policy.model.network',
    ),
    (f'{POLICY}/core/x.py', DOCSTRING + 'from wam_policy import model\n', 'wam_policy.model,'),
    (f'{POLICY}/core/x.py', DOCSTRING + "m = importlib.import_module('torch')\n", 'imports torch'),
    (f'{POLICY}/model/x.py', DOCSTRING + 'import yaml\n', 'imports yaml'),
    (
        f'{POLICY}/model/x.py',
        DOCSTRING + 'from sensor_msgs.msg import Image\n',
        'ROS stays in nodes/',
    ),
    (
        f'{POLICY}/model/x.py',
        DOCSTRING + 'import wam_policy.workers.protocol\n',
        'wam_policy.workers.protocol',
    ),
    (f'{POLICY}/workers/protocol.py', DOCSTRING + 'import pickle\n', 'imports pickle'),
    (
        f'{POLICY}/workers/protocol.py',
        DOCSTRING + 'import wam_policy.core.types\n',
        'wam_policy.core',
    ),
    (f'{POLICY}/workers/supervisor.py', DOCSTRING + 'import torch\n', 'imports torch'),
    (
        f'{POLICY}/workers/supervisor.py',
        DOCSTRING + 'from wam_policy.workers import velocity_exchange\n',
        'velocity_exchange',
    ),
    (f'{POLICY}/workers/request_server.py', DOCSTRING + 'import rclpy\n', 'imports rclpy'),
    (f'{POLICY}/nodes/x.py', DOCSTRING + 'def f():\n    import torch\n', 'imports torch'),
    (f'{POLICY}/core/x.py', DOCSTRING + 'import mujoco\n', 'imports mujoco'),
    (
        f'{POLICY}/core/x.py',
        DOCSTRING + 'from wam_policy import mujoco_collision\n',
        'mujoco_collision',
    ),
    (f'{POLICY}/mujoco_collision.py', DOCSTRING + 'import rclpy\n', 'imports rclpy'),
    (f'{POLICY}/servers/x.py', DOCSTRING + 'import torch\n', 'imports torch'),
    (f'{POLICY}/servers/x.py', DOCSTRING + 'import openpi_client\n', 'its layer uses numpy, cv2'),
    (
        f'{POLICY}/servers/x.py',
        DOCSTRING + 'from wam_policy.workers import run_worker\n',
        'workers.run_worker',
    ),
    (f'{POLICY}/servers/session_manager.py', DOCSTRING + 'import torch\n', 'imports torch'),
    (
        f'{POLICY}/servers/serve.py',
        DOCSTRING + 'from wam_policy.model import network\n',
        'model.network',
    ),
    (
        f'{POLICY}/servers/serve.py',
        DOCSTRING + 'from wam_policy.workers import run_worker\n',
        'workers.run_worker',
    ),
    (
        f'{POLICY}/nodes/x.py',
        DOCSTRING + 'from wam_policy.workers import run_worker\n',
        'workers.run_worker',
    ),
    (f'{LEARNING}/x.py', DOCSTRING + 'from wam_policy.nodes import policy\n', 'nodes.policy'),
    ('src/wam_console/wam_console/x.py', DOCSTRING + 'import torch\n', 'imports torch'),
    (
        'src/wam_console/wam_console/x.py',
        DOCSTRING + 'from wam_policy.nodes import motion\n',
        'nodes.motion',
    ),
    (f'{POLICY}/other/x.py', DOCSTRING, 'belongs to no layer'),
    ('src/wam_sim/wam_sim/x.py', DOCSTRING + 'import torch\n', 'imports torch'),
    ('src/wam_sim/wam_sim/x.py', DOCSTRING + 'import wam_policy.workers\n', 'wam_policy.workers'),
    (
        'src/wam_bringup/launch/x.launch.py',
        DOCSTRING + 'import wam_policy\n',
        'imports wam_policy',
    ),
    ('src/wam_bringup/launch/x.launch.py', DOCSTRING + 'import numpy\n', 'imports numpy'),
    (f'{POLICY}/core/x.py', DOCSTRING + 'x = 1\n' * 500, '501 lines'),
    (f'{POLICY}/core/x.py', DOCSTRING + 'def f():\n' + '    x = 1\n' * 90, 'f has 91 lines'),
    (f'{POLICY}/core/x.py', DOCSTRING + f'x = {"1" * 96}\n', 'line 2 has 100 columns'),
    (f'{POLICY}/core/utils.py', DOCSTRING, 'a drawer for anything'),
    (f'{POLICY}/core/common/x.py', DOCSTRING, 'a drawer for anything'),
    (f'{POLICY}/core/x.py', 'x = 1\n', 'add a docstring'),
    ('tools/cli/x.py', DOCSTRING + 'try:\n    f()\nexcept:\n    g()\n', 'bare except'),
    ('tools/cli/x.py', DOCSTRING + "eval('1')\n", 'eval runs text'),
    ('tools/cli/x.py', DOCSTRING + "exec('1')\n", 'exec runs text'),
    ('tools/cli/x.py', DOCSTRING + 'from . import y\n', 'relative import'),
    ('tools/cli/x.py', DOCSTRING + 'from y import *\n', 'star import'),
    (f'{POLICY}/model/x.py', DOCSTRING + "print('x')\n", 'print outside a command'),
    (f'{POLICY}/model/x.py', DOCSTRING + 'x = 1     # TODO: more\n', 'do it or delete it'),
    (
        f'{POLICY}/nodes/x.py',
        DOCSTRING + 'class X(LifecycleNode):\n    def f(self):\n        self._services = []\n',
        "_services is rclpy's own",
    ),
    ('tools/cli/x.py', DOCSTRING + 'def written():\n    pass\n', 'written: a function is a verb'),
    ('tools/cli/x.py', DOCSTRING + 'def _stopped():\n    pass\n', '_stopped: a function'),
    ('tools/cli/x.py', DOCSTRING + 'class WorkerCrew:\n    pass\n', 'WorkerCrew: a metaphor'),
    ('tools/cli/x.py', DOCSTRING + 'def f(patience_s):\n    pass\n', 'patience_s: a metaphor'),
    ('tools/cli/x.py', DOCSTRING + 'class A:\n    x = 1\n\n\nclass A:\n    y = 1\n', 'class A is'),
    ('tools/cli/journal.py', DOCSTRING, 'journal: a metaphor'),
    ('tools/cli/x.py', DOCSTRING + 'said = 1\n', 'said: programs are no persons'),
    ('tools/cli/x.py', DOCSTRING + 'def f(told): ...\n', 'told: programs are no persons'),
    ('tools/cli/x.py', DOCSTRING + 'def f(a):\n    a.heard_s = 1\n', 'heard_s: programs are'),
]


@pytest.mark.parametrize(('name', 'text', 'complaint'), VIOLATION_EXAMPLES)
def test_a_planted_fault_is_found(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = find_violations(tmp_path)
    assert [fault for fault in found if fault.startswith(name) and complaint in fault], found


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        (
            f'{POLICY}/core/x.py',
            DOCSTRING + 'import numpy as np\nfrom wam_policy.core import types\n',
        ),
        (
            f'{POLICY}/nodes/x.py',
            DOCSTRING + 'import rclpy\nfrom wam_policy.workers.supervisor import Pair\n',
        ),
        (
            f'{POLICY}/workers/run_worker.py',
            DOCSTRING + 'import torch\nfrom wam_policy.model import streaming_session\n',
        ),
        ('tools/cli/x.py', DOCSTRING + "print('done')\n"),
        (f'{POLICY}/model/x.py', DOCSTRING + "if __name__ == '__main__':\n    print('done')\n"),
        (f'{POLICY}/model/x.py', DOCSTRING + 'model.eval()\n'),
        ('tools/cli/x.py', DOCSTRING + 'class A:\n    @property\n    def moved(self): ...\n'),
        ('tools/cli/x.py', DOCSTRING + 'def embed(): ...\n\n\ndef is_moved(): ...\n'),
        ('tools/cli/x.py', DOCSTRING + 'toldness = 1\n'),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert find_violations(tmp_path) == []


def test_a_crowded_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / 'tools/cli'
    folder.mkdir(parents=True)
    for number in range(MAX_MODULES):
        (folder / f'x{number}.py').write_text(DOCSTRING)
    (folder / '__init__.py').write_text(DOCSTRING)
    assert find_violations(tmp_path) == []
    (folder / 'y.py').write_text(DOCSTRING)
    assert find_violations(tmp_path) == [
        'tools/cli: 17 modules, at most 16 fit: make a folder of them'
    ]


def write_robot(root: Path, name: str, yaml_text: str, readme: str | None) -> None:
    folder = root / POLICY / 'robots' / name
    folder.mkdir(parents=True)
    (folder / 'embodiment.yaml').write_text(yaml_text)
    if readme is not None:
        (folder / 'README.md').write_text(readme)


VALID_ROBOT = (
    'name: a\n\n# [V] read\njoints:\n  a: 1\n\n# [D] ours\nrest:\n  a: 0\n',
    '## joints\n## rest\n',
)


@pytest.mark.parametrize(
    ('yaml_text', 'readme', 'complaint'),
    [
        (VALID_ROBOT[0], None, 'holds embodiment.yaml, the others README.md, embodiment.yaml'),
        (VALID_ROBOT[0], '## joints\n', 'does not say where rest comes from'),
        (VALID_ROBOT[0].replace('[D]', ''), VALID_ROBOT[1], 'rest has no [V] or [D] beside it'),
    ],
)
def test_a_robot_that_differs_is_found(
    tmp_path: Path, yaml_text: str, readme: str | None, complaint: str
) -> None:
    write_robot(tmp_path, 'a', *VALID_ROBOT)
    write_robot(tmp_path, 'b', *VALID_ROBOT)
    assert find_violations(tmp_path) == []
    write_robot(tmp_path, 'c', yaml_text, readme)
    assert [fault for fault in find_violations(tmp_path) if '/c: ' in fault and complaint in fault]
