"""Text, image and the bundle of encoders at toy size."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.model.encoders import encoder_stack, image_encoder, text_encoder

TINY = encoder_stack.PRESETS['tiny']


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def bundle(picture: image_encoder.ImageConfig | None = None) -> encoder_stack.Encoders:
    torch.manual_seed(1)
    return encoder_stack.Encoders(
        replace(TINY, image=picture), (4, 6), text_encoder.ByteTokenizer(52)
    )


@settings(deadline=None)
@given(st.text(max_size=80))
def test_bytes_are_tokens_that_end_and_are_padded(prompt: str) -> None:
    ids, mask = text_encoder.ByteTokenizer(52)([prompt])
    used = int(mask.sum())
    assert ids.shape == mask.shape == (1, 52)
    assert ids[0, used - 1] == 1 and (ids[0, used:] == 0).all()
    spelled = bytes(int(token) - 3 for token in ids[0, : used - 1])
    assert prompt.encode().startswith(spelled)
    assert len(spelled) == min(len(prompt.encode()), 51)


def test_a_text_that_would_be_cut_is_refused_with_both_lengths() -> None:
    text_encoder.ByteTokenizer(64).check_length('x' * 63)
    with pytest.raises(text_encoder.PromptTooLong, match='have 64 bytes, the model reads 63'):
        text_encoder.ByteTokenizer(64).check_length('é' * 32)


def test_padding_rows_are_zero_and_do_not_reach_the_words() -> None:
    parts = bundle()
    ids, mask = parts.tokenizer(['lift the red cube', 'go'])
    hidden = parts.encode_text(ids, mask)
    assert (hidden[0, int(mask[0].sum()) :] == 0).all()
    assert (hidden[1, :3] != 0).any(dim=-1).all()
    short = parts.encode_text(ids[1:, :3], mask[1:, :3])
    assert torch.allclose(hidden[1, :3], short[0], atol=1e-5)


def test_words_change_the_embedding() -> None:
    red, blue = bundle().encode_prompts(['take the red cube', 'take the blue cube'])
    assert (red - blue).abs().max() > 1e-3


def test_words_may_say_nothing_of_others() -> None:
    torch.manual_seed(1)
    near = text_encoder.TextEncoder(replace(TINY.text, words_back=1))  # two layers: two words back
    spoken = text_encoder.ByteTokenizer(64)

    def words(prompt: str) -> dict[str, torch.Tensor]:
        hidden, found, at = near(*spoken([prompt]))[0], {}, 0
        for word in prompt.split():
            found[word] = hidden[at : at + len(word)]
            at += len(word) + 1
        return found

    left, right, orange = (
        words(f'touch the {color} cube with one {side} hand')
        for color, side in (('purple', 'left'), ('purple', 'right'), ('orange', 'left'))
    )
    assert torch.equal(left['purple'], right['purple'])
    assert torch.equal(left['left'], orange['left'])
    assert (left['purple'] - orange['orange']).abs().max() > 0.1
    assert not torch.equal(left['cube'], orange['cube'])  # the word after it
    assert not torch.equal(left['hand'], right['hand'])


def test_a_reach_over_the_text_is_blind_to_what_follows_only() -> None:
    ids, mask = text_encoder.ByteTokenizer(64)(['go left now', 'go right', ''])
    seen = text_encoder.make_local_attention_mask(ids, mask, 9)[:, 0] == 0
    assert seen[0, 5, :8].all() and not seen[0, 5, 8:].any()  # 'left ' ends at byte 7
    assert seen[0, 10, :12].all() and seen[1, 0, :3].all() and not seen[1, 0, 3:].any()
    alone = torch.eye(64, dtype=torch.bool)
    assert (seen[1, 9:] == alone[9:] | (mask[1] > 0)).all()  # padding is seen by nobody
    assert not seen[1, :9, 9:].any() and seen[2].any(1).all()


def test_frames_go_in_and_come_out() -> None:
    parts = bundle()
    video = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    latents = parts.encode_frames(video)
    assert latents.shape == (1, 8, 2, 4, 6)
    first, context = parts.encode_first_frame(video[:, :, :1])
    rest, _ = parts.encode_next_frames(context, video[:, :, 1:])
    assert torch.equal(torch.cat([first, rest], dim=2), latents)
    frames = parts.decode(latents)
    assert frames.shape == (1, 5, 32, 48, 3) and frames.dtype == torch.uint8


def test_latents_are_cut_to_the_model_and_too_small_a_canvas_is_refused() -> None:
    assert bundle().encode_frames(torch.zeros(1, 3, 1, 40, 48)).shape[-2:] == (4, 6)
    with pytest.raises(ValueError, match=r'latents of \(3, 6\), the model wants \(4, 6\)'):
        bundle().encode_frames(torch.zeros(1, 3, 1, 24, 48))


def test_the_image_encoder_takes_any_size_and_is_optional() -> None:
    picture = image_encoder.ImageConfig(dim=24, heads=2, layers=2, mlp_dim=48, patch=8, size=32)
    tokens = bundle(picture).encode_image(torch.rand(2, 3, 44, 80) * 2 - 1)
    assert tokens.shape == (2, picture.tokens, 24) == (2, 17, 24)
    with pytest.raises(ValueError, match='no image encoder'):
        bundle().encode_image(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize('name', encoder_stack.PRESETS)
def test_config_survives_json(name: str) -> None:
    config = encoder_stack.PRESETS[name]
    assert (
        encoder_stack.EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    )


def test_a_broken_config_says_what_is_wrong() -> None:
    values = TINY.to_dict()
    del values['text']
    with pytest.raises(ValueError, match="encoder config: 'text'"):
        encoder_stack.EncoderConfig.from_dict(values)


@pytest.mark.parametrize('words', [-1, 1.0, True, 'one'])
def test_words_back_are_counted(words: object) -> None:
    values = encoder_stack.PRESETS['mini'].to_dict()
    values['text'] |= {'words_back': words}
    with pytest.raises(ValueError, match='words_back: want null or a whole number'):
        encoder_stack.EncoderConfig.from_dict(values)


def test_a_missing_tokenizer_names_files_and_source(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='copy tokenizer.json.*google/umt5-xxl'):
        text_encoder.PretrainedTokenizer(tmp_path / 'tokenizer', 512)


def test_a_tokenizer_folder_is_read_without_a_network(tmp_path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {'<pad>': 0, '</s>': 1, '<unk>': 2, 'pick': 3, 'up': 4}
    made = Tokenizer(models.WordLevel(words, unk_token='<unk>'))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', 1)]
    )
    made.save(str(tmp_path / 'tokenizer.json'))
    (tmp_path / 'tokenizer_config.json').write_text(
        json.dumps(
            {
                'tokenizer_class': 'PreTrainedTokenizerFast',
                'pad_token': '<pad>',
                'eos_token': '</s>',
                'unk_token': '<unk>',
            }
        )
    )
    tokenizer = text_encoder.PretrainedTokenizer(tmp_path, 6)
    ids, mask = tokenizer(['pick up', 'up up up up up up up up'])
    assert ids.tolist() == [[3, 4, 1, 0, 0, 0], [4, 4, 4, 4, 4, 1]]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    tokenizer.check_length('up up up up up')
    with pytest.raises(text_encoder.PromptTooLong, match='have 7 tokens, the model reads 6'):
        tokenizer.check_length('up up up up up up')
