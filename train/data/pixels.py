"""From a photo to its records: a region, its degradations, the scores of each, and the codes of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np

from pure_jax.train.data.degradation import PRESETS, VERSION, Degradation, apply, apply_twice, draw, usm_sharpen
from pure_jax.train.data.job import Job
from pure_jax.train.data.labels import blur_score, energy_to_keep, measured_scores, noise_score
from pure_jax.train.data.photos import read_photo
from pure_jax.train.data.records import Record
from pure_jax.train.data.regions import SCALE, Region, cut_region, cut_tiles, draw_region, enlarged, padded


class Pixels(NamedTuple):
    """A region before it is encoded. hq: uint8 [n, tile, tile, 3]; lq: uint8 [K, n, tile, tile, 3]; see `Record`."""

    photo: str
    crop: int
    region: Region
    hq: np.ndarray
    lq: np.ndarray
    draws: list[Degradation]
    params: list[tuple[float, float]]
    twin: list[tuple[float, float]]


def make_pixels(job: Job, name: str, crop: int) -> tuple[str, Pixels | str | None]:
    """A photo's name, and one region of it; or why there is none, said once for each photo."""
    options, size = job.options, job.options.tile * job.options.tiles_per_side
    try:
        pixels = read_photo(job.photos / name)
    except Exception as error:  # broken files make Pillow raise OSError, SyntaxError, struct.error and more
        return name, None if crop else f"{error}"
    pixels = padded(pixels, size) if options.pad else pixels
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        return name, None if crop else f"its {width}x{height} pixels are fewer than a region's {size}x{size}"
    rng = np.random.default_rng(_seed(options.seed, name, crop))
    region = draw_region(height, width, size, rng, largest_reduction=options.largest_reduction, turned=0.0)
    hq, clean, source = sharpened(cut_region(pixels, region, size), options.sharpen)
    energy, mean = energy_to_keep(clean, SCALE), float(clean.mean())
    lq, draws, params, twins = [], [], [], []
    for _ in range(options.variants):
        drawn = draw(replace(PRESETS[options.preset], usm_gt=options.sharpen), rng)
        # what is degraded is sharpened already, once for all variants
        once = replace(drawn, sharpen=False)
        low, twin = apply_twice(once, source, SCALE) if options.twin else (apply(once, source, SCALE), None)
        lq.append(cut_tiles(enlarged(low), options.tile))
        draws.append(drawn)
        params.append((blur_score(drawn, SCALE), noise_score(drawn, mean, SCALE)))
        twins.append((np.nan, np.nan) if twin is None else measured_scores(energy, low, twin))
    return name, Pixels(name, crop, region, cut_tiles(hq, options.tile), np.stack(lq), draws, params, twins)


def sharpened(crop: np.ndarray, usm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(target uint8, the same and what is to be degraded float32 in [0, 1]) of a crop uint8 [H, W, 3]."""
    clean = crop.astype(np.float32) / 255
    source = clean if usm == "none" else usm_sharpen(clean)
    if usm != "both":
        return crop, clean, source
    crop = np.round(np.clip(source, 0, 1) * 255).astype(np.uint8)
    return crop, crop.astype(np.float32) / 255, source


def encoded(job: Job, made: Pixels) -> Iterator[Record]:
    """The records of a region, one for each tile."""
    variants, tiles = made.lq.shape[:2]
    codes = job.tokenizer.encode(np.concatenate([made.hq, made.lq.reshape(-1, *made.lq.shape[2:])]))
    hq, lq = codes[:tiles], codes[tiles:].reshape(variants, tiles, *codes.shape[1:])
    region, caption = made.region, job.captions.get(made.photo, "")
    for tile in range(tiles):
        row, column = divmod(tile, job.options.tiles_per_side)
        yield Record(
            key=f"{made.photo}#{made.crop}/{row},{column}",
            photo=made.photo,
            region=[region.top, region.left, region.side],
            flipped=region.flipped,
            turned=region.turned,
            tile=[row, column],
            hq_codes=hq[tile],
            lq_codes=np.ascontiguousarray(lq[:, tile]),
            params=np.array(made.params, np.float32),
            twin=np.array(made.twin, np.float32),
            draws=[asdict(drawn) for drawn in made.draws],
            caption=caption,
            caption_source=job.captions_source if caption else "",
            seed=job.options.seed,
            tokenizer=job.tokenizer.fingerprint,
            degrader=VERSION,
        )


def _seed(seed: int, name: str, crop: int) -> int:
    """128 bits of a hash: what a photo gives does not hang on which others there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}#{crop}".encode()).digest()[:16], "little")
