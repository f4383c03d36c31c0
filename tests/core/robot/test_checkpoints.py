"""Checkpoints are found by folder, preset or name; their advice is read without a network."""

import json

import pytest

from wam_policy.core.robot import checkpoints


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, 'MODELS_DIR', tmp_path)
    (tmp_path / 'mini').mkdir()
    (tmp_path / 'mini' / 'config.json').write_text('{}')
    return tmp_path


def test_a_name_a_folder_and_a_preset_are_found(shipped):
    assert checkpoints.list_shipped_models() == ('mini',)
    assert checkpoints.resolve_checkpoint('mini') == str(shipped / 'mini')
    assert checkpoints.resolve_checkpoint(str(shipped)) == str(shipped)
    assert checkpoints.resolve_checkpoint('preset:tiny') == 'preset:tiny'


def test_a_model_drives_the_robots_it_has_statistics_of(shipped):
    assert not checkpoints.supports_robot('mini', 'agibot')
    folder = shipped / 'mini' / 'experiment_cfg'
    folder.mkdir()
    (folder / 'metadata.json').write_text('{"agibot": {}}')
    assert checkpoints.supports_robot('mini', 'agibot') and not checkpoints.supports_robot(
        'mini', 'yam'
    )
    (folder / 'metadata.json').write_text('{')
    with pytest.raises(ValueError, match=r'metadata\.json cannot be read'):
        checkpoints.supports_robot('mini', 'agibot')


def test_where_the_default_does_not_fit_another_shipped_model_does(shipped):
    assert checkpoints.select_for_robot('mini', 'agibot') == checkpoints.FALLBACK_CHECKPOINT
    for name, robots in (('mini', '{"agibot": {}}'), ('mini_yam', '{"agibot": {}, "yam": {}}')):
        folder = shipped / name / 'experiment_cfg'
        folder.mkdir(parents=True)
        (shipped / name / 'config.json').write_text('{}')
        (folder / 'metadata.json').write_text(robots)
    assert checkpoints.select_for_robot('mini', 'agibot') == 'mini'
    assert checkpoints.select_for_robot('mini', 'yam') == 'mini_yam'
    assert checkpoints.select_for_robot('mini', 'droid') == checkpoints.FALLBACK_CHECKPOINT
    assert checkpoints.select_for_robot('/a/folder', 'droid') == '/a/folder'  # asked for: taken
    assert checkpoints.resolve_checkpoint('mini', 'yam') == str(shipped / 'mini_yam')
    assert checkpoints.resolve_checkpoint('mini') == str(shipped / 'mini')
    assert checkpoints.resolve_checkpoint('preset:tiny', 'droid') == 'preset:tiny'
    with pytest.raises(ValueError, match='no shipped model was trained on the robot droid'):
        checkpoints.resolve_checkpoint('mini', 'droid')


@pytest.mark.parametrize('name', ['', 'maxi', '/no/such'])
def test_what_is_nowhere_is_refused_with_what_there_is(shipped, name):
    with pytest.raises(ValueError, match=r'nor a shipped model \(mini\)'):
        checkpoints.resolve_checkpoint(name)


@pytest.mark.parametrize(
    ('content', 'wanted'),
    [
        ({}, checkpoints.InferenceDefaults()),
        ({'wam': {}}, checkpoints.InferenceDefaults()),
        ({'wam': {'inference': None}}, checkpoints.InferenceDefaults()),
        (
            {'wam': {'inference': {'recipe': 'full16', 'steps': 4, 'guidance': 1}}},
            checkpoints.InferenceDefaults('full16', 4, 1.0),
        ),
        (
            {'wam': {'inference': {'recipe': 'static8', 'steps': None}}},
            checkpoints.InferenceDefaults('static8'),
        ),
    ],
)
def test_advice_is_read(tmp_path, content, wanted):
    (tmp_path / 'config.json').write_text(json.dumps(content))
    assert checkpoints.read_inference_defaults(str(tmp_path)) == wanted


def test_presets_and_bare_folders_advise_nothing(tmp_path):
    assert (
        checkpoints.read_inference_defaults('preset:tiny')
        == checkpoints.read_inference_defaults(str(tmp_path))
        == checkpoints.InferenceDefaults()
    )


@pytest.mark.parametrize('text', ['{', '[]', '{"wam": {"inference": {"steps": "many"}}}'])
def test_advice_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=r'config\.json: wam\.inference cannot be read'):
        checkpoints.read_inference_defaults(str(tmp_path))
