"""Encode text: tokenizers and the UMT5 encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from wam_policy.model.encoders.umt5_encoder import UMT5Encoder


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Size a UMT5 encoder."""

    vocabulary: int
    dim: int
    heads: int
    head_dim: int
    ffn_dim: int
    layers: int
    buckets: int  # of relative distance
    # Words before its own that a byte attends to in a layer; None: the whole text. In a small
    # text encoder trained from scratch, local attention keeps the embedding of a word independent
    # of the others: "purple" then generalizes to objects it was never combined with.
    words_back: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid `words_back`."""
        if not (self.words_back is None or type(self.words_back) is int and self.words_back >= 0):
            raise ValueError(
                'encoder config: text words_back: want null or a whole number from '
                f'0, got {self.words_back!r}'
            )


UMT5_XXL = TextConfig(256384, 4096, 64, 64, 10240, 24, 32)


def build_network(config: TextConfig) -> UMT5Encoder:
    """Build the encoder; under `torch.device('meta')` it needs no memory."""
    return UMT5Encoder(
        vocabulary=config.vocabulary,
        dim=config.dim,
        heads=config.heads,
        head_dim=config.head_dim,
        ffn_dim=config.ffn_dim,
        layers=config.layers,
        buckets=config.buckets,
    ).eval()


class TextEncoder(nn.Module):
    """Encode token ids; rows of padding are returned as zeros and stay in the sequence."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.net = build_network(config)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode ids [B L] with mask [B L] (1: token, 0: padding) to [B L dim]."""
        back = self.config.words_back
        seen = (
            make_padding_mask(mask) if back is None else make_local_attention_mask(ids, mask, back)
        )
        hidden = self.net(ids, seen.to(self.net.shared.weight.dtype))
        places = torch.arange(ids.shape[1], device=ids.device)
        kept = places[None] < mask.sum(dim=1, keepdim=True)
        return torch.where(
            kept[..., None], hidden, torch.zeros((), dtype=hidden.dtype, device=hidden.device)
        )


def make_padding_mask(mask: torch.Tensor) -> torch.Tensor:
    """Return an additive mask [B 1 1 L] that hides padding from mask [B L]."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(
        mask == 0, torch.finfo(torch.float32).min
    )[:, None, None]


def make_local_attention_mask(
    ids: torch.Tensor, mask: torch.Tensor, words_back: int
) -> torch.Tensor:
    """Return an additive mask [B 1 L L]: bytes attend to their word and `words_back` before it.

    A space belongs to the word before it. Padding attends to itself, so that no row is empty.
    """
    word = (ids == ByteTokenizer.SPACE_ID).cumsum(1) - (ids == ByteTokenizer.SPACE_ID).long()
    behind = word[:, :, None] - word[:, None]
    itself = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    seen = (behind >= 0) & (behind <= words_back) & (mask[:, None] > 0) | itself
    return torch.zeros(seen.shape, device=ids.device).masked_fill(
        ~seen, torch.finfo(torch.float32).min
    )[:, None]


class Tokenizer(Protocol):
    """Turn prompts into ids and mask, int64 [B text_len] each."""

    def __call__(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]: ...

    def check_length(self, text: str) -> None:
        """Raise PromptTooLong if the end of a text would not be read."""


class PromptTooLong(ValueError):
    """Raised for a text of which the model would read only the beginning."""

    def __init__(self, text: str, count: int, limit: int, unit: str) -> None:
        super().__init__(
            f'the instruction and what precedes it have {count} {unit}, the model reads {limit}: '
            f'{text!r:.80}'
        )


class ByteTokenizer:
    """Tokenize to UTF-8 bytes: no download, no unknown tokens.

    0 pads, 1 ends a text; byte b is b + 3, so that 2 stays free for "unknown" as in UMT5.
    """

    VOCAB_SIZE = 259
    SPACE_ID = ord(' ') + 3

    def __init__(self, text_len: int) -> None:
        self.text_len = text_len

    def __call__(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask, int64 [prompts text_len]; the end of a longer prompt is dropped."""
        ids = torch.zeros(len(prompts), self.text_len, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            tokens = [byte + 3 for byte in prompt.encode()][: self.text_len - 1] + [1]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask

    def check_length(self, text: str) -> None:
        """Raise PromptTooLong if the end of a text would not be read."""
        count, limit = len(text.encode()), self.text_len - 1
        if count > limit:
            raise PromptTooLong(text, count, limit, 'bytes')


class PretrainedTokenizer:
    """Tokenize with the files of a folder (google/umt5-xxl for the released models)."""

    def __init__(self, folder: Path, text_len: int) -> None:
        if not (folder / 'tokenizer.json').is_file() and not (folder / 'spiece.model').is_file():
            raise FileNotFoundError(
                f'{folder}: no tokenizer.json or spiece.model. The released checkpoints come '
                'without a tokenizer: copy tokenizer.json, tokenizer_config.json, spiece.model '
                'and special_tokens_map.json of google/umt5-xxl (Hugging Face) into that folder'
            )
        from transformers import AutoTokenizer

        self.text_len = text_len
        self._tokenizer = AutoTokenizer.from_pretrained(  # nosec B615: nothing is fetched
            str(folder), local_files_only=True
        )

    def __call__(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask, int64 [prompts text_len]; the end of a longer prompt is dropped."""
        batch = self._tokenizer(
            prompts,
            padding='max_length',
            truncation=True,
            max_length=self.text_len,
            padding_side='right',
            add_special_tokens=True,
            return_tensors='pt',
        )
        return batch['input_ids'], batch['attention_mask']

    def check_length(self, text: str) -> None:
        """Raise PromptTooLong if the end of a text would not be read."""
        count = len(self._tokenizer(text, add_special_tokens=True)['input_ids'])
        if count > self.text_len:
            raise PromptTooLong(text, count, self.text_len, 'tokens')
