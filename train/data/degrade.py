"""Make a fixed test set: from a folder of photos, pairs of ground truth and low-quality image, every draw on record.

Each photo's draws depend on the seed and its own file name alone, so adding photos changes none of the others.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pure_jax.errors import PureError
from pure_jax.files import replacing
from pure_jax.train.data.degradation import PRESETS, DegradationConfig, degrade
from pure_jax.train.data.labels import (
    PARAMS_THRESHOLDS,
    SPEC_TWIN_THRESHOLDS,
    blur_score,
    levels,
    noise_score,
    twin_scores,
)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

logger = logging.getLogger(__name__)


def degrade_folder(
    source: Path,
    destination: Path,
    *,
    scale: int = 4,
    seed: int = 0,
    preset: str = "real-esrgan",
    crop: int | None = None,
    split: str | None = None,
    names: Collection[str] | None = None,
    limit: int | None = None,
) -> int:
    """Degrade the photos of a folder, in the order of their names, and return how many pairs were written.

    Writes `gt/<stem>.png`, `lq/<stem>.png` and `pairs.jsonl` (file, seed, caption, scores, levels, draws) into
    `destination`, each file whole or not at all. The centre is kept: a square of `crop` pixels, or all but what exceeds
    multiples of `scale`. With `split`, only the photos that `captions.jsonl` in `source` puts there; with `names`, only
    those files of them. `limit` is the largest number of photos read. A photo that cannot be read, or is too small, is
    skipped with a warning.
    Raises PureError for arguments out of range, a folder without photos, or if no pair could be made.
    """
    if preset not in PRESETS:
        raise PureError(f'there is no preset "{preset}"; choose one of {", ".join(PRESETS)}')
    if scale < 1:
        raise PureError(f"the scale is {scale}; choose 1 or more")
    if crop is not None and (crop < scale or crop % scale):
        raise PureError(f"the crop of {crop} pixels is not a positive multiple of the scale {scale}")
    if limit is not None and limit < 1:
        raise PureError(f"the limit is {limit} photos; choose 1 or more")
    captions = _read_captions(source)
    photos = _list_photos(source, captions, split)
    if names is not None:
        missing = sorted(set(names) - {photo.name for photo in photos})
        if missing:
            raise PureError(f"{source} has no photo {missing[0]!r} of that split; mend the list of names")
        photos = [photo for photo in photos if photo.name in set(names)]
    photos = photos[:limit]
    records = []
    try:
        for folder in ("gt", "lq"):
            (destination / folder).mkdir(parents=True, exist_ok=True)
        for photo in photos:
            try:
                gt = _read_photo(photo, scale, crop)
            except Exception as error:  # broken files make Pillow raise OSError, SyntaxError, struct.error and more
                logger.warning("skipped %s: %s", photo, error)
                continue
            lq, record = _make_pair(gt, photo.name, seed, PRESETS[preset], scale)
            for folder, image in (("gt", gt), ("lq", lq)):
                with replacing(destination / folder / f"{photo.stem}.png") as beside:
                    Image.fromarray(image).save(beside, format="PNG")
            caption = captions.get(photo.name, {}).get("caption")
            records.append({"file": photo.name, **({"caption": caption} if caption else {}), **record})
        if not records:
            raise PureError(f"none of the {len(photos)} photos in {source} could be used; the warnings above say why")
        with replacing(destination / "pairs.jsonl") as beside:
            beside.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    except OSError as error:
        raise PureError(
            f"cannot write into {destination} ({error.strerror or error}); choose another folder"
        ) from error
    if len(records) < len(photos):
        logger.warning("%d of %d photos were skipped", len(photos) - len(records), len(photos))
    return len(records)


def photo_seed(seed: int, name: str) -> int:
    """The seed of one photo: 32 bits of a hash of the test set's seed and the file name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def _make_pair(gt: np.ndarray, name: str, seed: int, config: DegradationConfig, scale: int) -> tuple[np.ndarray, dict]:
    """uint8 [H, W, 3] -> (its low-quality image, a record of draws, scores and levels)."""
    image = gt.astype(np.float32) / 255
    own_seed = photo_seed(seed, name)
    lq, degradation = degrade(image, config, own_seed, scale)
    scores = {
        "params": (blur_score(degradation, scale), noise_score(degradation, float(image.mean()), scale)),
        "twin": twin_scores(image, lq, degradation),
    }
    cut = {t.kind: levels(*scores[t.kind], t) for t in (PARAMS_THRESHOLDS, SPEC_TWIN_THRESHOLDS)}
    return lq, {
        "seed": own_seed,
        "scale": scale,
        "scores": {kind: {"blur": blur, "noise": noise} for kind, (blur, noise) in scores.items()},
        "levels": {kind: {"blur": blur, "noise": noise} for kind, (blur, noise) in cut.items()},
        "draws": dataclasses.asdict(degradation),
    }


def _read_captions(source: Path) -> dict[str, dict]:
    """Rows of `captions.jsonl` by file name; empty without that file."""
    path = source / "captions.jsonl"
    if not path.is_file():
        return {}
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["file"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise PureError(f'{path} line {number} is no JSON object with a "file"; mend or remove the line') from error
    return rows


def _list_photos(source: Path, captions: dict[str, dict], split: str | None) -> list[Path]:
    if not source.is_dir():
        raise PureError(f"{source} is not a folder; give a folder of photos")
    photos = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not photos:
        raise PureError(f"{source} holds no photos; it needs files ending in {', '.join(SUFFIXES)}")
    if split is not None:
        splits = sorted({row["split"] for row in captions.values() if "split" in row})
        if split not in splits:
            known = f"it knows {', '.join(splits)}" if splits else "that file is missing or names none"
            raise PureError(f'captions.jsonl in {source} names no split "{split}"; {known}')
        photos = [path for path in photos if captions.get(path.name, {}).get("split") == split]
        if not photos:
            raise PureError(f'{source} holds none of the photos of split "{split}"; copy them there')
    stems: dict[str, Path] = {}
    for path in photos:
        if path.stem in stems:
            raise PureError(f"{stems[path.stem].name} and {path.name} in {source} would share an output; rename one")
        stems[path.stem] = path
    return photos


def _read_photo(path: Path, scale: int, crop: int | None) -> np.ndarray:
    """The upright photo's centre as uint8 [H, W, 3]. Raises what Pillow raises, and ValueError when it is too small."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    width, height = (crop, crop) if crop else (side - side % scale for side in image.size)
    if min(width, height) < 1 or width > image.width or height > image.height:
        raise ValueError(f"its {image.width}x{image.height} pixels are fewer than the crop of {crop or scale}")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))
