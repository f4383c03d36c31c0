import pytest
from hypothesis import given
from hypothesis import strategies as st

from wam_policy.recording.episode_info import (
    EpisodeEnd,
    EpisodeMetadata,
    TaskSuccess,
    make_folder_name,
    parse_labels,
)

NOON_NS = 1_767_268_800_000_000_000  # 2026-01-01 12:00:00 UTC


def test_a_folder_name_has_time_and_instruction():
    assert (
        make_folder_name(NOON_NS, 'Pick up the RED cube!', [])
        == '20260101_120000_pick_up_the_red_cube'
    )
    assert make_folder_name(NOON_NS, '', []) == '20260101_120000'


def test_folder_names_are_unique():
    first = make_folder_name(NOON_NS, 'wave', [])
    second = make_folder_name(NOON_NS, 'wave', [first])
    assert second == first + '-2'
    assert make_folder_name(NOON_NS, 'wave', [first, second]) == first + '-3'


@given(st.text(max_size=200), st.lists(st.text(max_size=20)))
def test_no_instruction_changes_the_path(instruction, taken):
    name = make_folder_name(NOON_NS, instruction, taken)
    assert name not in taken and len(name) < 100
    assert all(c.isascii() and (c.isalnum() or c in '_-') for c in name)


def test_labels_are_pairs():
    assert parse_labels(['operator=Ada', 'site = lab = 2']) == {
        'operator': 'Ada',
        'site': 'lab = 2',
    }


@pytest.mark.parametrize(
    ('given_labels', 'complaint'),
    [
        (['operator'], 'key=value'),
        (['Operator=x'], 'lowercase letters'),
        (['=x'], 'key=value'),
        (['a=1', 'a=2'], 'twice'),
        (['a=' + 'x' * 1001], '1001 characters'),
    ],
)
def test_invalid_labels_are_rejected(given_labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_labels(given_labels)


def test_metadata_are_strings():
    begun = EpisodeMetadata('e', 'yam', 'abc', 'wave', NOON_NS, {'operator': 'Ada'}).to_dict()
    ended = EpisodeEnd('stopped', TaskSuccess.YES, 'fine', {'/a': 0, '/b': 2}).to_dict()
    assert begun['label.operator'] == 'Ada' and begun['start_ns'] == str(NOON_NS)
    assert ended == {
        'ended': 'stopped',
        'success': 'yes',
        'note': 'fine',
        'dropped': '2',
        'dropped./b': '2',
    }
    assert EpisodeEnd('killed').to_dict()['success'] == 'unknown'
    assert all(isinstance(value, str) for value in {**begun, **ended}.values())
