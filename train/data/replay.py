"""The pictures of records again, from the photos and the recorded draws: for captioners, estimators and the eye."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from pure_jax.errors import PureError
from pure_jax.files import new_directory
from pure_jax.train.data.degradation import VERSION, apply, recorded
from pure_jax.train.data.photos import read_photo
from pure_jax.train.data.pixels import sharpened
from pure_jax.train.data.records import Record, open_records
from pure_jax.train.data.regions import SCALE, Region, cut_region, cut_tiles, padded

INDEX = "pictures.jsonl"

logger = logging.getLogger(__name__)


def replay(record: Record, photo: np.ndarray, tile: int, tiles_per_side: int, sharpen: str) -> list[np.ndarray]:
    """[target uint8 [tile, tile, 3], its low-quality pictures uint8 [tile / SCALE, tile / SCALE, 3]] of a record.

    photo: uint8 [H, W, 3], the one that the record names. tile, tiles_per_side, sharpen: options of its folder.

    Raises:
        PureError: the draws are of another version.
    """
    if record.degrader != VERSION:
        raise PureError(f"{record.key} was degraded by version {record.degrader}, but this one is {VERSION}")
    top, left, side = record.region
    region = Region(top, left, side, flipped=record.flipped, turned=record.turned)
    crop = cut_region(photo, region, tile * tiles_per_side)
    clean = crop.astype(np.float32) / 255
    target, *_ = sharpened(crop, sharpen)
    place = record.tile[0] * tiles_per_side + record.tile[1]
    low = [apply(recorded(drawn, record.key), clean, SCALE) for drawn in record.draws]
    return [cut_tiles(target, tile)[place], *(cut_tiles(image, tile // SCALE)[place] for image in low)]


def write_pictures(records: Path, photos: Path, destination: Path, limit: int | None = None, low: bool = True) -> int:
    """Make the pictures of the first `limit` records, all by default; returns how many records that were.

    `destination`, a new folder, gets `00000.png` for each target, `00000-0.png`, `00000-1.png`, ... for what it was
    degraded to (unless `low` is False), and a line for each picture in INDEX: `file`, `key`, and `variant` of the
    latter. All of it appears at once. A photo that cannot be read is left out with a warning.

    Raises:
        PureError: no records or photos there; other photos; the folder exists or cannot be written.
    """
    if limit is not None and limit < 1:
        raise PureError(f"the limit is {limit} records; choose 1 or more")
    found = open_records(records)
    options = found.manifest.options
    count, rows, name, photo = 0, [], "", np.zeros((0, 0, 3), np.uint8)
    with new_directory(destination) as folder:
        for index in range(min(len(found), limit or len(found))):
            record = found[index]
            try:
                if record.photo != name:
                    photo, name = read_photo(photos / record.photo), record.photo
                    if options["pad"]:
                        photo = padded(photo, options["tile"] * options["tiles_per_side"])
                if max(record.region[:2]) + record.region[2] > max(photo.shape[:2]):
                    raise ValueError("it is smaller than it was")
            except Exception as error:  # broken files make Pillow raise OSError, SyntaxError, struct.error and more
                logger.warning("skipped %s: %s", photos / record.photo, error)
                continue
            made = replay(record, photo, options["tile"], options["tiles_per_side"], options["sharpen"])
            for variant, picture in enumerate(made if low else made[:1], -1):
                file = f"{index:05}.png" if variant < 0 else f"{index:05}-{variant}.png"
                Image.fromarray(picture).save(folder / file)
                rows.append({"file": file, "key": record.key} | ({} if variant < 0 else {"variant": variant}))
            count += 1
        if not count:
            raise PureError(f"none of the photos of {records} could be read in {photos}; the warnings say why")
        (folder / INDEX).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return count
