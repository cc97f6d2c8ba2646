"""Rounds of fresh pairs for the demo: regions of photographs, degraded, cut into tiles, both sides encoded.

`RecordRounds` makes one round after the other while a run reads them, each once; a file keeps a round for a run that is
stopped. Data that are made once and read often are `pure_jax.train.data.records`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from pure_jax.config import ModelConfig
from pure_jax.errors import PureError
from pure_jax.files import replacing, require_writable
from pure_jax.model import encode_images
from pure_jax.train.data.degradation import REAL_ESRGAN, degrade
from pure_jax.train.data.labels import blur_score, noise_score
from pure_jax.train.data.photos import Photo, random_crop
from pure_jax.train.data.regions import SCALE, cut_tiles, enlarged
from pure_jax.vqgan import VQGAN

TILES_PER_SIDE = 4


@dataclass(frozen=True)
class Records:
    """n pairs of tiles.

    lq_codes, hq_codes: uint16 [n, h, w]; blur, noise: float32 [n], the degradation scores of the draw; caption: int32
    [n], index into captions.
    """

    lq_codes: np.ndarray
    hq_codes: np.ndarray
    blur: np.ndarray
    noise: np.ndarray
    caption: np.ndarray
    captions: list[str]

    def __len__(self) -> int:
        return len(self.caption)

    def epoch(self, number: int) -> Records:
        """What the number-th pass reads: the same records every time (see `RecordRounds`)."""
        return self


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
    tiles = [cut_tiles(image, tile) for image in (enlarged(lq), hq)]
    return tiles[0], tiles[1], blur_score(draws, scale=SCALE), noise_score(draws, float(clean.mean())), photo


def build_records(
    photos: list[Photo],
    config: ModelConfig,
    vqgan_params: Any,
    regions: int,
    seed: int,
    *,
    first: int = 0,
    words: Callable[[np.ndarray], str] | None = None,
) -> Records:
    """Encode the regions from `first` on (TILES_PER_SIDE squared pairs each) with the trained tokenizer.

    words: the caption of a tile, from its HQ pixels uint8 [tile, tile, 3]; by default the caption of its photo.

    Raises:
        PureError: `regions` is below 1.
    """
    if regions < 1:
        raise PureError(f"{regions} regions give no records; ask for 1 or more")
    vqgan, params = VQGAN(config.vqgan), jax.device_put(vqgan_params)
    rows = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(lambda index: region_at(photos, config.tile_size, seed, index), range(first, first + regions))
        try:
            for lq, hq, blur, noise, photo in made:
                codes = np.asarray(encode_images(vqgan, params, np.concatenate([lq, hq]))).astype(np.uint16)
                said = [words(tile) for tile in hq] if words else [photos[photo].caption] * len(hq)
                rows.append((codes[: len(lq)], codes[len(lq) :], [blur] * len(hq), [noise] * len(hq), said))
        finally:
            pool.shutdown(cancel_futures=True)  # an interruption need not wait for all regions
    lq_codes, hq_codes, blurs, noises, said = (list(column) for column in zip(*rows, strict=True))
    captions, caption = np.unique(np.concatenate(said), return_inverse=True)
    return Records(
        np.concatenate(lq_codes),
        np.concatenate(hq_codes),
        np.concatenate(blurs).astype(np.float32),
        np.concatenate(noises).astype(np.float32),
        caption.astype(np.int32),
        captions.tolist(),
    )


def save_records(path: Path, records: Records) -> None:
    """Write beside and rename."""
    require_writable(path)
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **vars(records) | {"captions": np.array(records.captions)})


def load_records(path: Path) -> Records:
    """Read what `save_records` wrote.

    Raises:
        PureError: no such file, or not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
            return Records(**arrays | {"captions": arrays["captions"].tolist()})
    except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise PureError(
            f"{path} cannot be read as a round of records; remove it, and the run makes it again"
        ) from error


class RecordRounds:
    """Records without end: round r holds regions r * regions ... (r + 1) * regions - 1, each drawn once.

    A round is made in the background while the one before it is read, and kept on the disk until two later ones are
    there, so that a run that goes on need not make its round again.
    """

    def __init__(self, directory: Path, regions: int, make: Callable[[int], Records]):
        """make: first region -> records of `regions` regions, a pure function."""
        self.directory, self.regions, self.make = directory, regions, make
        self._pool = ThreadPoolExecutor(1)
        self._coming: dict[int, Future[Records]] = {}

    def __len__(self) -> int:
        """Records of one round."""
        return self.regions * TILES_PER_SIDE**2

    def epoch(self, number: int) -> Records:
        """The number-th round."""
        for wanted in (number, number + 1):
            if wanted not in self._coming:
                self._coming[wanted] = self._pool.submit(self._load_or_make, wanted)
        for old in [n for n in self._coming if n < number]:
            del self._coming[old]
            self._path(old - 1).unlink(missing_ok=True)
        return self._coming[number].result()

    def _path(self, number: int) -> Path:
        return self.directory / f"round-{number:05}.npz"

    def _load_or_make(self, number: int) -> Records:
        path = self._path(number)
        if path.is_file():
            return load_records(path)
        records = self.make(number * self.regions)
        save_records(path, records)
        return records
