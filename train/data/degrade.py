"""Make a fixed test set: from a folder of photos, pairs of ground truth and low-quality image, every draw on record.

Each photo's draws depend on the seed and its own file name alone, so adding photos changes none of the others.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pure_jax.errors import PureError
from pure_jax.files import scratch
from pure_jax.infer.contract import Progress, silent
from pure_jax.train.data.degradation import (
    PRESETS,
    Degradation,
    DegradationConfig,
    apply_twice,
    draw,
    recorded,
    usm_sharpen,
)
from pure_jax.train.data.labels import (
    PARAMS_THRESHOLDS,
    SPEC_TWIN_THRESHOLDS,
    blur_score,
    energy_to_keep,
    levels,
    measured_scores,
    noise_score,
)

FOLDERS = ("gt", "lq")
STAGING = ".partial"
"""Where the pairs lie until all are made."""
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

Draws = Callable[[str], tuple[int, Degradation]]
"""A photo's file name -> the seed of its draws, and the draws."""

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
    overwrite: bool = False,
    sharpen: str = "none",
    replay: Path | None = None,
    progress: Progress = silent,
) -> int:
    """Degrade the photos of a folder, in the order of their names, and return how many pairs were written.

    Writes `gt/<stem>.png`, `lq/<stem>.png` and `pairs.jsonl` (file, seed, caption, scores, levels, draws) into
    `destination`, all of them or nothing. Pairs of an earlier call would be measured together with the new ones: so
    the folder must be empty, or `overwrite` be set, which removes what its `pairs.jsonl` lists. The centre is kept: a
    square of `crop` pixels, or all but what exceeds multiples of `scale`. With `split`, only the photos that
    `captions.jsonl` in `source` puts there; with `names`, only those files of them. `limit` is the largest number of
    photos read. A photo that cannot be read, or is too small, is skipped with a warning. sharpen: one of
    `degradation.USM`. replay: a `pairs.jsonl` whose draws are repeated instead of drawing anew (`seed`, `preset` and
    `sharpen` then say nothing); it names the photos to take. progress: is told of each photo.
    Raises PureError for arguments out of range, a folder without photos, a destination that is not empty or cannot be
    written, or if no pair could be made.
    """
    if preset not in PRESETS:
        raise PureError(f'there is no preset "{preset}"; choose one of {", ".join(PRESETS)}')
    if scale < 1:
        raise PureError(f"the scale is {scale}; choose 1 or more")
    if crop is not None and (crop < scale or crop % scale):
        raise PureError(f"the crop of {crop} pixels is not a positive multiple of the scale {scale}")
    if limit is not None and limit < 1:
        raise PureError(f"the limit is {limit} photos; choose 1 or more")
    captions = _read_rows(source / "captions.jsonl")
    photos = _list_photos(source, captions, split)
    draw_of, again = _drawing(dataclasses.replace(PRESETS[preset], usm_gt=sharpen), seed, replay, scale)
    names = again if names is None else names
    if names is not None:
        missing = sorted(set(names) - {photo.name for photo in photos})
        if missing:
            raise PureError(f"{source} has no photo {missing[0]!r} of that split; mend the list of names")
        photos = [photo for photo in photos if photo.name in set(names)]
    photos = photos[:limit]
    old = _files_to_replace(destination, overwrite)
    staging, existed = destination / STAGING, destination.exists()
    try:
        with scratch(staging, destination):
            sharp = sharpen == "both" and replay is None
            records = _write_pairs(staging, photos, draw_of, sharp, scale, crop, captions, progress)
            if not records:
                raise PureError(
                    f"none of the {len(photos)} photos in {source} could be used; the warnings above say why"
                )
            for file in old:
                file.unlink(missing_ok=True)
            for folder in FOLDERS:
                (destination / folder).mkdir(exist_ok=True)
                for file in (staging / folder).iterdir():
                    os.replace(file, destination / folder / file.name)
            os.replace(staging / "pairs.jsonl", destination / "pairs.jsonl")
    except OSError as error:
        raise PureError(
            f"cannot write into {destination} ({error.strerror or error}); choose another folder"
        ) from error
    finally:
        if not existed:
            for made in (*(destination / folder for folder in FOLDERS), destination):
                with suppress(OSError):  # not empty: all went well
                    made.rmdir()
    if len(records) < len(photos):
        logger.warning("%d of %d photos were skipped", len(photos) - len(records), len(photos))
    return len(records)


def _write_pairs(
    directory: Path,
    photos: Sequence[Path],
    draw_of: Draws,
    sharp: bool,
    scale: int,
    crop: int | None,
    captions: Mapping[str, dict],
    progress: Progress,
) -> list[dict]:
    """Fill an empty directory; returns the rows of its pairs.jsonl."""
    for folder in FOLDERS:
        (directory / folder).mkdir()
    records = []
    for done, photo in enumerate(photos):
        progress("degrade", done, len(photos))
        try:
            gt = _read_photo(photo, scale, crop)
        except Exception as error:  # broken files make Pillow raise OSError, SyntaxError, struct.error and more
            logger.warning("skipped %s: %s", photo, error)
            continue
        gt, lq, record = _make_pair(gt, *draw_of(photo.name), sharp, scale)
        for folder, image in zip(FOLDERS, (gt, lq), strict=True):
            Image.fromarray(image).save(directory / folder / f"{photo.stem}.png", format="PNG")
        caption = captions.get(photo.name, {}).get("caption")
        records.append({"file": photo.name, **({"caption": caption} if caption else {}), **record})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (directory / "pairs.jsonl").write_text(lines, encoding="utf-8")
    return records


def photo_seed(seed: int, name: str) -> int:
    """The seed of one photo: 32 bits of a hash of the test set's seed and the file name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def _drawing(
    config: DegradationConfig, seed: int, replay: Path | None, scale: int
) -> tuple[Draws, Collection[str] | None]:
    """What draws for a photo's name, and the names that it can draw for, None for any."""
    if replay is None:

        def fresh(name: str) -> tuple[int, Degradation]:
            own_seed = photo_seed(seed, name)
            return own_seed, draw(config, np.random.default_rng(own_seed))

        return fresh, None
    rows = _read_rows(replay)
    if not rows:
        raise PureError(f"{replay} lists no pairs; give the pairs.jsonl of an earlier call")
    found = {}
    for name, row in rows.items():
        if row.get("scale", scale) != scale:
            raise PureError(f"{replay} was made at the scale {row['scale']}, not {scale}; give --scale {row['scale']}")
        found[name] = (row.get("seed", seed), recorded(row.get("draws"), f"{replay}, {name}"))
    return found.__getitem__, list(found)


def _make_pair(
    gt: np.ndarray, own_seed: int, degradation: Degradation, sharp: bool, scale: int
) -> tuple[np.ndarray, np.ndarray, dict]:
    """uint8 [H, W, 3] -> (target, low-quality image, a record of draws, scores and levels)."""
    image = gt.astype(np.float32) / 255
    lq, twin = apply_twice(degradation, image, scale)
    if sharp:
        gt = np.round(np.clip(usm_sharpen(image), 0, 1) * 255).astype(np.uint8)
        image = gt.astype(np.float32) / 255
    scores = {
        "params": (blur_score(degradation, scale), noise_score(degradation, float(image.mean()), scale)),
        "twin": measured_scores(energy_to_keep(image, scale), lq, twin),
    }
    cut = {t.kind: levels(*scores[t.kind], t) for t in (PARAMS_THRESHOLDS, SPEC_TWIN_THRESHOLDS)}
    return (
        gt,
        lq,
        {
            "seed": own_seed,
            "scale": scale,
            "scores": {kind: {"blur": blur, "noise": noise} for kind, (blur, noise) in scores.items()},
            "levels": {kind: {"blur": blur, "noise": noise} for kind, (blur, noise) in cut.items()},
            "draws": dataclasses.asdict(degradation),
        },
    )


def _files_to_replace(destination: Path, overwrite: bool) -> list[Path]:
    """The files of the pairs that are there already, their list last; no other file may stand among the pictures."""
    there = {path.name for path in destination.iterdir()} - {STAGING} if destination.is_dir() else set()
    if not there:
        return []
    if not overwrite:
        raise PureError(f"{destination} is not empty; name a new folder, or replace the pairs in it with --overwrite")
    pairs = destination / "pairs.jsonl"
    stems = {Path(name).stem for name in _read_rows(pairs)}
    old = [destination / folder / f"{stem}.png" for stem in stems for folder in FOLDERS]
    others = {path for folder in FOLDERS for path in (destination / folder).glob("*.png")} - set(old)
    if others:
        raise PureError(f"{min(others)} is not of the pairs that {pairs.name} lists; remove it or name a new folder")
    return [*old, pairs]


def _read_rows(path: Path) -> dict[str, dict]:
    """Rows of a JSON-lines file by their "file"; empty without it."""
    if not path.is_file():
        return {}
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            rows[os.fspath(row["file"])] = row
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
