"""Compose camera views into the canvas that the model takes.

Each view is cropped, resized and truncated to bytes, then all are placed on one canvas, which is
converted to [-1, 1] in the dtype of the model. The order of roundings is that of the released
DreamZero pipeline, which the weights were trained with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

CENTER_CROP = 0.95  # share of height and width that evaluation keeps


@dataclass(frozen=True, slots=True)
class Tile:
    """Place one view at (top, left); its columns are repeated `repeat_columns` times."""

    view: str
    top: int
    left: int
    height: int
    width: int  # before repetition
    repeat_columns: int = 1


@dataclass(frozen=True, slots=True)
class ViewLayout:
    """Place views on a canvas of [height width] pixels; pixels without a tile are black."""

    height: int
    width: int
    tiles: tuple[Tile, ...]
    crop: float = CENTER_CROP

    def __post_init__(self) -> None:
        for tile in self.tiles:
            if (
                tile.top + tile.height > self.height
                or tile.left + tile.width * tile.repeat_columns > self.width
            ):
                raise ValueError(f'{tile} does not fit a canvas of {self.height}x{self.width}')

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(tile.view for tile in self.tiles)


def _make_quadrant_tiles(views: tuple[str, ...], height: int, width: int) -> tuple[Tile, ...]:
    head, left, right = views  # right hand top right, left hand bottom left: as trained
    return (
        Tile(head, 0, 0, height, width),
        Tile(left, height, 0, height, width),
        Tile(right, 0, width, height, width),
    )


def _make_wide_top_tiles(views: tuple[str, ...], height: int, width: int) -> tuple[Tile, ...]:
    first, second, wrist = views
    return (
        Tile(first, height, 0, height, width),
        Tile(second, height, width, height, width),
        Tile(wrist, 0, 0, height, width, repeat_columns=2),
    )


def _make_head_beside_hands_tiles(
    views: tuple[str, ...], height: int, width: int
) -> tuple[Tile, ...]:
    head, left, right = views  # two hand views of half the size, stacked beside the head
    return (
        Tile(head, 0, 0, height, width),
        Tile(left, 0, width, height // 2, width // 2),
        Tile(right, height // 2, width, height // 2, width // 2),
    )


def _make_single_tile(views: tuple[str, ...], height: int, width: int) -> tuple[Tile, ...]:
    (view,) = views
    return (Tile(view, 0, 0, height, width),)


#  name: (views, canvas rows and columns in tile units, tiles)
LAYOUTS = {
    'quadrants': (3, (2.0, 2.0), _make_quadrant_tiles),
    'wide_top': (3, (2.0, 2.0), _make_wide_top_tiles),
    'head_beside_hands': (3, (1.0, 1.5), _make_head_beside_hands_tiles),
    'single': (1, (1.0, 1.0), _make_single_tile),
}


def released_layout_name(tag: str, views: int) -> str:
    """Return the name of the layout that the released models use for an embodiment tag."""
    if views == 1:
        return 'single'
    return 'wide_top' if tag == 'oxe_droid' else 'quadrants'


def make_layout(
    name: str,
    views: tuple[str, ...],
    tile_height: int,
    tile_width: int,
    crop: float = CENTER_CROP,
) -> ViewLayout:
    """Lay out views, given in the order of the embodiment's cameras, by the name of a layout."""
    if name not in LAYOUTS:
        raise ValueError(f'canvas arrangement {name!r} is unknown; known: {", ".join(LAYOUTS)}')
    count, (rows, columns), tiles = LAYOUTS[name]
    if len(views) != count:
        raise ValueError(
            f'canvas arrangement {name!r} needs {count} views, '
            f'got {len(views)}: {", ".join(views)}'
        )
    return ViewLayout(
        int(rows * tile_height),
        int(columns * tile_width),
        tiles(views, tile_height, tile_width),
        crop,
    )


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
