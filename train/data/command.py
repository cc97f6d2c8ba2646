"""`pure tokenize` and `pure replay`, which make and look into records, and `pure degrade`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from pure_jax.errors import PureError
from pure_jax.train.config import TokenizeConfig
from pure_jax.train.reading import read_names


@dataclass(frozen=True)
class Tokenize:
    """Turn photos into records for `pure train lm`: codes of tiles and of their degradations; goes on where it stopped.

    Any number of processes share the work with --shard.
    """

    photos: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS")]
    """Folder of photos, and of folders of photos; captions.jsonl may lie there with captions and splits."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RECORDS")]
    """Folder of records; the same one for all processes."""
    model: str | None = None
    """Whose image tokenizer: a model directory, --out of `pure train vqgan`, LlamaGen's file; by default the demo's."""
    captions: Path | None = None
    """Captions of the photos, JSON lines with file and caption; by default captions.jsonl in PHOTOS."""
    split: str = "train"
    """Photos that the captions put into another split are left out."""
    shard: str | None = None
    """Which part of the files this process makes, as 1/4 ... 4/4, by default all; "cluster" asks SLURM, Open MPI
    or a TPU slice."""
    workers: int | None = None
    """Threads that read and degrade photos; by default one for each core."""
    quiet: bool = False
    """Print nothing but errors and skipped photos."""
    options: Annotated[TokenizeConfig, tyro.conf.arg(name="")] = field(default_factory=TokenizeConfig)
    interrupted: ClassVar[str] = "whole files of records stay; the same command continues with the next one"

    def run(self) -> None:
        import os
        import time

        from pure_jax.progress import Reporter
        from pure_jax.shards import WHOLE, read_shard
        from pure_jax.train.data.image_tokenizer import load_image_tokenizer
        from pure_jax.train.data.job import prepare
        from pure_jax.train.data.tokenize import tokenize

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.workers is not None and self.workers < 1:
            raise PureError(f"{self.workers} workers read nothing; give 1 or more")
        shard, began = WHOLE if self.shard is None else read_shard(self.shard), time.monotonic()
        tokenizer = load_image_tokenizer(None if self.model is None else Path(self.model))
        job = prepare(self.photos, tokenizer, self.options, split=self.split, captions=self.captions)
        with Reporter(self.quiet, counted="steps", told=False, stays=True) as progress:
            add = progress.adding("tokenize", job.photos_of(shard))
            report = tokenize(job, self.out, shard, self.workers or cores, add)
        if not self.quiet:
            there = f", {report.there} files were there" if report.there else ""
            skipped = f", {report.skipped} photos skipped" if report.skipped else ""
            seconds = time.monotonic() - began
            print(f"{self.out}: {report.records} records in {report.files} files, {seconds:.1f} s{there}{skipped}")


@dataclass(frozen=True)
class Replay:
    """Make the pictures of records again, from the photos and the recorded draws, for captioners and estimators."""

    records: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RECORDS")]
    """Folder that `pure tokenize` made."""
    photos: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS")]
    """The photos that it was made of."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """New folder for the pictures and pictures.jsonl, which says whose they are."""
    limit: int | None = None
    """The first so many records; by default all."""
    low: bool = True
    """The low-quality pictures too, at their own size."""

    def run(self) -> None:
        from pure_jax.train.data.replay import write_pictures

        count = write_pictures(self.records, self.photos, self.out, self.limit, self.low)
        print(f"{self.out}: pictures of {count} records")


@dataclass(frozen=True)
class Degrade:
    """Make a test set: degrade a folder of photos with the Real-ESRGAN pipeline (training draws from the same)."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Folder of photos; captions.jsonl may lie there with their splits and captions."""
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """Empty or new folder; gets gt/, lq/ and pairs.jsonl, all of it or nothing."""
    scale: int = 4
    """How many times smaller the low-quality pictures are, along each side."""
    seed: int = 0
    """The same seed and file name give the same degradation."""
    preset: str = "real-esrgan"
    """real-esrgan, mild or light"""
    crop: int | None = None
    """Side of the square cut out of each photo's centre; by default all of it."""
    split: str | None = None
    """Only the photos that captions.jsonl puts in this split."""
    names: Path | None = None
    """Text file with the names of the photos to take, one a line; by default all."""
    limit: int | None = None
    """Take the first so many photos by name; by default all."""
    sharpen: str = "none"
    """Unsharp mask: none, input_only (what is degraded, not the target) or both."""
    replay: Path | None = None
    """pairs.jsonl of an earlier call: repeat its draws, for its photos, instead of drawing with --seed."""
    overwrite: bool = False
    """Replace the pairs that lie in the destination; by default it must be empty."""
    quiet: bool = False
    """Print nothing but errors, and the object of --json."""
    json: bool = False
    """Print one JSON object on stdout instead: destination, pairs (their number), scale, seed, preset."""

    def run(self) -> None:
        import logging

        from pure_jax.progress import Reporter
        from pure_jax.train.data.degrade import degrade_folder

        logger = logging.getLogger("pure_jax")
        level = logger.level
        if self.quiet:
            logger.setLevel(logging.ERROR)  # a photo that was skipped is a warning
        try:
            with Reporter(self.quiet, counted="steps", told=False) as progress:
                count = degrade_folder(
                    self.source,
                    self.destination,
                    scale=self.scale,
                    seed=self.seed,
                    preset=self.preset,
                    crop=self.crop,
                    split=self.split,
                    names=read_names(self.names),
                    limit=self.limit,
                    sharpen=self.sharpen,
                    replay=self.replay,
                    overwrite=self.overwrite,
                    progress=progress,
                )
        finally:
            logger.setLevel(level)
        if self.json:
            facts = {"pairs": count, "scale": self.scale, "seed": self.seed, "preset": self.preset}
            print(json.dumps({"destination": str(self.destination)} | facts))
        elif not self.quiet:
            print(f"{self.destination}: {count} pairs")
