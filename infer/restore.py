"""Restoration of one photograph of any size: enlarge, cut, let the model restore the tiles, blend, correct colours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.families import Model, check_options
from pure_jax.infer.contract import Progress, RestoredTile, check_seed
from pure_jax.infer.families import RESTORE_TILES
from pure_jax.infer.pictures.colour import COLOUR_FIXES
from pure_jax.infer.pictures.picture import MAX_PIXELS, Picture, from_image, to_image
from pure_jax.infer.pictures.tiles import TilePlan, blend, cut, plan_tiles
from pure_jax.sequence import LEVELS, split_reading

MAX_SCALE = 16.0


@dataclass(frozen=True)
class Restoration:
    """The result for one photograph.

    image: as large as the input times the scale, in the input's kind (grey, RGB, with alpha).
    degradation: {"blur": ..., "noise": ...}, each "small", "medium" or "large": the middle level over all tiles that
    gave a reading; None if no tile did.
    description: what most tiles say is shown.
    entropy: float32 [h, w] nats, one value per code position; where tiles overlap, blended.
    texts: every tile's own words, row by row. remarks: what went otherwise than usual, one sentence each.
    """

    image: Image.Image
    degradation: dict[str, str] | None
    description: str
    entropy: np.ndarray
    texts: list[str]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Restorer:
    """Restores photographs with a model: `Restorer(model).restore(photo, scale=4, seed=0)`."""

    model: Model

    def plan(self, picture: Picture, scale: float, overlap: int | None = None) -> TilePlan:
        """Where the tiles of the enlarged picture lie.

        Raises:
            PureError: scale outside 1 ... 16, a result over 64 million pixels, or an overlap over half a tile.
        """
        width, height = output_size(picture, scale)
        config = self.model.config
        if overlap is None:
            overlap = config.tile_size // 4 if config.tile_overlap is None else config.tile_overlap
        return plan_tiles(height, width, config.tile_size, overlap, multiple=config.stride)

    def restore(
        self,
        photo: Image.Image | Picture,
        *,
        scale: float = 4.0,
        seed: int = 0,
        colour_fix: str | None = None,
        overlap: int | None = None,
        batch: int | None = None,
        progress: Progress = lambda done, total: None,
        **options: Any,
    ) -> Restoration:
        """Restore one photograph of at least 16x16 pixels.

        Args:
            scale: 1 ... 16; the result measures round(side * scale).
            seed: 0 ... 2**32 - 1; the same seed gives the same picture, whatever the batch.
            colour_fix: "none", "wavelet" or "adain"; None takes the model's default.
            overlap: pixels that neighbouring tiles share at least, 0 ... half a tile; None takes the
                model's default.
            batch: tiles decoded together; None takes as many as fit.
            progress: called with (tokens written, tokens in all).
            options: those of the model's family; PURE's are sampling, text and faithful, see
                `pure_jax.infer.pure.restore_tiles`.

        Raises:
            PureError: an argument out of range or of another family, or a picture that cannot be used.
        """
        check_seed(seed)
        config = self.model.config
        restore_tiles = RESTORE_TILES[config.family]
        check_options(config.family, restore_tiles, options)
        fix = config.colour_fix if colour_fix is None else colour_fix
        if fix not in COLOUR_FIXES:
            raise PureError(f"the colour fix is {fix!r}, but it must be one of {', '.join(COLOUR_FIXES)}")
        picture = photo if isinstance(photo, Picture) else from_image(photo)
        plan = self.plan(picture, scale, overlap)
        sources = [picture.rgb]
        if picture.alpha is not None and np.ptp(picture.alpha):
            # Transparency is restored as a grey picture of its own, in the same batches.
            sources.append(np.repeat(picture.alpha[..., None], 3, axis=-1))
        small = plan.scaled_down(config.magnification)
        tiles = np.concatenate([cut(_resize(source, plan, config.magnification), small) for source in sources])
        all_tiles, remarks = restore_tiles(self.model, tiles, seed=seed, batch=batch, progress=progress, **options)
        count = len(plan.corners)
        restored = [
            COLOUR_FIXES[fix](_merge(all_tiles[i * count : (i + 1) * count], plan), _resize(source, plan))
            for i, source in enumerate(sources)
        ]
        rgb, *rest = ((np.clip(image, 0, 1) * 255).round().astype(np.uint8) for image in restored)
        alpha = picture.alpha
        if alpha is not None:
            alpha = rest[0][..., 1] if rest else np.full(rgb.shape[:2], alpha.flat[0], np.uint8)
        colours = all_tiles[:count]
        texts = [tile.text for tile in colours]
        degradation, description = _vote(texts)
        return Restoration(
            image=to_image(Picture(rgb, alpha, picture.grey, picture.icc)),
            degradation=degradation,
            description=description,
            entropy=blend((tile.entropy for tile in colours), plan.scaled_down(config.stride)),
            texts=texts,
            remarks=remarks,
        )


def output_size(picture: Picture, scale: float) -> tuple[int, int]:
    """(width, height) of the result: each side times the scale, rounded half to even.

    Raises:
        PureError: scale outside 1 ... 16, or a result over 64 million pixels.
    """
    if not 1.0 <= scale <= MAX_SCALE:  # so NaN ends here too
        raise PureError(f"the scale is {scale}, but it must lie in 1 ... {MAX_SCALE:g}")
    height, width = (round(side * scale) for side in picture.rgb.shape[:2])
    if height * width > MAX_PIXELS:
        raise PureError(
            f"the result would have {width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million; "
            "choose a lower scale"
        )
    return width, height


def _resize(image: np.ndarray, plan: TilePlan, magnification: int = 1) -> np.ndarray:
    """The photo at 1 / magnification of the result's size: Pillow's bicubic on 8-bit values, as in the originals.

    Sides are rounded up, and the photo's border is repeated there: each pixel stands for exactly magnification x
    magnification pixels of the result, and none is moved.
    """
    result, photo = np.array([plan.height, plan.width]), np.array(image.shape[:2])
    size = -(-result // magnification)
    shown = size * magnification / result * photo  # the part of the photo, a little more than all of it
    margin = np.ceil(shown - photo).astype(int)
    padded = np.pad(image, [(0, margin[0]), (0, margin[1]), (0, 0)], mode="edge")
    box = (0, 0, float(shown[1]), float(shown[0]))
    return np.asarray(Image.fromarray(padded).resize((int(size[1]), int(size[0])), Image.Resampling.BICUBIC, box))


def _merge(tiles: list[RestoredTile], plan: TilePlan) -> np.ndarray:
    """float32 [H, W, 3] in [0, 1]."""
    return blend((tile.image for tile in tiles), plan) / 255.0


def _vote(texts: list[str]) -> tuple[dict[str, str] | None, str]:
    """The middle level of each degradation and the most frequent description."""
    readings, descriptions = zip(*map(split_reading, texts), strict=True)
    found = [reading for reading in readings if reading is not None]
    degradation = None
    if found:
        ranks = {name: sorted(LEVELS.index(reading[name]) for reading in found) for name in ("blur", "noise")}
        degradation = {name: LEVELS[rank[len(rank) // 2]] for name, rank in ranks.items()}
    spoken = Counter(description for description in descriptions if description)
    return degradation, spoken.most_common(1)[0][0] if spoken else ""
