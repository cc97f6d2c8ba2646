"""What `pure tokenize` is to do: which photos, with which captions, in which files, and whose each file is."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pure_jax.errors import PureError
from pure_jax.sequence import normalise_caption
from pure_jax.shards import WHOLE, Shard
from pure_jax.train.config import TokenizeConfig
from pure_jax.train.data.degradation import PRESETS, VERSION
from pure_jax.train.data.image_tokenizer import ImageTokenizer
from pure_jax.train.data.photos import SUFFIXES, read_captions
from pure_jax.train.data.records import Manifest, file_name
from pure_jax.train.data.regions import SCALE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """All that the records of a folder of photos follow from. captions: by a photo's name, in captions_source."""

    photos: Path
    names: Sequence[str]
    captions: Mapping[str, str]
    captions_source: str
    tokenizer: ImageTokenizer
    options: TokenizeConfig

    def files(self, shard: Shard) -> list[tuple[str, Sequence[str]]]:
        """Name and photos of each file of records that is this shard's: every `shard.parts`-th one."""
        each = self.options.photos_per_file
        count = -(-len(self.names) // each)
        return [
            (file_name(index, count), self.names[index * each : (index + 1) * each])
            for index in range(shard.number, count, shard.parts)
        ]

    def photos_of(self, shard: Shard) -> int:
        return sum(len(names) for _, names in self.files(shard))

    @property
    def manifest(self) -> Manifest:
        options = self.options
        captions = json.dumps([self.captions.get(name, "") for name in self.names])
        return Manifest(
            tokenizer=self.tokenizer.fingerprint,
            codes_per_side=options.tile // self.tokenizer.config.stride,
            codebook_size=self.tokenizer.config.codebook_size,
            photos=len(self.names),
            names=hashlib.sha256("\n".join(self.names).encode()).hexdigest(),
            captions=hashlib.sha256(captions.encode()).hexdigest(),
            files=len(self.files(WHOLE)),
            options=asdict(options) | {"degrader": VERSION},
        )


def prepare(
    photos: Path,
    tokenizer: ImageTokenizer,
    options: TokenizeConfig,
    *,
    split: str = "train",
    captions: Path | None = None,
) -> Job:
    """List the photos below a folder, their captions beside them.

    captions: a file of JSON lines with `file`, `caption` and perhaps `split`; None takes captions.jsonl of the folder,
    if it is there. Photos that it puts into another split are left out.

    Raises:
        PureError: no folder, no photos, captions that name none of them; options that do not fit the tokenizer.
    """
    if not photos.is_dir():
        raise PureError(f"{photos} is not a folder of photos; name another one")
    if captions is not None and not captions.is_file():
        raise PureError(f"{captions} is not a file of captions; give another with --captions")
    source = captions or photos / "captions.jsonl"
    rows = read_captions(source)
    there = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not there:
        raise PureError(f"{photos} holds no photos; it needs files ending in {', '.join(sorted(SUFFIXES))}")
    lost = sorted(rows.keys() - set(there))
    if lost and len(lost) == len(rows):
        raise PureError(
            f"{source} has captions for none of the photos in {photos}, but for {lost[0]!r}; mend the names"
        )
    if lost:
        logger.warning(
            "%s has captions for %d files that are not in %s, such as %s", source, len(lost), photos, lost[0]
        )
    names = [name for name in there if rows.get(name, {}).get("split", split) == split]
    if not names:
        raise PureError(f"{photos} holds none of the photos of the split {split!r}; give another with --split")
    said = {name: normalise_caption(rows[name].get("caption", "")) for name in names if name in rows}
    return Job(photos, names, said, source.name, tokenizer, _fitting(options, tokenizer))


def _fitting(options: TokenizeConfig, tokenizer: ImageTokenizer) -> TokenizeConfig:
    """The options with the tokenizer's tile, where they name none."""
    tile, stride = options.tile or tokenizer.tile_size, tokenizer.config.stride
    if tile is None:
        raise PureError("the image tokenizer does not say how large tiles are; give their side with --tile")
    if tile % stride or tile % SCALE:
        raise PureError(f"the tile of {tile} pixels is no multiple of {stride} and of {SCALE}; choose another --tile")
    if options.preset not in PRESETS:
        raise PureError(f"there is no preset {options.preset!r}; choose one of {', '.join(PRESETS)}")
    replace(PRESETS[options.preset], usm_gt=options.sharpen)  # refuses a word that it does not know
    return replace(options, tile=tile)
