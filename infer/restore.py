"""Restoration of one photograph of any size: enlarge, tile, encode, generate, decode, blend, correct the colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from pure_jax.config import SamplingConfig
from pure_jax.errors import PureError
from pure_jax.infer.decoding.generate import Answer, Progress, check_seed, generate
from pure_jax.infer.pictures.colour import COLOUR_FIXES
from pure_jax.infer.pictures.picture import MAX_PIXELS, Picture, from_image, to_image
from pure_jax.infer.pictures.tiles import TilePlan, blend, cut, plan_tiles
from pure_jax.model import Model
from pure_jax.sequence import LEVELS, split_reading

MAX_SCALE = 16.0
VQGAN_BATCH = 16  # tiles; bounds the memory of the convolutions, whatever the picture's size


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
        return plan_tiles(height, width, config.tile_size, overlap, multiple=config.vqgan.stride)

    def restore(
        self,
        photo: Image.Image | Picture,
        *,
        scale: float = 4.0,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        text_prefix: str = "",
        faithful: bool = False,
        colour_fix: str | None = None,
        overlap: int | None = None,
        batch: int | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Restoration:
        """Restore one photograph of at least 16x16 pixels.

        Args:
            scale: 1 ... 16; the result measures round(side * scale).
            seed: 0 ... 2**32 - 1; the same seed gives the same picture, whatever the batch.
            colour_fix: "none", "wavelet" or "adain"; None takes the model's default.
            overlap: pixels that neighbouring tiles share at least, 0 ... half a tile; None takes the
                model's default.
            sampling, text_prefix, faithful, batch, progress: see `pure_jax.infer.decoding.generate.generate`.

        Raises:
            PureError: an argument out of range, or a picture that cannot be used.
        """
        check_seed(seed)
        fix = self.model.config.colour_fix if colour_fix is None else colour_fix
        if fix not in COLOUR_FIXES:
            raise PureError(f"the colour fix is {fix!r}, but it must be one of {', '.join(COLOUR_FIXES)}")
        picture = photo if isinstance(photo, Picture) else from_image(photo)
        plan = self.plan(picture, scale, overlap)
        sources = [_enlarge(picture.rgb, plan)]
        if picture.alpha is not None and np.ptp(picture.alpha):
            # Transparency is restored as a grey picture of its own, in the same batches.
            sources.append(np.repeat(_enlarge(picture.alpha, plan)[..., None], 3, axis=-1))
        tiles = np.concatenate([cut(source, plan) for source in sources])
        answers = generate(
            self.model,
            self._encode(tiles),
            seed=seed,
            sampling=sampling,
            text_prefix=text_prefix,
            faithful=faithful,
            batch=batch,
            progress=progress,
        )
        count = len(plan.corners)
        restored = [
            COLOUR_FIXES[fix](_merge(self._decode(answers[i * count : (i + 1) * count], plan.tile), plan), source)
            for i, source in enumerate(sources)
        ]
        rgb, *rest = ((np.clip(image, 0, 1) * 255).round().astype(np.uint8) for image in restored)
        alpha = picture.alpha
        if alpha is not None:
            alpha = rest[0][..., 1] if rest else np.full(rgb.shape[:2], alpha.flat[0], np.uint8)
        colours = answers[:count]
        degradation, description = _vote([answer.text for answer in colours])
        return Restoration(
            image=to_image(Picture(rgb, alpha, picture.grey, picture.icc)),
            degradation=degradation,
            description=description,
            entropy=self._entropy(colours, plan),
            texts=[answer.text for answer in colours],
            remarks=_remarks(answers, plan.tile // self.model.config.vqgan.stride),
        )

    def _encode(self, tiles: np.ndarray) -> np.ndarray:
        return _in_parts(self.model.encode, tiles)

    def _decode(self, answers: list[Answer], tile: int) -> np.ndarray:
        """uint8 [n, tile, tile, 3]; a picture of another size (faithful mode only) is resized to its tile."""
        side = tile // self.model.config.vqgan.stride
        if all(answer.codes.shape == (side, side) for answer in answers):
            return _in_parts(self.model.decode, np.stack([answer.codes for answer in answers]))
        images = [Image.fromarray(self.model.decode(answer.codes)) for answer in answers]
        return np.stack([np.asarray(image.resize((tile, tile), Image.Resampling.BICUBIC)) for image in images])

    def _entropy(self, answers: list[Answer], plan: TilePlan) -> np.ndarray:
        small = plan.scaled_down(self.model.config.vqgan.stride)
        maps = [Image.fromarray(answer.entropy).resize((small.tile, small.tile)) for answer in answers]
        return blend((np.asarray(m) for m in maps), small)


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


def _in_parts(apply: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> np.ndarray:
    """Apply a function to at most VQGAN_BATCH items at a time.

    All parts are equally long, the last filled up with the last item, so that one compiled program serves them all.
    """
    parts = -(-len(array) // VQGAN_BATCH)
    length = -(-len(array) // parts)
    places = np.minimum(np.arange(parts * length), len(array) - 1).reshape(parts, length)
    return np.concatenate([apply(array[part]) for part in places])[: len(array)]


def _enlarge(image: np.ndarray, plan: TilePlan) -> np.ndarray:
    """Pillow's bicubic on 8-bit values, as in training and in the original."""
    size = (plan.width, plan.height)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _merge(tiles: np.ndarray, plan: TilePlan) -> np.ndarray:
    """uint8 tiles -> float32 [H, W, 3] in [0, 1]."""
    return blend(tiles, plan) / 255.0


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


def _remarks(answers: list[Answer], side: int) -> list[str]:
    remarks = []
    unopened = sum(not answer.opened for answer in answers)
    if unopened:
        remarks.append(f"the model did not open a picture itself in {unopened} of {len(answers)} tiles; it was forced")
    resized = sum(answer.codes.shape != (side, side) for answer in answers)
    if resized:
        remarks.append(f"the model chose another size in {resized} of {len(answers)} tiles; they were resized")
    return remarks
