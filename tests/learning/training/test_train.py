"""Training from data to a checkpoint, at toy size."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.learning import played
from tests.learning.training.resumed_training import check_resumed_equals_whole
from wam_learning.data import episode_arrays, gear_metadata, latent_cache
from wam_learning.training import train, training_setup
from wam_learning.training.validation import swap_words
from wam_policy.core.robot import checkpoints, embodiment, transforms
from wam_policy.model.checkpoint import checkpoint_folder, inspect_checkpoint
from wam_policy.model.encoders.conv_vae import ConvVae
from wam_policy.model.robot_policy import InferenceOptions, Policy
from wam_policy.model.streaming_session import InferenceContext, StreamingSession


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return played.write_dataset(tmp_path_factory.mktemp('data') / 'a')


@pytest.fixture(scope='module')
def initial_checkpoint(tmp_path_factory):
    return played.save_tiny_checkpoint(tmp_path_factory.mktemp('begun') / 'tiny')


def run_training(data, out, init, *more, stage='joint', steps=4):
    words = [
        data,
        '--out',
        out,
        '--init',
        init,
        '--stage',
        stage,
        '--steps',
        steps,
        '--batch-size',
        8,
        '--device',
        'cpu',
        '--no-bf16',
        *more,
    ]
    return train.main([str(word) for word in words])


def read_csv(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_losses_fall_and_the_checkpoint_drives_a_robot(
    data, initial_checkpoint, tmp_path, capsys, monkeypatch
):
    out, learn, losses = tmp_path / 'out', train.Trainer.train_step, []

    def kept(self, batch, share):
        losses.append(learn(self, batch, share))
        return losses[-1]

    monkeypatch.setattr(train.Trainer, 'train_step', kept)
    # seed 2 holds out a `touch`: in one block nobody knows what a memory would hold
    assert (
        run_training(
            data,
            out,
            initial_checkpoint,
            '--lr',
            '5e-3',
            '--ema-decay',
            0.9,
            '--seed',
            2,
            steps=120,
        )
        == 0
    )
    for name, share in (('total', 0.75), ('video', 0.6), ('place', 0.5), ('patch', 0.9)):
        first, last = (
            np.mean([float(getattr(found, name)) for found in part])
            for part in (losses[:10], losses[-10:])
        )
        assert last < share * first, name
    heard = capsys.readouterr().out
    assert 'held out: first chunk' in heard and 'checkpoint:' in heard
    last = read_csv(out / 'training' / 'heldout.csv')[-1]
    assert float(last['touch/grounded']) == 1.0
    assert int(last['step']) == 120
    report = inspect_checkpoint.inspect_checkpoint(out)
    assert report.is_loadable and report.spec is not None and report.spec.trained
    assert not next(v for v in report.robots if v.robot == 'agibot_g1').errors
    assert not any(
        'head' in name
        for name in load_file(out / 'model.safetensors')
        if not name.startswith('action_head.')
    )
    loaded = checkpoint_folder.load(out, torch.device('cpu'), torch.float32)
    robot = embodiment.load_embodiment('agibot_g1')
    policy = Policy(loaded, robot, InferenceOptions(recipe='full16', steps=1, guidance=1.0))
    row = played._make_sample(robot, 0, 1, '')
    policy.reset(played.TEXTS[1])
    policy.commit({frame.camera: frame.rgb[None] for frame in row.observation.frames})
    found = policy.query(row.observation.joints.positions(robot.observed), seed=0)
    assert found.targets is not None and np.isfinite(found.targets).all()


def test_a_continued_training_equals_an_uninterrupted_one(
    data, initial_checkpoint, tmp_path, monkeypatch
):
    def run(out, steps):
        return run_training(data, out, initial_checkpoint, steps=steps)

    check_resumed_equals_whole(run, tmp_path, monkeypatch, steps=6)
    assert int(read_csv(tmp_path / 'parts' / 'training' / 'train.csv')[-1]['step']) == 6


def test_what_cannot_be_continued_is_said(data, initial_checkpoint, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run_training(data, out, initial_checkpoint, steps=1) == 0
    assert run_training(data, out, initial_checkpoint, '--seed', 5, steps=2) == 1
    assert 'seed was 0, is 5' in capsys.readouterr().err
    path = out / train.RESUME_FILE
    path.write_bytes(path.read_bytes()[:1000])
    assert run_training(data, out, initial_checkpoint, steps=2) == 1
    assert 'damaged' in capsys.readouterr().err
    assert run_training(data, out, initial_checkpoint, '--no-resume', steps=1) == 0
    assert run_training(tmp_path / 'nothing', out, initial_checkpoint) == 1
    assert 'is not a data set' in capsys.readouterr().err


def test_a_clone_says_what_it_is_and_joint_training_goes_on_from_it(
    data, initial_checkpoint, tmp_path
):
    cloned, joint = tmp_path / 'cloned', tmp_path / 'joint'
    assert run_training(data, cloned, initial_checkpoint, stage='bc', steps=2) == 0
    design = checkpoint_folder.designs.read_spec(cloned)
    assert not design.model.predicts_video and design.model.window_blocks == 1
    assert design.name == 'mini_cloned'
    assert design.inference is not None and design.inference.steps == 1
    robot = embodiment.load_embodiment('agibot_g1')
    policy = Policy(
        checkpoint_folder.load(cloned, torch.device('cpu'), torch.float32),
        robot,
        InferenceOptions(recipe='full16', steps=1, guidance=1.0),
    )
    policy.reset(played.TEXTS[0])
    views = {c.key: np.zeros((1, 48, 64, 3), np.uint8) for c in robot.cameras}
    policy.commit(views)
    policy.commit({key: np.repeat(view, 4, 0) for key, view in views.items()})
    assert policy.memory.frames == 1  # the newest picture, nothing else
    targets = policy.query(robot.home_positions(robot.observed), 0).targets
    assert targets is not None and targets.shape == (24, 16)
    assert run_training(data, joint, cloned, stage='joint', steps=1) == 0
    design = checkpoint_folder.designs.read_spec(joint)
    assert design.name == 'mini' and design.model.window_blocks == 4
    assert design.model.predicts_video
    flash = tmp_path / 'flash'
    assert run_training(data, flash, joint, stage='flash', steps=1) == 0
    assert (
        checkpoint_folder.designs.read_spec(flash).video_final_noise
        == training_setup.FLASH_VIDEO_NOISE
    )
    inference = checkpoint_folder.designs.read_spec(flash).inference
    assert inference is not None and inference.recipe == 'one_step'


def test_the_autoencoder_of_another_checkpoint_is_taken_and_not_trained(
    data, initial_checkpoint, tmp_path, capsys
):
    words = [data, '--out', tmp_path / 'out', '--autoencoder', 'mini', '--stage', 'bc']
    words += ['--steps', 1, '--batch-size', 2, '--device', 'cpu', '--no-bf16']
    assert train.main([str(word) for word in words]) == 0
    shipped, found = (
        checkpoint_folder.load(folder, torch.device('cpu'), torch.float32)
        for folder in (checkpoints.resolve_checkpoint('mini'), tmp_path / 'out')
    )
    before, after = shipped.encoders.vae, found.encoders.vae
    assert before.config == after.config
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert not torch.equal(next(shipped.dit.parameters()), next(found.dit.parameters()))
    assert found.spec.row_std != shipped.spec.row_std  # statistics are those of the data
    words[words.index('mini')] = initial_checkpoint  # 4 channels
    assert train.main([str(word) for word in words]) == 1
    assert 'it has 4 channels and stride 8, mini wants 8 and 8' in capsys.readouterr().err
    assert run_training(data, tmp_path / 'x', initial_checkpoint, '--autoencoder', 'mini') == 1
    assert '--autoencoder: leave it out with --init' in capsys.readouterr().err


def test_a_model_trained_with_committed_rows_says_so(data, initial_checkpoint, tmp_path, capsys):
    out, delays = tmp_path / 'out', ('--committed-rows', 6, '--late-rows', 9, '--clean-video', 0.3)
    assert run_training(data, out, initial_checkpoint, *delays, steps=2) == 0
    assert checkpoint_folder.designs.read_spec(out).max_committed_rows == 6
    assert run_training(data, out, initial_checkpoint, *delays, steps=3) == 0  # goes on
    assert run_training(data, out, initial_checkpoint, steps=4) == 1
    said = capsys.readouterr().err
    assert "delays was {'committed': 6, 'late': 9}, is {'committed': 0, 'late': 0}" in said
    wrong = run_training(data, tmp_path / 'x', initial_checkpoint, '--committed-rows', 24, steps=1)
    assert wrong == 1 and '24 committed' in capsys.readouterr().err


def test_deprecated_flags_are_still_accepted(capsys):
    words = ['d', '--out', 'x', '--rate', '0.5', '--average', '0.9', '--batch', '3', '--fresh']
    options = train.parse_arguments(
        [*words, '--recompute', '--keep', '2', '--lora', '4', '--stage', 'clone']
    )
    assert (options.lr, options.ema_decay, options.batch_size) == (0.5, 0.9, 3)
    assert options.no_resume and options.gradient_checkpointing and options.stage == 'bc'
    assert (options.num_snapshots, options.lora_rank) == (2, 4)
    assert capsys.readouterr().err.count('is deprecated') == 8


def test_live_inference_equals_the_training_pass(data, initial_checkpoint, tmp_path):
    """The whole live path on recorded pictures, against the batch that training would see."""
    out = tmp_path / 'out'
    assert run_training(data, out, initial_checkpoint, steps=3) == 0
    policy = checkpoint_folder.load(out, torch.device('cpu'), torch.float32)
    read = episode_arrays.read_datasets([data], policy.spec)
    windows, _ = training_setup.make_samplers(policy, read, 0)
    shift = 5
    batch = windows.build_batch([0], 2, np.array([shift]))
    span, model, robot = windows.data.episodes[0], policy.spec.model, read.robot
    noise = torch.randn(1, 2, model.actions_per_block, model.action_dim)
    dream = torch.randn(1, model.latent_channels, 2, *model.latent_size)
    t = torch.full((1, 2), 999.0)
    words = policy.encoders.encode_prompts([policy.spec.make_prompt('agibot', batch.texts[0])])
    with torch.no_grad():
        trained = policy.dit(
            batch.visual.clean,
            dream,
            t,
            noise.flatten(1, 2),
            t.repeat_interleave(model.actions_per_block, 1),
            batch.state,
            policy.dit.embed_context(words),
            skip_unused_tokens=True,
        )
    live = Policy(policy, robot, InferenceOptions(recipe='full16', steps=1, guidance=1.0))
    session = live._streaming_session
    assert session is not None
    live.reset(batch.texts[0])
    film = np.stack([read.frame_store[span.first_frame + i] for i in range(5)])
    for block, shown in enumerate((film[:1], film[1:])):
        session.observe(torch.from_numpy(shown))
        episode = session._inference_context
        episode._noise_fn = lambda seed, b=block: (dream[:, :, b : b + 1], noise[:, b])
        row = span.first_row + shift + 24 * block
        cut = {
            key: read.state[row, part]
            for key, part in gear_metadata.key_slices(robot.state_keys).items()
        }
        found = live.query(transforms.from_model_state(robot, cut), 0)
        velocity = trained.action[:, 24 * block : 24 * (block + 1)]
        actions = (noise[:, block] - velocity)[0].numpy()  # one step from pure noise
        wanted = transforms.from_model_actions(
            robot, policy.make_normalizer(robot).denormalize_actions(actions, cut)
        )
        assert found.targets == pytest.approx(wanted, abs=2e-3)
    assert isinstance(session, StreamingSession) and isinstance(episode, InferenceContext)


def test_statistics_of_another_robot_join_those_there(data, initial_checkpoint, tmp_path):
    first = tmp_path / 'g1'
    assert run_training(data, first, initial_checkpoint, steps=1) == 0
    yam = played.write_dataset(tmp_path / 'yam', 2, robot_name='yam')
    assert run_training(yam, tmp_path / 'both', first, steps=1) == 0
    tags = checkpoint_folder.read_metadata(tmp_path / 'both')
    assert set(tags) == {'agibot', 'yam'}
    before = json.loads((first / checkpoint_folder.METADATA_PATH).read_text())
    after = json.loads((tmp_path / 'both' / checkpoint_folder.METADATA_PATH).read_text())
    assert after['agibot'] == before['agibot']


def test_words_are_shuffled_among_those_in_use():
    texts = ['left hand: touch the red cube', 'push the blue cube to the right']
    assert swap_words(texts, ('red', 'green', 'blue')) == [
        'left hand: touch the blue cube',
        'push the red cube to the right',
    ]
    assert swap_words(texts, ('left', 'right')) == [
        'right hand: touch the red cube',
        'push the blue cube to the left',
    ]
    assert swap_words(texts[:1], ('red', 'blue')) == texts[:1]


def test_a_fresh_mini_learns_its_pictures_first(data, tmp_path, monkeypatch, capsys):
    made = played.make_tiny_policy()
    monkeypatch.setattr(training_setup, 'load_initial', lambda origin: replace(made))
    words = [
        str(data),
        '--out',
        str(tmp_path / 'ae'),
        '--stage',
        'autoencoder',
        '--autoencoder-steps',
        '40',
        '--device',
        'cpu',
    ]
    assert train.main(words) == 0
    heard = capsys.readouterr().out
    assert float(heard.split('autoencoder: ')[-1].split(' dB')[0]) > 12
    found = checkpoint_folder.load(tmp_path / 'ae', torch.device('cpu'), torch.float32)
    assert not found.is_trained
    assert max(found.spec.encoders.vae.std) > 1e-3
    read = episode_arrays.read_datasets([data], found.spec)
    assert isinstance(found.encoders.vae, ConvVae)
    seen = latent_cache.load_or_encode(read, found.encoders.vae)
    assert seen.group.float().std() == pytest.approx(1, abs=0.4)


def test_a_shipped_model_is_begun_from_by_its_name_and_an_unknown_one_named(
    data, tmp_path, capsys, monkeypatch
):
    given = []
    monkeypatch.setattr(
        training_setup, 'load_initial', lambda origin: given.append(origin.init) or exit(0)
    )
    with pytest.raises(SystemExit):
        run_training(data, tmp_path / 'out', 'mini')
    assert (given[0] / 'model.safetensors').is_file()
    assert run_training(data, tmp_path / 'out', 'minni') == 1
    error = capsys.readouterr().err
    assert "'minni' is neither a folder nor a shipped model (mini, mini_yam)" in error
