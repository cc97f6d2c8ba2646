"""Pre-tokenised training pairs: degrade regions of photographs, cut them into tiles, keep both sides' codes.

One .npz file holds everything a language-model run reads. Codes are stored, not token ids, and scores, not levels: so
templates and thresholds can change without encoding again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np
from einops import rearrange
from PIL import Image

from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.files import replacing
from pure_jax.model import encode_images
from pure_jax.train.data.degradation import REAL_ESRGAN, degrade
from pure_jax.train.data.labels import blur_score, noise_score
from pure_jax.train.data.photos import Photo, random_crop
from pure_jax.vqgan import VQGAN

TILES_PER_SIDE = 4
SCALE = 4


@dataclass(frozen=True)
class Records:
    """n pairs of tiles.

    lq_codes, hq_codes: uint16 [n, h, w]; blur, noise: float32 [n], the degradation scores of the draw; photo: int32
    [n], index into captions.
    """

    lq_codes: np.ndarray
    hq_codes: np.ndarray
    blur: np.ndarray
    noise: np.ndarray
    photo: np.ndarray
    captions: list[str]

    def __len__(self) -> int:
        return len(self.photo)


def region_at(
    photos: list[Photo], tile: int, seed: int, index: int
) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """The index-th region: (LQ enlarged to HQ size, HQ) as uint8 tiles [n, tile, tile, 3], blur, noise, photo index.

    The region is degraded as a whole and then cut, so that a tile's blur reaches beyond its edges as in a real photo.
    LQ is enlarged by Pillow's bicubic on 8-bit values, as at inference. Depends on (seed, index) alone.
    """
    rng = np.random.default_rng([seed, index])
    side = tile * TILES_PER_SIDE
    hq, photo = random_crop(photos, side, rng)
    clean = hq.astype(np.float32) / 255
    lq, draws = degrade(clean, REAL_ESRGAN, int(rng.integers(2**31)), scale=SCALE)
    enlarged = np.asarray(Image.fromarray(lq).resize((side, side), Image.Resampling.BICUBIC))
    cut = "(r y) (c x) d -> (r c) y x d"
    tiles = [rearrange(np.ascontiguousarray(image), cut, y=tile, x=tile) for image in (enlarged, hq)]
    return tiles[0], tiles[1], blur_score(draws, scale=SCALE), noise_score(draws, float(clean.mean())), photo


def build_records(
    photos: list[Photo],
    config: ModelConfig,
    vqgan_params: Any,
    regions: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Records:
    """Encode `regions` regions (TILES_PER_SIDE squared pairs each) with the trained tokenizer.

    Raises:
        PureError: `regions` is below 1.
    """
    if regions < 1:
        raise PureError(f"{regions} regions give no records; ask for 1 or more with --regions")
    vqgan, params = VQGAN(config.vqgan), jax.device_put(vqgan_params)
    rows = []
    for index in range(regions):
        lq, hq, blur, noise, photo = region_at(photos, config.tile_size, seed, index)
        codes = np.asarray(encode_images(vqgan, params, np.concatenate([lq, hq]))).astype(np.uint16)
        rows.append((codes[: len(lq)], codes[len(lq) :], blur, noise, photo))
        progress(index + 1)
    lq_codes, hq_codes, blurs, noises, indices = zip(*rows, strict=True)
    repeat = TILES_PER_SIDE**2
    return Records(
        np.concatenate(lq_codes),
        np.concatenate(hq_codes),
        np.repeat(np.array(blurs, np.float32), repeat),
        np.repeat(np.array(noises, np.float32), repeat),
        np.repeat(np.array(indices, np.int32), repeat),
        [photo.caption for photo in photos],
    )


def save_records(path: Path, records: Records) -> None:
    """Write beside and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **vars(records) | {"captions": np.array(records.captions)})


def load_records(path: Path) -> Records:
    """Read what `save_records` wrote.

    Raises:
        PureError: no such file, or not a records file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
            return Records(**arrays | {"captions": arrays["captions"].tolist()})
    except FileNotFoundError as error:
        raise PureError(f"{path} does not exist; make it with `python -m train records`") from error
    except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise PureError(f"{path} is not a records file; make it again with `python -m train records`") from error
