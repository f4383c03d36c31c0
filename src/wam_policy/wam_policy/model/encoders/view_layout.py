"""Compose camera views into the canvas that the model takes.

Each view is cropped, resized and truncated to bytes, then all are placed on one canvas, which is
converted to [-1, 1] in the dtype of the model. The order of roundings is that of the released
DreamZero pipeline, which the weights were trained with.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from wam_policy.core.observation.view_tiles import CENTER_CROP, ViewLayout


def crop_and_resize(
    frames: torch.Tensor, height: int, width: int, crop: float = CENTER_CROP
) -> torch.Tensor:
    """Crop the center, resize with antialiasing, truncate: uint8 [T h w 3] to [T height width 3].

    Truncation, not rounding: the released models were trained on truncated bytes.
    """
    full_height, full_width = frames.shape[1:3]
    crop_height, crop_width = int(full_height * crop), int(full_width * crop)
    top = round((full_height - crop_height) / 2)  # half to even
    left = round((full_width - crop_width) / 2)
    part = frames[:, top : top + crop_height, left : left + crop_width]
    pixels = part.permute(0, 3, 1, 2).float() / 255
    pixels = F.interpolate(
        pixels, (height, width), mode='bilinear', antialias=True, align_corners=False
    )
    return (pixels * 255).to(torch.uint8).permute(0, 2, 3, 1)


def compose_views(views: Mapping[str, torch.Tensor], layout: ViewLayout) -> torch.Tensor:
    """Compose views uint8 [T h w 3] into canvases uint8 [T height width 3].

    Raises ValueError when a view is missing, has another type or a different number of frames.
    """
    missing = [name for name in layout.views if name not in views]
    if missing:
        raise ValueError(f'no frames of {", ".join(missing)}; got {", ".join(views) or "none"}')
    shown = {name: torch.as_tensor(views[name]) for name in layout.views}
    for name, frames in shown.items():
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f'{name}: want uint8 [T h w 3], got {frames.dtype} {list(frames.shape)}'
            )
    counts = {name: len(frames) for name, frames in shown.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f'views differ in their number of frames: {counts}')
    first = shown[layout.views[0]]
    canvas = torch.zeros(
        len(first), layout.height, layout.width, 3, dtype=torch.uint8, device=first.device
    )
    for tile in layout.tiles:
        pixels = crop_and_resize(shown[tile.view], tile.height, tile.width, layout.crop)
        pixels = pixels.repeat_interleave(tile.repeat_columns, dim=2)
        right = tile.left + pixels.shape[2]
        canvas[:, tile.top : tile.top + tile.height, tile.left : right] = pixels
    return canvas


def to_model_input(
    canvas: torch.Tensor, dtype: torch.dtype, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Convert canvases uint8 [B T h w 3] to the model input [B 3 T height width] in [-1, 1].

    The byte is divided in fp32 and rounded to `dtype` before it is centered: in bf16 the order
    changes the result. `size` (used by the 5B model) resizes without antialiasing.
    """
    video = (canvas.float() / 255).to(dtype)
    video = ((video - 0.5) / 0.5).permute(0, 4, 1, 2, 3)
    if size is None or tuple(size) == tuple(video.shape[-2:]):
        return video.contiguous()
    batch, channels, frames = video.shape[:3]
    flat = video.transpose(1, 2).reshape(batch * frames, channels, *video.shape[-2:])
    flat = F.interpolate(flat, size, mode='bilinear', align_corners=False)
    return flat.reshape(batch, frames, channels, *size).transpose(1, 2).contiguous()
