"""Read and write checkpoints of the latent world model.

A folder with config.json, whose `latent_world_model` tells it from a World Action Model, the
weights in one safetensors file, and the statistics where released checkpoints have them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from wam_learning.latent_world_model.latent_network import LatentNetwork, LatentNetworkConfig
from wam_learning.latent_world_model.rssm import RssmConfig
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.model.checkpoint import checkpoint_folder, normalization_stats
from wam_policy.model.checkpoint import model_spec as designs
from wam_policy.model.checkpoint.checkpoint_folder import METADATA_PATH
from wam_policy.model.checkpoint.load_errors import describe_error, name_file
from wam_policy.model.checkpoint.model_spec import LATENT_WORLD_MODEL, ModelSpec
from wam_policy.model.checkpoint.normalization_stats import EmbodimentMetadata
from wam_policy.model.encoders.encoder_stack import Encoders
from wam_policy.model.normalizer import Normalizer

CONFIG_FILE, WEIGHTS_FILE = 'config.json', 'model.safetensors'


@dataclass(frozen=True, slots=True)
class LatentWorldModel:
    """Hold a latent world model: networks, encoders, statistics and their source.

    `spec` gives sizes, time base, canvas and prompts, as that of the autoencoder it starts from.
    """

    spec: ModelSpec
    network: LatentNetwork
    encoders: Encoders
    embodiments: Mapping[str, EmbodimentMetadata]
    source: str

    def make_normalizer(self, robot: Embodiment) -> Normalizer:
        """Return the normalizer of a robot; ValueError if its statistics are missing."""
        return checkpoint_folder.make_normalizer(self.spec, self.embodiments, robot, self.source)


def is_latent_checkpoint(folder: str | Path) -> bool:
    """Return whether config.json of a folder says that it holds a latent world model."""
    try:
        return LATENT_WORLD_MODEL in json.loads((Path(folder) / CONFIG_FILE).read_text())
    except (OSError, ValueError, TypeError):
        return False


def save(model: LatentWorldModel, folder: Path) -> None:
    (folder / METADATA_PATH.parent).mkdir(parents=True, exist_ok=True)
    content = {
        LATENT_WORLD_MODEL: asdict(model.network.config),
        'base': model.spec.to_dict(),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=1))
    (folder / METADATA_PATH).write_text(
        json.dumps(normalization_stats.to_dict(dict(model.embodiments)), indent=1)
    )
    tensors = _join(model.network, model.encoders).state_dict()
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / WEIGHTS_FILE,
        metadata={'format': 'pt'},
    )


def load(folder: Path) -> LatentWorldModel:
    """Load a checkpoint onto the CPU; raise ValueError that names the file and the fix."""
    path = folder / CONFIG_FILE
    with name_file(path, 'write the folder again with `./wam train --stage latent`'):
        content = json.loads(path.read_text())
        spec = designs.parse_spec({'wam': content['base']})
        config = _parse_config(content[LATENT_WORLD_MODEL])
    tokenizer = checkpoint_folder.load_tokenizer(spec, folder)
    network = LatentNetwork(config, spec.model)
    encoders = Encoders(spec.encoders, spec.model.latent_size, tokenizer)
    path = folder / WEIGHTS_FILE
    with name_file(path):
        found, whole = load_file(path), _join(network, encoders)
        wanted = whole.state_dict()
        other = sorted(
            name
            for name in wanted.keys() | found.keys()
            if name not in wanted or name not in found or wanted[name].shape != found[name].shape
        )
        if other:
            raise ValueError(
                f'{len(other)} tensors are missing, unknown or of another shape than '
                f'{CONFIG_FILE} says, for example {", ".join(other[:3])}'
            )
        whole.load_state_dict(found)
    whole.requires_grad_(False).eval()
    return LatentWorldModel(
        spec, network, encoders, checkpoint_folder.read_metadata(folder), str(folder)
    )


def _join(network: LatentNetwork, encoders: Encoders) -> nn.ModuleDict:
    return nn.ModuleDict({'network': network, 'encoders': encoders})


def _parse_config(values: Mapping[str, Any]) -> LatentNetworkConfig:
    try:
        return LatentNetworkConfig(**{**values, 'rssm': RssmConfig(**values['rssm'])})
    except (TypeError, KeyError) as error:
        raise ValueError(f'{LATENT_WORLD_MODEL}: {describe_error(error)}') from error
