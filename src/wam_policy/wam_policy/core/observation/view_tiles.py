"""Where each camera view stands on the canvas that a model takes and predicts.

Plain data: the model composes canvases with it, and whoever shows a predicted canvas beside real
images places those by it.
"""

from dataclasses import dataclass

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
