"""Records survive the way to the disk and back; a folder that is not whole is refused in words."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from pure_jax.errors import PureError
from pure_jax.train.data.pipeline import places
from pure_jax.train.data.records import (
    MANIFEST,
    Manifest,
    Record,
    file_name,
    manifest_values,
    open_records,
    scores,
    unpack,
    write_records,
)


def record(number: int, variants: int = 2, photo: str = "Дунай #1.jpg") -> Record:
    """Whose codes and scores say its number."""
    rng = np.random.default_rng(number)
    return Record(
        key=f"{photo}#0/0,{number}",
        photo=photo,
        region=[1, 2, 3],
        flipped=True,
        turned=False,
        tile=[0, number],
        hq_codes=rng.integers(64, size=(4, 4)).astype(np.uint16),
        lq_codes=rng.integers(64, size=(variants, 4, 4)).astype(np.uint16),
        params=np.full((variants, 2), number, np.float32),
        twin=np.full((variants, 2), np.nan, np.float32),
        draws=[{"mode": "area", "sigma": [0.1, None]}] * variants,
        caption=f"Caption {number}.",
        caption_source="captions.jsonl",
        seed=7,
        tokenizer="abc",
        degrader=1,
    )


def write_folder(folder, counts, tokenizer="abc", first=0, side=4, codebook=64):
    """A whole folder of records, with so many in each file; numbered throughout."""
    folder.mkdir()
    options = {"variants": 2, "tile": 16}
    manifest = Manifest(tokenizer, side, codebook, sum(counts), "", "", len(counts), options)
    (folder / MANIFEST).write_text(json.dumps(manifest_values(manifest)))
    for index, count in enumerate(counts):
        write_records(folder / file_name(index, len(counts)), (record(first + i) for i in range(count)))
        first += count
    return folder


def test_a_record_survives_the_disk(tmp_path):
    found = open_records(write_folder(tmp_path / "r", [3, 0, 2]))
    assert len(found) == 5
    for number in range(5):
        for field in dataclasses.fields(Record):
            before, after = getattr(record(number), field.name), getattr(found[number], field.name)
            np.testing.assert_array_equal(after, before)
            assert type(after) is type(before)
            assert getattr(after, "dtype", None) == getattr(before, "dtype", None)


def test_the_files_are_array_records(tmp_path):
    """Read with the format's own reader, not with Grain."""
    folder = write_folder(tmp_path / "r", [3])
    reader = ArrayRecordReader(str(folder / file_name(0, 1)))
    assert reader.num_records() == 3
    assert [unpack(data).key for data in reader.read_all()] == [record(i).key for i in range(3)]


def test_without_the_packages_it_is_said_what_to_install(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "r", [1])
    for name in ("grain", "grain.sources", "array_record.python.array_record_module"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it could not be found
    for work in (lambda: open_records(folder), lambda: write_records(tmp_path / "x", []), lambda: places([2], [1], 0)):
        with pytest.raises(PureError, match="pip install"):
            work()


def test_a_sample_of_scores_is_spread_over_all(tmp_path):
    found = open_records(write_folder(tmp_path / "r", [9]))
    assert scores(found, "params")[:, 0].tolist() == [i for i in range(9) for _ in range(2)]
    assert scores(found, "params", sample=3)[:, 0].tolist() == [0, 0, 4, 4, 8, 8]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no folder", "holds no records; make them with `pure tokenize`"),
        ("no manifest", "holds no records"),
        ("old", "is not of this version"),
        ("missing", "1 of the 2 files of .* are missing, the first records-00001-of-00002"),
        ("text", "records-00001-of-00002.array_record is not a file of records"),
        ("half", "records-00001-of-00002.array_record is not a file of records"),
        ("empty", "has no record"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path, damage, words):
    folder = write_folder(tmp_path / "r", [0, 0] if damage == "empty" else [2, 2])
    last = folder / file_name(1, 2)
    if damage == "no folder":
        folder = tmp_path / "absent"
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    elif damage == "old":
        (folder / MANIFEST).write_text('{"format": 0}')
    elif damage == "missing":
        last.unlink()
    elif damage == "text":
        last.write_text("no records")
    elif damage == "half":
        whole = last.read_bytes()
        last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PureError, match=words):
        open_records(folder)


def test_a_damaged_record_is_named(tmp_path):
    folder = write_folder(tmp_path / "r", [1])
    path = folder / file_name(0, 1)
    whole = bytearray(path.read_bytes())
    place = bytes(whole).find(b"\x28\xb5\x2f\xfd")  # zstd's magic number: the record's own bytes
    whole[place + 20] ^= 255
    path.write_bytes(whole)
    with pytest.raises(PureError, match="cannot be read|is not a file of records"):
        open_records(folder)[0]
