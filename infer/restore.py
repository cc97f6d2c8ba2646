"""Restoration of one photograph of any size: enlarge, cut, let the model restore the tiles, blend, correct colours."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.families import Model, check_options
from pure_jax.infer.contract import (
    Progress,
    RestoredTile,
    RestoredTiles,
    RestoreTiles,
    check_seed,
    check_strength,
    silent,
)
from pure_jax.infer.control.guidance import once, vote
from pure_jax.infer.control.sentinels import watch
from pure_jax.infer.families import RESTORE_TILES
from pure_jax.infer.pictures.colour import COLOUR_FIXES
from pure_jax.infer.pictures.enlarge import Enlarged, enlarge_fine, fill_hidden
from pure_jax.infer.pictures.finishing import Rows, finished
from pure_jax.infer.pictures.large import array_for, let_go, strips
from pure_jax.infer.pictures.picture import MAX_PIXELS, Picture, to_image
from pure_jax.infer.pictures.reading import Photo, as_picture
from pure_jax.infer.pictures.sizing import MAX_SCALE
from pure_jax.infer.pictures.tiles import TilePlan, blend, plan_tiles
from pure_jax.infer.portions import Kept, PhotoTiles, Portion
from pure_jax.infer.preview import Canvas, Overview

ALPHA_WAYS = ("bicubic", "model")
_OF_ALL_TILES = ("ask", "one_description", "noise")
"""Options that need all tiles of a photo at once."""


@dataclass(frozen=True, eq=False)
class Restoration:
    """The result for one photograph.

    picture: as large as the input times the scale, in the input's kind (grey, RGB, with alpha, 16 bits a channel), with
    its colour profile and what it says about itself.
    degradation: {"blur": ..., "noise": ...}, each "small", "medium" or "large": the middle level over all tiles that
    gave a reading; None if no tile did.
    description: what most tiles say is shown.
    entropy: float32 [h, w] nats, one value per code position; where tiles overlap, blended.
    texts: every tile's own words, row by row. remarks: what went otherwise than usual, one sentence each.
    seed: with which it was restored.
    """

    picture: Picture
    degradation: dict[str, str] | None
    description: str
    entropy: np.ndarray
    texts: list[str]
    remarks: list[str] = field(default_factory=list)
    seed: int = 0

    @cached_property
    def image(self) -> Image.Image:
        """The picture as a PIL image, 8 bits a channel."""
        return to_image(self.picture)


@dataclass(frozen=True, eq=False)
class Restorer:
    """Restores photographs with a model: `Restorer(model).restore(photo, scale=4, seed=0)`."""

    model: Model
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the model's family, for every photograph."""
    unchecked: bool = False
    """Take every tile as the model wrote it: what measures a model must not be shown another's work."""

    def plan(self, picture: Picture, scale: float, overlap: int | None = None) -> TilePlan:
        """Where the tiles of the enlarged picture lie.

        Raises:
            PureError: scale outside 1 ... 16, a result over 100 million pixels, or an overlap over half a tile.
        """
        width, height = output_size(picture, scale)
        config = self.model.config
        if overlap is None:
            overlap = config.tile_size // 4 if config.tile_overlap is None else config.tile_overlap
        grid = math.lcm(config.stride, config.magnification)
        return plan_tiles(height, width, config.tile_size, overlap, multiple=grid)

    def restore(
        self,
        photo: Photo,
        *,
        scale: float = 4.0,
        seed: int = 0,
        colour_fix: str | None = None,
        alpha: str = "bicubic",
        overlap: int | None = None,
        strength: float = 1.0,
        unchecked: bool = False,
        batch: int | None = None,
        progress: Progress = silent,
        preview: Callable[[np.ndarray], None] | None = None,
        **options: Any,
    ) -> Restoration:
        """Restore one photograph of at least 16x16 pixels.

        A tile of one flat colour has nothing to restore: it is not shown to the model and comes out as it is. Colours
        that transparency hides are not shown either, but those of the nearest visible pixel. A tile that comes out as
        something else than the photo is drawn again, or left to interpolation, with a remark; see
        `pure_jax.infer.control.sentinels.watch`.

        Args:
            photo: a path; a PIL image; uint8 [H, W], [H, W, 3] or [H, W, 4] (red, green, blue, alpha); or a Picture.
            scale: 1 ... 16; the result measures round(side * scale).
            seed: 0 ... 2**32 - 1; the same seed gives the same picture, whatever the batch.
            colour_fix: "none", "wavelet", "adain", "adain+wavelet" or "lab"; None takes the model's default.
            alpha: how transparency is enlarged: by "bicubic", or restored by the "model" like the colours.
            overlap: pixels that neighbouring tiles share at least, 0 ... half a tile; None takes the
                model's default.
            strength: 0 ... 1, how much of the result there is; the rest is the photo, enlarged by interpolation.
            unchecked: as the restorer's own.
            batch: tiles decoded together; None takes as many as fit.
            progress: see `pure_jax.infer.contract.Progress`; the last stage is "blend".
            preview: called now and then with the photo as far as it is restored, uint8 [H, W, 3], in families and ways
                of decoding that can show it; it takes about a fifth of the time. A photo that is restored in portions
                is shown smaller.
            options: those of the model's family, beside the restorer's own; PURE's are in
                `pure_jax.infer.pure.restore_tiles`.

        Raises:
            PureError: an argument out of range or of another family, or a picture that cannot be used.
        """
        check_seed(seed)
        check_strength(strength)
        options = {**self.options, **options}
        config = self.model.config
        restore_tiles = RESTORE_TILES[config.family]
        check_options(config.family, restore_tiles, options)
        fix = config.colour_fix if colour_fix is None else colour_fix
        if fix not in COLOUR_FIXES:
            raise PureError(f"the colour fix is {fix!r}, but it must be one of {', '.join(COLOUR_FIXES)}")
        if alpha not in ALPHA_WAYS:
            raise PureError(f"the way for alpha is {alpha!r}, but it must be one of {', '.join(ALPHA_WAYS)}")
        picture = as_picture(photo)
        plan = self.plan(picture, scale, overlap)
        height, width = plan.height, plan.width
        sources = [picture.rgb if picture.alpha is None else fill_hidden(picture.rgb, picture.alpha)]
        if alpha == "model" and picture.alpha is not None:
            # Transparency is restored as a grey picture of its own, in the same batches.
            sources.append(np.repeat(picture.alpha[..., None], 3, axis=-1))

        photo_tiles = PhotoTiles(
            sources,
            plan,
            config.magnification,
            together=any(options.get(name) is not None and options[name] is not False for name in _OF_ALL_TILES),
        )
        whole, large = photo_tiles.whole, photo_tiles.large
        if "ask" in options:  # tiles that are drawn again need the answer once more
            options["ask"] = once(options["ask"])
        writer = _Writer(
            partial(restore_tiles, self.model, batch=batch), seed, options, unchecked or self.unchecked, config.stride
        )
        shape = (height, width, 3)
        # Before the work, as a disk without room for them is to be told of now.
        levels = [array_for(shape, np.uint8) for _ in sources]
        fine = None if picture.fine is None else array_for(shape, np.uint16)
        show = _shown_to(preview, large[0], whole, height, width) if _can_show(restore_tiles) else None
        kept = [Kept(config.tile_size, config.tile_size // config.stride, whole=whole) for _ in sources]
        remarks: list[str] = []
        for portion in photo_tiles.portions():
            canvas = None
            if show is not None:
                own, top = plan.rows(*portion.rows), plan.tops[portion.rows[0]]
                rows = large[0].rows(top, top + own.height)
                canvas = Canvas(portion.shown[: len(own.corners)], own, rows, fix, show(top))
            restored, own_remarks = writer.write(portion, progress, canvas)
            each = len(restored) // len(sources)
            for number, one in enumerate(kept):
                one.add(restored[number * each : (number + 1) * each])
            where = "" if whole else f"in rows {portion.rows[0] + 1} to {portion.rows[1]} of tiles, "
            remarks += [where + remark for remark in own_remarks]

        progress("blend", 0, 0)
        source = large[0].rows if picture.fine is None else _fine_rows(picture, height, width)
        finished(kept[0].images, plan, source, fix, strength, levels=levels[0], fine=fine)
        opacity = None
        if len(sources) > 1:
            finished(kept[1].images, plan, large[1].rows, fix, strength, levels=levels[1])
            opacity = levels[1][..., 1]
        elif picture.alpha is not None:
            opacity = _enlarged(picture.alpha, height, width, whole)
        texts = kept[0].texts
        degradation, description = vote(texts)
        return Restoration(
            picture=replace(picture, rgb=levels[0], alpha=opacity, fine=fine, remarks=()),
            degradation=degradation,
            description=description,
            entropy=blend(kept[0].entropies, plan.scaled_down(config.stride)),
            texts=texts,
            remarks=[*picture.remarks, *remarks],
            seed=seed,
        )


def output_size(picture: Picture, scale: float) -> tuple[int, int]:
    """(width, height) of the result: each side times the scale, rounded half to even.

    Raises:
        PureError: scale outside 1 ... 16, or a result over 100 million pixels.
    """
    if not 1.0 <= scale <= MAX_SCALE:  # so NaN ends here too
        raise PureError(f"the scale is {scale}, but it must lie in 1 ... {MAX_SCALE:g}")
    height, width = _scaled(picture, scale)
    if height * width > MAX_PIXELS:
        fitting = (hundredth / 100 for hundredth in range(int(100 * scale), 99, -1))
        highest = next(s for s in fitting if math.prod(_scaled(picture, s)) <= MAX_PIXELS)
        raise PureError(
            f"the result would have {width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million; "
            f"choose a scale of at most {highest:.2f}"
        )
    return width, height


def _scaled(picture: Picture, scale: float) -> tuple[int, int]:
    height, width = picture.rgb.shape[:2]
    return round(height * scale), round(width * scale)


class _Writer:
    """Restores portions of a photo: lets flat tiles pass, watches over the others, and numbers them for the noise."""

    def __init__(
        self, restore_tiles: RestoreTiles, seed: int, options: Mapping[str, Any], unchecked: bool, stride: int
    ) -> None:
        self._restore_tiles, self._seed, self._options = restore_tiles, seed, options
        self._unchecked, self._stride = unchecked, stride
        self._written = self._redrawn = 0

    def write(self, portion: Portion, progress: Progress, canvas: Canvas | None) -> RestoredTiles:
        """canvas: shows the tiles while they are written."""
        shown = portion.shown
        flat = np.array([(tile == tile[:1, :1]).all() for tile in shown])
        options = dict(self._options)
        if canvas is not None:
            options["preview"] = partial(canvas.update, np.flatnonzero(~flat))
        restored, remarks = RestoredTiles([], [])
        if not flat.all():
            seen = [shown[place] for place in np.flatnonzero(~flat)]
            told = portion.part_of(progress, len(seen))
            restored, remarks = self._watched(portion.tiles[~flat], seen, told, options)
        self._written += len(restored)
        if not flat.any():
            return RestoredTiles(restored, remarks)
        waiting = iter(restored)
        certain = np.zeros((shown.shape[1] // self._stride,) * 2, np.float32)
        return RestoredTiles(
            [RestoredTile(t, certain) if passes else next(waiting) for t, passes in zip(shown, flat, strict=True)],
            [*remarks, f"{flat.sum()} of {len(flat)} tiles show one flat colour and were left as they are"],
        )

    def _watched(
        self, tiles: np.ndarray, seen: list[np.ndarray], progress: Progress, options: dict[str, Any]
    ) -> RestoredTiles:
        restore = partial(self._restore_tiles, progress=progress)
        first = restore(tiles, seed=self._seed, first=self._written, **options)
        if self._unchecked:
            return first

        def again(some: np.ndarray, seed: int) -> RestoredTiles:
            number = self._redrawn
            self._redrawn += len(some)
            return restore(tiles[some], seed=seed, first=number, **_once_more(options, first))

        watched = watch(first, seen, again, self._seed)
        if watched is not first and "preview" in options:
            options["preview"](np.arange(len(tiles)), 1.0, lambda: np.stack([tile.image for tile in watched.tiles]))
        return watched


def _once_more(options: Mapping[str, Any], first: RestoredTiles) -> dict[str, Any]:
    """The options for tiles that are drawn again: nobody watches them, and the photo keeps its one description."""
    again = {name: value for name, value in options.items() if name not in ("preview", "one_description")}
    if options.get("one_description"):
        again["description"] = vote([tile.text for tile in first.tiles])[1]
    return again


def _can_show(restore_tiles: RestoreTiles) -> bool:
    return "preview" in inspect.signature(restore_tiles).parameters


def _shown_to(
    preview: Callable[[np.ndarray], None] | None, large: Enlarged, whole: bool, height: int, width: int
) -> Callable[[int], Callable[[np.ndarray], None]] | None:
    """For the first row of a portion: what shows the portion's picture; None where nobody watches."""
    if preview is None:
        return None
    return (lambda top: preview) if whole else Overview(large.rows, height, width, preview).show_from


def _enlarged(alpha: np.ndarray, height: int, width: int, whole: bool) -> np.ndarray:
    """uint8 [height, width]."""
    result, enlarged = array_for((height, width), np.uint8), Enlarged(alpha, height, width, whole=whole)
    for first, behind in strips(height, width):
        result[first:behind] = enlarged.rows(first, behind)
        let_go(result)
    return result


def _fine_rows(picture: Picture, height: int, width: int) -> Rows:
    """Of a picture of 16 bits a channel, enlarged strip by strip, as it would be large in floats."""
    assert picture.fine is not None
    fine = picture.fine if picture.alpha is None else fill_hidden(picture.fine, picture.alpha)
    return lambda first, behind: enlarge_fine(fine, height, width, (first, behind))
