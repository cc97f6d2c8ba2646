"""Conversion at full size: makes a PURE-7B-shaped checkpoint from random weights and measures the converter on it.

    python -m tests.full_size make DIR        # 13.2 GiB of bfloat16 in 3 shards, tokenizer of 73,728 names, VQ-8
    python -m tests.full_size measure DIR 3   # cp and pure convert in turn, 3 times; peak memory of the latter
    python -m tests.full_size nsarm DIR       # NSARM's 8b with T: 16.3 GiB of bfloat16 in one .pth, and its tokenizer
    python -m tests.full_size wide DIR        # the same width with 2 layers, for the parity report
    python -m tests.full_size equal DIR DIR   # the sha256 of every tensor of two language models

Not a test that pytest runs: it needs 45 GB of disk and minutes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import safe_open
from tokenizers import pre_tokenizers

from pure_jax.checkpoint import Checkpoint
from pure_jax.config import ModelConfig, TransformerConfig, pure_7b
from pure_jax.convert.export import write_upstream
from pure_jax.convert.nsarm.writing import write_nsarm
from pure_jax.nsarm.config import NsarmConfig
from pure_jax.nsarm.config import TransformerConfig as NsarmTransformerConfig
from pure_jax.nsarm.shapes import network_shapes
from pure_jax.pure import parameter_shapes
from pure_jax.tensors import Index, LazyTensor
from pure_jax.vocabulary import code_name, reserved_name, vocabulary_from_names

CODES, FIRST_NEW_CODES = 16_384, 8192
TEXT_START, TEXT_END = 16_384, 65_536


def published_names() -> dict[str, int]:
    """Token names and ids as published for Chameleon, and the 8,192 codes that PURE adds behind the text.

    The merges of the real text part are not to be had here; made-up pairs of bytes take their place.
    """
    names = ["<s>", "<pad>", "</s>", "<unk>", *map(code_name, range(FIRST_NEW_CODES)), "<eoss>", "<racm3:break>"]
    names += [reserved_name(id_ - 4) for id_ in range(len(names), TEXT_START)]
    names += [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in _pairs())]
    names += map(code_name, range(FIRST_NEW_CODES, CODES))
    return {name: id_ for id_, name in enumerate(names)}


def _pairs() -> list[tuple[str, str]]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    count = TEXT_END - TEXT_START - len(letters)
    return [(a, b) for a in letters for b in letters][:count]


def published_tokenizer() -> str:
    """A tokenizer file with those names."""
    model = {
        "type": "BPE",
        "vocab": published_names(),
        "merges": [f"{a} {b}" for a, b in _pairs()],
        "unk_token": "<unk>",
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    parts = {"pre_tokenizer": byte_level, "decoder": byte_level, "model": model, "added_tokens": []}
    return json.dumps({"version": "1.0", "normalizer": None, "post_processor": None} | parts, ensure_ascii=False)


def random_tensor(path: str, shape: tuple[int, ...], dtype: np.dtype, seed: int) -> LazyTensor:
    """Normal numbers of a sensible spread, made anew at every reading from 1M numbers drawn once per tensor."""

    def read(index: Index) -> np.ndarray:
        part = tuple(len(range(n)[i]) for n, i in zip(shape, index, strict=True))
        count = math.prod(part)
        drawn = np.random.default_rng([seed, *path.encode()]).normal(size=min(count, 1_000_003)).astype(np.float32)
        if path.endswith(("weight", "scale")):
            drawn = 1 + 0.1 * drawn
        elif len(shape) > 1:
            drawn *= 1.0 if "embed" in path or "codebook" in path else math.prod(shape[:-1]) ** -0.5
        else:
            drawn *= 0.1
        return np.resize(drawn.astype(dtype), part)

    return LazyTensor(shape, dtype, read, shape[0])


def make(directory: Path, num_layers: int, dtype: np.dtype) -> None:
    """Write the checkpoint, QK-norm rows as PURE has them."""
    transformer = TransformerConfig(num_layers=num_layers, scan_layers=False)
    config = ModelConfig(transformer=transformer, vqgan=pure_7b().vqgan)
    names = published_names()
    language = {p: random_tensor(p, shape, dtype, 0) for p, shape in parameter_shapes(transformer).items()}
    image = {p: random_tensor(p, shape, np.dtype(np.float32), 1) for p, shape in parameter_shapes(config.vqgan).items()}
    tensors = {"transformer": language, "vqgan": image}
    checkpoint = Checkpoint(Path(), config, tensors, published_tokenizer(), vocabulary_from_names(names))
    directory.mkdir(parents=True)
    write_upstream(directory, checkpoint, rows_per_head=False)


def make_nsarm(directory: Path) -> None:
    """Write NSARM's published sizes as PyTorch files, without a text encoder."""
    config = NsarmConfig(transformer=NsarmTransformerConfig(scan_layers=False))
    dtypes = {"transformer": ml_dtypes.bfloat16, "map_network": ml_dtypes.bfloat16, "vae": np.float32}
    tensors = {
        network: {path: random_tensor(path, shape, np.dtype(dtypes[network]), 0) for path, shape in shapes.items()}
        for network, shapes in network_shapes(config).items()
    }
    directory.mkdir(parents=True)
    write_nsarm(directory, Checkpoint(Path(), config, tensors, "", None))


def measure(directory: Path, rounds: int) -> None:
    """cp and convert of the same files, one after the other, `rounds` times; each destination is removed again."""
    copied, converted = directory.with_name("copied"), directory.with_name("converted")
    files = sorted(path for path in directory.iterdir() if path.suffix in (".safetensors", ".pt", ".pth"))
    size = sum(path.stat().st_size for path in files)
    print(f"{size / 2**30:.2f} GiB in {len(files)} files")
    ratios = []
    for _ in range(rounds):
        copied.mkdir()
        start = time.perf_counter()
        subprocess.run(["cp", *files, copied], check=True)
        copy_s = time.perf_counter() - start
        shutil.rmtree(copied)
        command = [sys.executable, "-m", "pure_jax", "convert", directory, converted]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak = max(_resident(process))
        convert_s = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(process.returncode)
        shutil.rmtree(converted)
        ratios.append(copy_s / convert_s)
        print(f"cp {copy_s:.1f} s ({size / copy_s / 1e6:.0f} MB/s), convert {convert_s:.1f} s", end="")
        print(f" ({size / convert_s / 1e6:.0f} MB/s), {ratios[-1]:.0%} of the speed of cp", end="")
        print(f", peak resident memory {peak / 2**30:.2f} GiB", flush=True)
    print(f"median {statistics.median(ratios):.0%} of the speed of cp")


def _resident(process: subprocess.Popen) -> Iterator[int]:
    """The kernel's own high-water mark of a process's resident memory in bytes, read until it ends."""
    status = Path(f"/proc/{process.pid}/status")
    yield 0
    while process.poll() is None:
        if match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text()):
            yield int(match[1]) * 1024
        time.sleep(0.2)


def equal(a: Path, b: Path) -> None:
    """Compare two language models tensor by tensor, as the safetensors library reads them."""

    def digests(directory: Path) -> dict[str, str]:
        found = {}
        for file in directory.glob("model*.safetensors"):
            with safe_open(file, "numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    found[name] = hashlib.sha256(opened.get_tensor(name).view(np.uint8)).hexdigest()
        return found

    own, other = digests(a), digests(b)
    same = sum(own.get(name) == digest for name, digest in other.items())
    print(f"{same} of {len(own | other)} tensors are the same bits")


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2])
    if task == "equal":
        equal(place, Path(sys.argv[3]))
    elif task == "measure":
        measure(place, int(sys.argv[3]))
    elif task == "nsarm":
        make_nsarm(place)
    else:
        wide = task == "wide"
        make(place, 2 if wide else 32, np.dtype(np.float32 if wide else ml_dtypes.bfloat16))
