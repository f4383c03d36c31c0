"""Data sets as people have them: `dataset check` names every flaw, `dataset view` shows them."""

import json

import pytest

from tests.field import dataset_kinds
from tests.field.dataset_kinds import CAMERA, EPISODES, FLAWS, OBSTACLES
from wam_learning.inspection import dataset_command


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    return dataset_kinds.write_dataset(tmp_path_factory.mktemp('sets') / 'a')


@pytest.fixture
def copied(written, tmp_path):
    return dataset_kinds.copy(written, tmp_path / 'a')


def check(folder, capsys, *options):
    """Return the exit status and the lines that are printed."""
    status = dataset_command.main(['check', str(folder), *options])
    said = capsys.readouterr()
    assert not said.err
    return status, said.out.splitlines()


@pytest.mark.parametrize('version', ['v2.0', 'v2.1', 'v3.0'])
def test_a_sound_data_set_has_no_finding_in_any_version(copied, capsys, version):
    status, lines = check(dataset_kinds.convert(copied, version), capsys)
    assert status == 0, lines
    assert not [line for line in lines if line.startswith(('error', 'warning', 'note'))]
    text = '\n'.join(lines)
    assert f'LeRobot {version}' in text and 'actions: setpoints' in text
    assert f'{EPISODES} episodes, 240 rows at 30 Hz' in text and f'{CAMERA}: 48 x 64 x 3' in text
    assert 'robot yam: yes' in text and 'robot agibot_g1: no: ' in text
    assert 'model mini_yam: yes' in text and 'model mini: yes (was trained on another' in text


@pytest.mark.parametrize('flaw', FLAWS)
def test_a_flaw_is_one_line_and_prevents_nothing(copied, capsys, flaw):
    change, item, value = FLAWS[flaw]
    change(copied)
    status, lines = check(copied, capsys)
    found = [line for line in lines if line.startswith(('warning', 'note')) and item in line]
    assert any(value in line for line in found), lines
    assert status == 0


@pytest.mark.parametrize('obstacle', OBSTACLES)
def test_what_prevents_training_is_named_and_is_the_exit_status(copied, capsys, obstacle):
    change, item, value = OBSTACLES[obstacle]
    change(copied)
    status, lines = check(copied, capsys)
    assert status == 1
    assert any(value in line and item in line for line in lines), lines
    assert lines[-1].endswith('cannot be trained on')


@pytest.mark.parametrize('version', ['v2.1', 'v3.0'])
def test_no_damaged_file_ends_a_check_with_a_traceback(copied, tmp_path, capsys, version):
    """Of every kind of file one, empty."""
    dataset_kinds.convert(copied, version)
    kinds = {}
    for path in sorted(path for path in copied.rglob('*') if path.is_file()):
        kinds.setdefault((path.parent.name, path.suffix, path.stem.rstrip('0123456789')), path)
    for path in kinds.values():
        content = path.read_bytes()
        path.write_bytes(b'')
        status, lines = check(copied, capsys, '--videos', '1')
        if path.stem not in ('embodiment', 'provenance'):  # training does without them
            assert [line for line in lines if line.startswith(('error', 'warning'))], path
        assert status in (0, 1)
        path.write_bytes(content)


def test_an_instruction_that_a_model_cannot_read_is_named(tmp_path, capsys):
    folder = dataset_kinds.write_dataset(tmp_path / 'a', text='put it there ' * 9)
    status, lines = check(folder, capsys)
    assert status == 0  # the robot fits, and other models read more
    assert any(line.startswith('model mini_yam: no: ') and 'bytes' in line for line in lines)


def test_one_episode_is_too_few(copied, capsys):
    lines = (copied / 'meta/episodes.jsonl').read_text().splitlines()
    (copied / 'meta/episodes.jsonl').write_text(lines[0] + '\n')
    status, said = check(copied, capsys)
    assert status == 1 and any('want at least 2' in line for line in said)


def test_the_report_is_json_on_request(copied, capsys):
    FLAWS['totals'][0](copied)
    status, lines = check(copied, capsys, '--json')
    report = json.loads('\n'.join(lines))
    assert status == 0 and report['can_train'] and report['robots']['yam'] == []
    assert [f['item'] for f in report['findings']] == ['meta/info.json']


def test_a_folder_of_data_sets_is_checked_one_by_one(written, tmp_path, capsys):
    for name in ('000', '001'):
        dataset_kinds.copy(written, tmp_path / 'shards' / name)
    (tmp_path / 'shards/001/meta/tasks.jsonl').unlink()
    status, lines = check(tmp_path / 'shards', capsys)
    assert status == 1
    assert f'{tmp_path}/shards/000: can be trained on' in lines
    assert f'{tmp_path}/shards/001: cannot be trained on' in lines


def test_a_page_shows_pictures_plots_and_findings_in_one_file(copied, tmp_path, capsys):
    FLAWS['gaps'][0](copied)
    dataset_kinds.damage(dataset_kinds.first(copied, f'videos/*/{CAMERA}/*.mp4'))
    assert dataset_command.main(['view', str(copied), '--episodes', '2']) == 0
    page = (tmp_path / 'a.html').read_text()
    assert page.count('data:image/jpeg') == 2 * 3 * 5 - 5 and page.count('data:image/png') == 2
    assert 'cannot be decoded' in page and 'put the block into the box' in page
    assert 'http' not in page and '<script' not in page
    assert '<td>gaps</td>' in page
    assert dataset_command.main(['view', str(copied), '--episodes', '1']) == 0  # its own page
    (tmp_path / 'a.html').write_text('notes')
    assert dataset_command.main(['view', str(copied)]) == 1
    assert 'exists and is not such a page' in capsys.readouterr().err
    assert (tmp_path / 'a.html').read_text() == 'notes'


def test_a_page_of_what_is_no_data_set_is_refused(tmp_path, capsys):
    for command in ('check', 'view'):
        assert dataset_command.main([command, str(tmp_path / 'nowhere')]) == 1
    assert 'is not a data set' in capsys.readouterr().err
    assert not list(tmp_path.glob('*.html'))


# ---- DreamZero's loader

# groot/vla/data/dataset/lerobot.py of its repository, and docs/DATASET_TO_GEAR_AND_TRAIN.md
DREAMZERO_FILES = ('modality.json', 'embodiment.json', 'stats.json', 'info.json', 'tasks.jsonl')
DREAMZERO_STATS = {'max', 'min', 'mean', 'std', 'q01', 'q99'}
# modality_config_yam of its base_48_wan_fine_aug_relative.yaml
DREAMZERO_YAM = {
    'video': ('top_camera-images-rgb', 'left_camera-images-rgb', 'right_camera-images-rgb'),
    'state': ('left_joint_pos', 'left_gripper_pos', 'right_joint_pos', 'right_gripper_pos'),
    'action': ('left_joint_pos', 'left_gripper_pos', 'right_joint_pos', 'right_gripper_pos'),
    'annotation': ('task',),
}


def test_an_export_has_the_files_and_keys_that_dreamzero_documents(written):
    meta = written / 'meta'
    assert not [name for name in DREAMZERO_FILES if not (meta / name).is_file()]
    content = {
        name: json.loads((meta / f'{name}.json').read_text())
        for name in ('modality', 'info', 'stats', 'relative_stats_dreamzero', 'embodiment')
    }
    modality, features = content['modality'], content['info']['features']
    assert {group: tuple(keys) for group, keys in modality.items()} == DREAMZERO_YAM
    for group in ('state', 'action'):
        ends = [(part['start'], part['end']) for part in modality[group].values()]
        column = features[modality[group]['left_joint_pos']['original_key']]
        assert ends[0][0] == 0 and ends[-1][1] == column['shape'][0]
        assert all(before[1] == after[0] for before, after in zip(ends, ends[1:], strict=False))
    for part in (*modality['video'].values(), *modality['annotation'].values()):
        assert part['original_key'] in features
    for entry in (*content['stats'].values(), *content['relative_stats_dreamzero'].values()):
        assert set(entry) == DREAMZERO_STATS
    assert set(content['relative_stats_dreamzero']) == set(DREAMZERO_YAM['action'])
    assert content['embodiment']['embodiment_tag'] == 'yam'
    assert features[CAMERA]['names'] == ['height', 'width', 'channel']
    assert features[CAMERA]['info']['video.fps'] == 30
