"""Read the specification of a model from config.json: the released schema or a `wam` section.

Each part of the `wam` section (model, encoders, canvas, ...) overrides the released keys: a toy
model in the released layout states its sizes there, a released one needs no such section.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wam_policy.core.observation import view_tiles
from wam_policy.model.checkpoint.load_errors import describe_error
from wam_policy.model.encoders import (
    encoder_stack,
    image_encoder,
    prompts,
    text_encoder,
    wan_vae,
)
from wam_policy.model.network import lora
from wam_policy.model.network.lora import LoraConfig
from wam_policy.model.network.model_config import WINDOW_MODES, ModelConfig, get_preset
from wam_policy.model.sampling import sampler

RELEASED_CHUNK_S = 1.6  # the released models were trained on 8 frames at 5 Hz per block
LATENT_WORLD_MODEL = 'latent_world_model'  # in config.json: not a World Action Model
ANY_TAG = '*'  # in `prompts`: the template of every tag that has none of its own


@dataclass(frozen=True, slots=True)
class CanvasConfig:
    """Define how camera views are composed into one canvas; sizes are [rows columns] in pixels."""

    arrangement: str | None  # None: the one the released models use for the tag
    tile: tuple[int, int]
    crop: float
    size: tuple[int, int] | None  # the canvas is resized to this; None: as composed

    @property
    def image_size(self) -> tuple[int, int]:
        """Return rows and columns of the canvas that the encoders take."""
        if self.size is not None:
            return self.size
        # all released layouts of several views are two tiles by two
        _, (rows, columns), _ = view_tiles.LAYOUTS[self.arrangement or 'quadrants']
        return int(rows * self.tile[0]), int(columns * self.tile[1])

    def make_layout(self, tag: str, view_names: tuple[str, ...]) -> view_tiles.ViewLayout:
        """Lay out the views of an embodiment, in the order of its cameras."""
        name = self.layout_name(tag, len(view_names))
        return view_tiles.make_layout(name, view_names, *self.tile, crop=self.crop)

    def layout_name(self, tag: str, view_count: int) -> str:
        """Return the name of the layout of an embodiment's views."""
        return self.arrangement or view_tiles.released_layout_name(tag, view_count)


@dataclass(frozen=True, slots=True)
class ModelInferenceDefaults:
    """Hold the inference settings that a model recommends; options override them."""

    recipe: str  # a key of sampler.SAMPLERS
    steps: int | None  # evaluate at every one of so many steps instead
    guidance: float  # 1: the conditional branch alone
    window: str = 'restart'  # what a full cache does, one of WINDOW_MODES
    noise_scale: float = 1.0  # of the initial noise, 0 to 1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Describe a model completely, except for its weights and statistics."""

    name: str
    model: ModelConfig
    encoders: encoder_stack.EncoderConfig
    canvas: CanvasConfig
    prompts: Mapping[str, str]  # template per tag; empty: the released ones
    negative_prompt: str
    normalization: str
    row_std: tuple[float, ...]  # of a chunk's rows, in normalized units; empty: all 1
    trained: bool
    adapters: LoraConfig | None  # the folder holds adapters over a base
    video_final_noise: float | None  # of decoupled inference; None: coupled
    inference: ModelInferenceDefaults | None  # None: no recommendation
    max_committed_rows: int = 0  # rows of a chunk that it was trained to continue; 0: none

    def prompt_template(self, tag: str) -> str:
        """Return the prompt template of a tag; ValueError if this model has none."""
        if not self.prompts:
            return prompts.get_template(tag)
        found = self.prompts.get(tag, self.prompts.get(ANY_TAG))
        if found is None:
            raise ValueError(
                f'{self.name} has no prompt for tag {tag!r}; it has {", ".join(self.prompts)}'
            )
        return found

    def make_prompt(self, tag: str, instruction: str) -> str:
        return prompts.fill_template(self.prompt_template(tag), instruction)

    def make_prompt_head(self, tag: str, instruction: str) -> str:
        """Return the prompt up to the end of the instruction: what must be read of it."""
        head, marker, _ = self.prompt_template(tag).partition('{i}')
        return prompts.fill_template(head + marker, instruction)

    def with_control_rate(self, step_dt_s: float) -> 'ModelSpec':
        """Return the spec at the control rate of a robot; released files do not state theirs.

        The frame rate follows, because one block always spans actions_per_block control steps.
        """
        model = self.model
        frames = model.frames_per_block * model.pixel_frames_per_latent
        span_s = model.actions_per_block * step_dt_s
        return replace(
            self, model=replace(model, action_hz=1 / step_dt_s, video_hz=frames / span_s)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the `wam` section; `parse_spec` is the inverse."""
        return {
            'name': self.name,
            'trained': self.trained,
            'model': self.model.to_dict(),
            'encoders': self.encoders.to_dict(),
            'canvas': asdict(self.canvas),
            'prompts': dict(self.prompts),
            'negative': self.negative_prompt,
            'normalisation': self.normalization,
            'row_spread': list(self.row_std),
            'video_final_noise': self.video_final_noise,
            'adapters': _adapters_to_dict(self.adapters) if self.adapters else None,
            'inference': asdict(self.inference) if self.inference else None,
            **({'committed_rows': self.max_committed_rows} if self.max_committed_rows else {}),
        }


_QUADRANTS_14B = CanvasConfig(None, (176, 320), view_tiles.CENTER_CROP, None)
_QUADRANTS_5B = CanvasConfig(None, (160, 320), view_tiles.CENTER_CROP, (160, 320))
_HEAD_BESIDE_HANDS = CanvasConfig('head_beside_hands', (64, 64), view_tiles.CENTER_CROP, None)


# of our own models: fast enough for seven queries a second on two CPU cores
INFERENCE_DEFAULTS = {
    'mini': ModelInferenceDefaults('full16', 4, 1.0),
    'tiny': ModelInferenceDefaults('full16', 4, 5.0),
}


def make_preset_spec(name: str) -> ModelSpec:
    boxes = {'dreamzero_14b': _QUADRANTS_14B, 'dreamzero_5b': _QUADRANTS_5B}
    own = name not in boxes
    if name not in encoder_stack.PRESETS:
        raise ValueError(
            f'no encoders for preset {name!r}; known: {", ".join(encoder_stack.PRESETS)}'
        )
    return ModelSpec(
        name=name,
        model=get_preset(name),
        encoders=encoder_stack.PRESETS[name],
        canvas=boxes.get(name, _HEAD_BESIDE_HANDS),
        prompts={ANY_TAG: prompts.PLAIN_TEMPLATE} if own else {},
        negative_prompt='' if own else prompts.NEGATIVE_PROMPT,
        normalization='mean_std' if name == 'mini' else 'q99',
        row_std=(),
        trained=False,
        adapters=None,
        video_final_noise=None,
        inference=INFERENCE_DEFAULTS.get(name),
    )


def read_spec(folder: Path) -> ModelSpec:
    """Read config.json of a checkpoint folder."""
    path = folder / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{folder}: no config.json: copy it from the checkpoint')
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path}: not JSON: {error}') from error
    try:
        return parse_spec(content)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    except Exception as error:  # a list where an object belongs, a word where a number does
        raise ValueError(
            f'{path}: {describe_error(error)}; want the schema of a released or of our own '
            'config.json: copy it from the checkpoint again'
        ) from error


def parse_spec(content: Mapping[str, Any]) -> ModelSpec:
    """Parse config.json; ValueError names the key that is missing or does not fit."""
    if LATENT_WORLD_MODEL in content:
        raise ValueError(
            'this is a latent world model, which only `./wam eval --no-ros --policy FOLDER` runs'
        )
    own = content.get('wam', {})
    head = content.get('action_head_cfg', {}).get('config')
    if head is None and 'model' not in own:
        raise ValueError('neither action_head_cfg.config (released schema) nor wam.model')
    box = _parse_canvas(own['canvas']) if 'canvas' in own else _parse_released_canvas(head or {})
    parts = (
        encoder_stack.EncoderConfig.from_dict(own['encoders'])
        if 'encoders' in own
        else _parse_released_encoders(head or {})
    )
    model = (
        ModelConfig.from_dict(own['model'])
        if 'model' in own
        else _parse_released_model(head or {}, box, parts)
    )
    head = head or {}
    return ModelSpec(
        name=own.get('name', _find_family(head)),
        model=model,
        encoders=parts,
        canvas=box,
        prompts=own.get('prompts', {}),
        negative_prompt=own.get('negative', prompts.NEGATIVE_PROMPT),
        normalization=own.get('normalisation', 'q99'),
        row_std=_parse_row_std(own, model),
        trained=own.get('trained', True),
        adapters=_parse_adapters(own, head),
        video_final_noise=_parse_final_noise(own, head),
        inference=_parse_inference_defaults(own),
        max_committed_rows=_parse_committed_rows(own, model),
    )


def _parse_committed_rows(own: Mapping[str, Any], model: ModelConfig) -> int:
    rows = own.get('committed_rows', 0)
    if type(rows) is not int or not 0 <= rows < model.actions_per_block:
        raise ValueError(
            f'wam.committed_rows {rows!r:.40}: want rows from 0 to {model.actions_per_block - 1}'
        )
    return rows


def _parse_size(values: Sequence[int]) -> tuple[int, int]:
    rows, columns = values
    return int(rows), int(columns)


def _parse_canvas(values: Mapping[str, Any]) -> CanvasConfig:
    try:
        size, arrangement = values['size'], values['arrangement']
        if arrangement is not None and arrangement not in view_tiles.LAYOUTS:
            raise ValueError(
                f'wam.canvas: arrangement {arrangement!r} is unknown; known: '
                f'{", ".join(view_tiles.LAYOUTS)}'
            )
        return CanvasConfig(
            arrangement,
            _parse_size(values['tile']),
            float(values['crop']),
            _parse_size(size) if size else None,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f'wam.canvas: {error}') from error


def _parse_inference_defaults(own: Mapping[str, Any]) -> ModelInferenceDefaults | None:
    values = own.get('inference')
    if not values:
        return None
    try:
        defaults = ModelInferenceDefaults(**values)
    except TypeError as error:
        raise ValueError(f'wam.inference: {error}') from error
    if defaults.recipe not in sampler.SAMPLERS:
        raise ValueError(
            f'wam.inference: recipe {defaults.recipe!r} is unknown; known: '
            f'{", ".join(sampler.SAMPLERS)}'
        )
    if defaults.window not in WINDOW_MODES:
        raise ValueError(
            f'wam.inference: window {defaults.window!r} is unknown; known: '
            f'{", ".join(WINDOW_MODES)}'
        )
    scale = defaults.noise_scale
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale <= 1:
        raise ValueError(f'wam.inference: noise_scale: want a number in [0, 1], got {scale!r}')
    return defaults


def _parse_adapters(own: Mapping[str, Any], head: Mapping[str, Any]) -> LoraConfig | None:
    if own.get('adapters'):
        try:
            return LoraConfig(**own['adapters'])
        except TypeError as error:
            raise ValueError(f'wam.adapters: {error}') from error
    if head.get('train_architecture') != 'lora':
        return None
    return LoraConfig(
        int(head.get('lora_rank', lora.RELEASED_LORA.rank)),
        float(head.get('lora_alpha', lora.RELEASED_LORA.alpha)),
    )


def _adapters_to_dict(config: LoraConfig) -> dict[str, Any]:
    """Return rank, alpha and what is set besides, so that older releases read the usual case."""
    return {key: value for key, value in asdict(config).items() if value}


def _parse_row_std(own: Mapping[str, Any], model: ModelConfig) -> tuple[float, ...]:
    found = tuple(float(value) for value in own.get('row_spread', ()))
    if found and (len(found) != model.actions_per_block or not min(found) > 0):
        raise ValueError(
            f'wam.row_spread: want {model.actions_per_block} positive numbers or '
            f'none, got {list(found)}'
        )
    return found


def _parse_final_noise(own: Mapping[str, Any], head: Mapping[str, Any]) -> float | None:
    if 'video_final_noise' in own:
        return own['video_final_noise']
    if not head.get('decouple_inference_noise', False):
        return None
    return float(head.get('video_inference_final_noise', 0.8))


# ---- the released schema


def _get_network_config(head: Mapping[str, Any]) -> Mapping[str, Any]:
    network = head.get('diffusion_model_cfg')
    if not isinstance(network, Mapping):
        raise ValueError('action_head_cfg.config has no diffusion_model_cfg')
    return network


def _find_family(head: Mapping[str, Any]) -> str:
    network = _get_network_config(head) if head else {}
    sizes = f'{network.get("dim")} x {network.get("num_layers")}'
    return {'5120 x 40': 'dreamzero_14b', '3072 x 30': 'dreamzero_5b'}.get(sizes, 'dreamzero')


def _is_wan22(head: Mapping[str, Any]) -> bool:
    """Return whether the backbone is 2.2 (5B), not 2.1 (14B), from its latent channels."""
    return int(_require(_get_network_config(head), 'out_dim')) == wan_vae.WAN22.channels


def _require(values: Mapping[str, Any], key: str) -> Any:
    if key not in values:
        raise ValueError(f'diffusion_model_cfg has no {key}')
    return values[key]


def _parse_released_canvas(head: Mapping[str, Any]) -> CanvasConfig:
    if not _is_wan22(head):
        return _QUADRANTS_14B
    height, width = head.get('target_video_height'), head.get('target_video_width')
    # without targets the release resizes to 176x320; its patches then drop the 11th latent row
    return replace(_QUADRANTS_5B, size=_parse_size((height or 176, width or 320)))


def _parse_released_encoders(head: Mapping[str, Any]) -> encoder_stack.EncoderConfig:
    autoencoder = wan_vae.WAN22 if _is_wan22(head) else wan_vae.WAN21
    return encoder_stack.EncoderConfig(
        autoencoder, text_encoder.UMT5_XXL, image_encoder.CLIP_H, 'tokenizer'
    )


def _parse_released_model(
    head: Mapping[str, Any],
    canvas_config: CanvasConfig,
    encoder_config: encoder_stack.EncoderConfig,
) -> ModelConfig:
    network = _get_network_config(head)
    channels = int(_require(network, 'out_dim'))
    conditioned = network.get('concat_first_frame_latent', network.get('model_type') == 'i2v')
    actions = int(network.get('num_action_per_block', head.get('action_horizon', 0)))
    if not actions:
        raise ValueError('neither diffusion_model_cfg.num_action_per_block nor action_horizon')
    frames = int(head.get('num_frame_per_block', network.get('num_frame_per_block', 2)))
    height, width = canvas_config.image_size
    rows, columns = height // encoder_config.vae.stride, width // encoder_config.vae.stride
    window = int(network.get('max_chunk_size', 4))
    if window < 1:
        raise ValueError(f'max_chunk_size {window}: want at least 1 block')
    model = ModelConfig(
        dim=int(_require(network, 'dim')),
        heads=int(_require(network, 'num_heads')),
        layers=int(_require(network, 'num_layers')),
        ffn_dim=int(_require(network, 'ffn_dim')),
        freq_dim=int(network.get('freq_dim', 256)),
        eps=float(network.get('eps', 1e-6)),
        latent_channels=channels,
        latent_size=(rows // 2 * 2, columns // 2 * 2),
        patch=2,
        learned_places=False,
        condition_channels=int(_require(network, 'in_dim')) - channels if conditioned else 0,
        text_dim=int(network.get('text_dim', 4096)),
        text_len=int(network.get('text_len', 512)),
        image_context=True,
        image_dim=encoder_config.image.dim if encoder_config.image else 0,
        action_dim=int(head.get('max_action_dim', head.get('action_dim', 32))),
        state_dim=int(head.get('max_state_dim', 64)),
        # not the head's own hidden_size (64): the network keeps its default
        action_hidden=int(network.get('hidden_size', 1024)),
        frames_per_block=frames,
        actions_per_block=actions,
        states_per_block=int(network.get('num_state_per_block', 1)),
        window_blocks=window,
        masked_state=True,
        predicts_video=True,
        pixel_frames_per_latent=wan_vae.PIXEL_FRAMES_PER_LATENT,
        video_hz=frames * wan_vae.PIXEL_FRAMES_PER_LATENT / RELEASED_CHUNK_S,
        action_hz=actions / RELEASED_CHUNK_S,
    )
    stated = network.get('frame_seqlen')
    if stated is not None and int(stated) not in (model.frame_tokens, rows * columns // 4):
        raise ValueError(
            f'frame_seqlen {stated}, but a canvas of {height}x{width} gives '
            f'{model.frame_tokens} tokens; set wam.canvas'
        )
    return model
