"""Parameters on a real node: declared with everything a tool shows, refused with a reason."""

import dataclasses

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from rclpy.parameter import Parameter

from wam_policy.nodes import parameters
from wam_policy.nodes.parameters import MotionParams, PolicyParams, StreamParams, parameter

pytestmark = pytest.mark.ros
PARAMS_CLASSES = [PolicyParams, MotionParams, StreamParams]


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeParams:
    rate_hz: float = parameter(
        100.0, 'control loop', unit='Hz', low=20.0, high=500.0, dynamic=True
    )
    count: int = parameter(3, 'how many', low=1, high=9)
    mode: str = parameter('a', 'which', choices=('a', 'b'))
    names: tuple[str, ...] = parameter(('x', 'y'), 'a list')
    scales: tuple[float, ...] = parameter((0.5, 1.0), 'a list of numbers', low=0.0, high=1.0)
    on: bool = parameter(False, 'a switch')
    devices: tuple[str, ...] = parameter(('cpu',), 'where', pattern=r'cpu|cuda:\d+')
    update: str = parameter(
        'new',
        'when',
        choices=('new', 'other'),
        deprecated_name='old_update',
        deprecated_values={'old': 'new', 'old_other': 'other'},
    )
    __post_init__ = parameters.validate_fields


@pytest.fixture
def node(request):
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node(
        'probe',
        context=context,
        cli_args=[
            '--ros-args',
            *(part for rule in getattr(request, 'param', ()) for part in ('-p', rule)),
        ],
    )
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_defaults_come_back_frozen(node):
    assert parameters.read(node, ProbeParams) == ProbeParams()
    assert parameters.read(node, ProbeParams).names == ('x', 'y')  # a second read declares nothing


@pytest.mark.parametrize(
    'node',
    [
        [
            'rate_hz:=50.0',
            'count:=9',
            'mode:=b',
            'names:=[p]',
            'scales:=[0.25]',
            'on:=true',
            'devices:=["cuda:0", "cuda:1"]',
        ]
    ],
    indirect=True,
)
def test_overrides_are_read(node):
    assert parameters.read(node, ProbeParams) == ProbeParams(
        50.0, 9, 'b', ('p',), (0.25,), True, ('cuda:0', 'cuda:1')
    )


@pytest.mark.parametrize(
    ('node', 'words'),
    [
        (['rate_hz:=501.0'], ['rate_hz', '[20, 500] Hz']),
        (['rate_hz:=50'], ['rate_hz', 'with a decimal point']),
        (['rate_hz:=.nan'], ['rate_hz']),
        (['count:=0'], ['count', 'a whole number in [1, 9]']),
        (['count:=many'], ['count', 'a whole number']),
        (['mode:=c'], ['mode', "one of a, b, got 'c'"]),
        (['scales:=[0.5, 1.5]'], ['scales', '[0, 1], got 1.5']),
        (['on:=1'], ['on', 'true or false']),
        (['devices:=[cpu, gpu]'], ['devices', 'a list', r'like cpu|cuda:\d+, got', 'gpu']),
    ],
    indirect=['node'],
)
def test_a_wrong_override_is_refused_at_start(node, words):
    with pytest.raises(ValueError) as caught:
        parameters.read(node, ProbeParams)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_descriptors_say_unit_range_and_choices(node):
    parameters.read(node, ProbeParams)
    rate = node.describe_parameter('rate_hz')
    assert rate.description == 'control loop [Hz]'
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (
        20.0,
        500.0,
    )
    assert node.describe_parameter('count').integer_range[0].to_value == 9
    assert 'one of a, b' in node.describe_parameter('mode').additional_constraints
    assert 'fixed while active' in node.describe_parameter('mode').additional_constraints
    assert rate.additional_constraints == ''


@pytest.mark.parametrize(
    ('node', 'value', 'warnings'),
    [
        ([], 'new', []),
        (['old_update:=other'], 'other', ['parameter old_update', 'use update']),
        (['update:=old_other'], 'other', ["value 'old_other'", "use 'other'"]),
        (
            ['old_update:=old_other'],
            'other',
            ['parameter old_update', 'use update', "value 'old_other'", "use 'other'"],
        ),
        (['old_update:=old', 'update:=other'], 'other', ['parameter old_update']),
    ],
    indirect=['node'],
)
def test_old_names_and_values_work_with_a_warning(node, value, warnings, capfd):
    assert parameters.read(node, ProbeParams).update == value
    assert not node.has_parameter('old_update')
    log = capfd.readouterr().err
    assert all(text in log for text in warnings) and bool(warnings) == ('deprecated' in log), log


def test_an_old_value_is_accepted_at_run_time(node):
    seen = []
    parameters.read(node, ProbeParams)
    parameters.add_on_change_callback(node, ProbeParams, lambda: False, seen.append)
    assert set_parameter(node, 'update', 'old_other').successful
    assert seen[-1].update == 'other' == parameters.read(node, ProbeParams).update


def set_parameter(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_changes_are_judged_and_handed_over(node):
    active, seen = [False], []
    parameters.read(node, ProbeParams)
    parameters.add_on_change_callback(node, ProbeParams, lambda: active[0], seen.append)
    assert set_parameter(node, 'mode', 'b').successful
    assert seen[-1] == ProbeParams(mode='b')
    refused = set_parameter(node, 'mode', 'c')
    assert not refused.successful and "mode: want one of a, b, got 'c'" in refused.reason
    refused = set_parameter(node, 'scales', [2.0])
    assert not refused.successful and 'scales' in refused.reason
    active[0] = True
    refused = set_parameter(node, 'mode', 'a')
    assert not refused.successful and 'cannot change while the node is active' in refused.reason
    assert set_parameter(node, 'rate_hz', 30.0).successful
    assert seen[-1] == ProbeParams(rate_hz=30.0, mode='b')
    assert not set_parameter(node, 'rate_hz', 3.0).successful
    assert parameters.read(node, ProbeParams) == seen[-1] and len(seen) == 2


def test_an_active_node_keeps_its_clock_and_takes_values_that_change_nothing(node):
    active = [False]
    parameters.read(node, ProbeParams)
    parameters.add_on_change_callback(node, ProbeParams, lambda: active[0], lambda _: None)
    assert set_parameter(node, 'use_sim_time', True).successful
    assert node.get_clock().ros_time_is_active
    active[0] = True
    refused = set_parameter(node, 'use_sim_time', False)
    assert not refused.successful and 'use_sim_time cannot change' in refused.reason
    assert node.get_parameter('use_sim_time').value and node.get_clock().ros_time_is_active
    together = [Parameter('rate_hz', value=50.0), Parameter('use_sim_time', value=False)]
    assert not node.set_parameters_atomically(together).successful
    assert (
        node.get_clock().ros_time_is_active and parameters.read(node, ProbeParams).rate_hz == 100
    )
    assert set_parameter(node, 'use_sim_time', True).successful
    assert set_parameter(node, 'mode', 'a').successful
    assert set_parameter(node, 'names', ['x', 'y']).successful


def test_a_parameter_cannot_be_deleted(node):
    parameters.read(node, ProbeParams)
    parameters.add_on_change_callback(node, ProbeParams, lambda: False, lambda _: None)
    refused = node.set_parameters([Parameter('mode', Parameter.Type.NOT_SET)])[0]
    assert not refused.successful and parameters.read(node, ProbeParams) == ProbeParams()


@pytest.mark.parametrize('name', ['', 'a b', '/left/', '5', 'a//b', '~', 'a-b'])
def test_what_is_no_topic_name_is_refused_where_it_is_set(node, name):
    parameters.read(node, MotionParams)
    parameters.add_on_change_callback(node, MotionParams, lambda: False, lambda _: None)
    refused = set_parameter(node, 'joint_states_topic', name)
    assert not refused.successful and 'joint_states_topic' in refused.reason
    for fine in ('/joint_states', 'arm/joint_states', '~/joints'):
        assert set_parameter(node, 'joint_states_topic', fine).successful


@pytest.mark.parametrize('kind', PARAMS_CLASSES)
def test_every_parameter_of_every_node_is_described(node, kind):
    defaults = parameters.read(node, kind)
    for field in dataclasses.fields(kind):
        descriptor = node.describe_parameter(field.name)
        assert len(descriptor.description) > 5
        if field.type in (int, float):
            assert descriptor.integer_range or descriptor.floating_point_range, field.name
        if field.name.endswith('_s'):
            assert '[s]' in descriptor.description
        if field.name.endswith('_hz'):
            assert '[Hz]' in descriptor.description
    assert defaults == kind()


@pytest.mark.parametrize(
    'node',
    [['mode:=reference', 'cfg:=2.0', 'window:=slide', 'compressed_images:=true']],
    indirect=True,
)
def test_the_old_names_of_policy_node_are_accepted(node):
    params = parameters.read(node, PolicyParams)
    assert (params.memory_update, params.guidance_scale, params.kv_window) == (
        'released',
        2.0,
        'slide',
    )
    assert params.image_transport == 'compressed'


def test_nothing_moves_a_real_robot_by_default():
    assert not MotionParams().enable_motion and not StreamParams().enable_motion
