"""Names of released files: complete, unique, reversible, at full size without memory."""

import pytest
import torch

from wam_policy.model.checkpoint import tensor_keymap
from wam_policy.model.encoders import image_encoder, text_encoder, wan_vae


def mapped() -> dict[str, tuple[torch.nn.Module, list[tensor_keymap.TensorMapping]]]:
    with torch.device('meta'):
        old, new = wan_vae.build_network(wan_vae.WAN21), wan_vae.build_network(wan_vae.WAN22)
        words, picture = (
            text_encoder.build_network(text_encoder.UMT5_XXL),
            image_encoder.build_network(image_encoder.CLIP_H),
        )
    return {
        'vae21': (old, tensor_keymap.map_vae(old, residual=False, res_blocks=2)),
        'vae22': (new, tensor_keymap.map_vae(new, residual=True, res_blocks=2)),
        'text': (words, tensor_keymap.map_text_encoder(words)),
        'image': (picture, tensor_keymap.map_image_encoder(picture)),
    }


MAPPED = mapped()
# tensors and numbers in the released files that inference reads; of the image file 16 tensors
# (last block, last norm, head, logit scale) are never read
SIZES = {
    'vae21': (194, 126_892_531),
    'vae22': (196, 704_688_668),
    'text': (242, 5_680_910_336),
    'image': (377, 632_076_801 - 12 * 1280**2 - 13 * 1280 - 2 * 1280 - 1280 * 1024 - 1),
}


@pytest.mark.parametrize('name', MAPPED)
def test_every_parameter_is_filled_once_and_the_counts_are_those_of_the_release(name) -> None:
    net, entries = MAPPED[name]
    targets = [target for entry in entries for target in entry.targets]
    assert sorted(targets) == sorted(key for key, _ in net.named_parameters())
    assert len({entry.name for entry in entries}) == len(entries)
    numbers = sum(torch.Size(entry.shape).numel() for entry in entries)
    assert (len(entries), numbers) == SIZES[name]


@pytest.mark.parametrize(
    ('name', 'tensor', 'shape'),
    [
        ('vae21', 'decoder.upsamples.4.shortcut.weight', (384, 192, 1, 1, 1)),
        ('vae21', 'decoder.upsamples.7.time_conv.bias', (768,)),
        ('vae22', 'encoder.downsamples.1.downsamples.2.time_conv.weight', (320, 320, 3, 1, 1)),
        ('vae22', 'decoder.upsamples.0.upsamples.3.resample.1.bias', (1024,)),
        ('text', 'blocks.23.pos_embedding.embedding.weight', (32, 64)),
        ('text', 'token_embedding.weight', (256384, 4096)),
        ('image', 'transformer.30.attn.to_qkv.weight', (3840, 1280)),
        ('image', 'pos_embedding', (1, 257, 1280)),
    ],
)
def test_samples_of_the_released_names(name, tensor, shape) -> None:
    assert {entry.name: entry.shape for entry in MAPPED[name][1]}[tensor] == shape


def test_cutting_inverts_joining_and_keeps_query_key_value_in_order() -> None:
    net = image_encoder.build_network(image_encoder.ImageConfig(16, 2, 2, 32, 8, 16))
    parameters = dict(net.named_parameters())
    for entry in tensor_keymap.map_image_encoder(net):
        whole = tensor_keymap.join_parameters(entry, parameters)
        assert tuple(whole.shape) == entry.shape
        for target, part in zip(
            entry.targets, tensor_keymap.split_tensor(whole, entry, parameters), strict=True
        ):
            assert torch.equal(part, parameters[target])
        if 'to_qkv' in entry.name:
            assert [target.split('.')[-2] for target in entry.targets] == [
                'q_proj',
                'k_proj',
                'v_proj',
            ]


@pytest.mark.parametrize(
    ('name', 'unused'),
    [
        ('visual.transformer.31.mlp.0.weight', True),
        ('visual.transformer.30.norm1.bias', False),
        ('visual.transformer.3.norm1.bias', False),
        ('visual.head', True),
        ('log_scale', True),
        ('visual.post_norm.bias', True),
        ('visual.pre_norm.bias', False),
    ],
)
def test_what_the_image_file_holds_in_vain(name, unused) -> None:
    assert bool(tensor_keymap.unused_image_pattern(31).fullmatch(name)) is unused
