"""`pure tokenize`: the right codes of the right pixels, whoever makes which file and whoever is killed meanwhile."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

import pure_jax.train.data.tokenize as module
from pure_jax.errors import PureError
from pure_jax.shards import Shard
from pure_jax.train.config import TokenizeConfig
from pure_jax.train.data.degradation import PRESETS, apply, recorded, usm_sharpen
from pure_jax.train.data.image_tokenizer import ImageTokenizer
from pure_jax.train.data.job import prepare
from pure_jax.train.data.labels import blur_score, noise_score, twin_scores
from pure_jax.train.data.pixels import sharpened
from pure_jax.train.data.records import open_records
from pure_jax.train.data.regions import padded
from pure_jax.train.data.replay import write_pictures
from pure_jax.train.data.tokenize import tokenize
from tests.disk import files_limited_to
from tests.models import tiny_model

TILE = 16
OPTIONS = TokenizeConfig(tile=TILE, tiles_per_side=2, crops=2, variants=2, photos_per_file=2)


def image_tokenizer(seed: int = 0) -> ImageTokenizer:
    model = tiny_model(seed, tile_size=TILE)
    return ImageTokenizer(model.config.vqgan, model.params["vqgan"], TILE)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five photos, one of them in a folder, and a text that calls itself a photo."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    rows = []
    for number, name in enumerate(("a.png", "b.png", "c.jpg", "more/d.png", "val.png")):
        coarse = np.random.default_rng(number).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 48), Image.Resampling.BICUBIC).save(folder / name)
        rows.append({"file": name, "caption": f"Photo {number}", "split": name.partition(".")[0][:3]})
        rows[-1]["split"] = "val" if name == "val.png" else "train"
    (folder / "broken.jpg").write_text("no photo")
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def records(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "records"
    report = tokenize(prepare(photos, image_tokenizer(), OPTIONS), out)
    assert report == (3, 4 * 2 * 4, 1, 0)
    return out


def test_every_photo_gives_its_records_and_bad_ones_are_left_out(records):
    found = open_records(records)
    keys = [found[i].key for i in range(len(found))]
    tiles = ("0,0", "0,1", "1,0", "1,1")
    names = ("a.png", "b.png", "c.jpg", "more/d.png")
    assert keys == [f"{name}#{crop}/{tile}" for name in names for crop in range(2) for tile in tiles]
    assert found[0].caption == "Photo 0." and found[0].caption_source == "captions.jsonl"
    assert {found[i].tokenizer for i in range(len(found))} == {image_tokenizer().fingerprint}


@pytest.mark.parametrize("index", [0, 7, 13, 30])
def test_codes_and_scores_are_those_of_the_region_that_the_record_names(records, photos, index):
    """Made again from the photo and the record alone, step by step."""
    record, model = open_records(records)[index], tiny_model(tile_size=TILE)
    top, left, side = record.region
    photo = np.asarray(Image.open(photos / record.photo).convert("RGB"))
    crop = photo[top : top + side, left : left + side]
    crop = crop[:, ::-1] if record.flipped else crop
    assert crop.shape == (2 * TILE, 2 * TILE, 3) and not record.turned
    row, column = (TILE * place for place in record.tile)
    np.testing.assert_array_equal(record.hq_codes, model.encode(crop[row : row + TILE, column : column + TILE]))
    clean = crop.astype(np.float32) / 255
    for variant in range(2):
        drawn = recorded(record.draws[variant], "record")
        assert drawn.sharpen
        low = apply(drawn, clean)
        large = np.asarray(Image.fromarray(low).resize((2 * TILE, 2 * TILE), Image.Resampling.BICUBIC))
        codes = model.encode(large[row : row + TILE, column : column + TILE])
        np.testing.assert_array_equal(record.lq_codes[variant], codes)
        np.testing.assert_allclose(record.params[variant], (blur_score(drawn), noise_score(drawn, clean.mean())), 1e-6)
        np.testing.assert_allclose(record.twin[variant], twin_scores(clean, low, drawn), rtol=1e-5)
    assert record.draws[0] != record.draws[1]


def test_pictures_of_records_are_those_that_were_encoded(records, photos, tmp_path):
    """The low-quality region, put together from its four tiles and enlarged, has the codes of the records."""
    assert write_pictures(records, photos, tmp_path / "pictures", limit=4) == 4
    rows = [json.loads(line) for line in (tmp_path / "pictures" / "pictures.jsonl").read_text().splitlines()]
    found, model = open_records(records), tiny_model(tile_size=TILE)
    assert [row["key"] for row in rows[::3]] == [found[i].key for i in range(4)]
    assert [row.get("variant") for row in rows[:3]] == [None, 0, 1]
    pictures = {row["file"]: np.asarray(Image.open(tmp_path / "pictures" / row["file"])) for row in rows}
    for index in range(4):
        np.testing.assert_array_equal(model.encode(pictures[f"{index:05}.png"]), found[index].hq_codes)
    for variant in range(2):
        low = [pictures[f"{index:05}-{variant}.png"] for index in range(4)]
        region = np.concatenate([np.concatenate(low[:2], axis=1), np.concatenate(low[2:], axis=1)])
        large = np.asarray(Image.fromarray(region).resize((2 * TILE, 2 * TILE), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(model.encode(large[TILE:, :TILE]), found[2].lq_codes[variant])


def test_pictures_that_cannot_be_made_again(records, photos, tmp_path):
    for words, arguments in (
        ("the limit is 0", (records, photos, tmp_path / "new", 0)),
        ("none of the photos of", (records, tmp_path, tmp_path / "new")),
        ("exists already", (records, photos, photos)),
        ("holds no records", (photos, photos, tmp_path / "new")),
    ):
        with pytest.raises(PureError, match=words):
            write_pictures(*arguments)
    assert not (tmp_path / "new").exists()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_processes_share_the_files_and_make_the_same(records, photos, tmp_path):
    job = prepare(photos, image_tokenizer(), OPTIONS)
    reports = [tokenize(job, tmp_path / "out", Shard(i, 2), workers=2) for i in (1, 0)]
    assert [report.files for report in reports] == [1, 2]
    assert contents(tmp_path / "out") == contents(records)


@pytest.mark.parametrize("killed", [0, 3, 5])
def test_killed_and_called_again_is_the_same_as_never_killed(records, photos, tmp_path, monkeypatch, killed):
    out, job, encoded = tmp_path / "out", prepare(photos, image_tokenizer(), OPTIONS), 0
    original = module.encoded

    def kill(*arguments):
        nonlocal encoded
        if encoded == killed:
            raise KeyboardInterrupt
        encoded += 1
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "encoded", kill)
        with pytest.raises(KeyboardInterrupt):
            tokenize(job, out)
    whole = {path.name for path in out.glob("*.array_record")}
    report = tokenize(job, out)
    assert (report.there, report.files) == (len(whole), 3 - len(whole))
    assert contents(out) == contents(records)
    assert tokenize(job, out) == (0, 0, 0, 3)


def test_what_a_killed_process_left_is_no_hindrance(records, photos, tmp_path):
    out, job = tmp_path / "out", prepare(photos, image_tokenizer(), OPTIONS)
    left = out / ".records-00000-of-00003.partial"
    left.mkdir(parents=True)
    (left / "records-00000-of-00003.array_record").write_bytes(b"half")
    tokenize(job, out)
    assert contents(out) == contents(records)


def test_other_photos_options_or_tokenizers_do_not_get_into_a_folder(records, photos):
    before = contents(records)
    job = prepare(photos, image_tokenizer(), OPTIONS)
    for words, other in (
        ("other photos", dataclasses.replace(job, names=job.names[1:])),
        ("another image tokenizer", dataclasses.replace(job, tokenizer=image_tokenizer(1))),
        ("options.seed 0, not 1;", dataclasses.replace(job, options=dataclasses.replace(job.options, seed=1))),
        ("other captions", dataclasses.replace(job, captions={})),
    ):
        with pytest.raises(PureError, match=f"was begun with .*{words}"):
            tokenize(other, records)
    assert contents(records) == before


def test_a_full_disk_is_one_sentence_and_leaves_whole_files_only(records, photos, tmp_path):
    job = prepare(photos, image_tokenizer(), OPTIONS)
    with files_limited_to(70_000), pytest.raises(PureError, match="cannot be written .*too large.*make room"):
        tokenize(job, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["records.json"]
    tokenize(job, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(records)


def test_bad_photos_are_reported_with_their_reason(photos, tmp_path, caplog):
    small = dataclasses.replace(OPTIONS, tile=32)  # a region of 64 pixels is more than any photo has
    with caplog.at_level(logging.WARNING), pytest.raises(PureError, match="none of the 5 photos"):
        tokenize(prepare(photos, image_tokenizer(), small), tmp_path / "out")
    said = [message for message in caplog.messages if message.startswith("skipped")]
    assert len(said) == 5  # once each, although there are two regions
    assert any("broken.jpg: cannot identify" in message for message in said)
    assert any("a.png: its 60x48 pixels are fewer than a region's 64x64" in message for message in said)


def own_names(folder):
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*.*g")]


def test_what_prepare_refuses(photos, tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.jsonl").write_text('{"file": "x.png", "caption": "X."}\n')
    (tmp_path / "partly.jsonl").write_text('{"file": "x.png"}\n{"file": "a.png", "caption": "A."}\n')
    own = image_tokenizer()

    def refused(words, folder=photos, options=OPTIONS, tokenizer=own, **more):
        with pytest.raises(PureError, match=words):
            prepare(folder, tokenizer, options, **more)

    refused("is not a folder", tmp_path / "absent")
    refused("holds no photos", tmp_path / "empty")
    refused("captions for none of the photos", captions=tmp_path / "other.jsonl")
    refused("is not a file of captions", captions=tmp_path / "absent.jsonl")
    (tmp_path / "val.jsonl").write_text("".join(f'{{"file": "{n}", "split": "val"}}\n' for n in own_names(photos)))
    refused("none of the photos of the split 'train'", captions=tmp_path / "val.jsonl")
    refused("no multiple of", options=dataclasses.replace(OPTIONS, tile=18))
    refused("no preset 'worst'", options=dataclasses.replace(OPTIONS, preset="worst"))
    refused("usm_gt is 'all'", options=dataclasses.replace(OPTIONS, sharpen="all"))
    refused("give their side with --tile", options=TokenizeConfig(), tokenizer=dataclasses.replace(own, tile_size=None))
    with caplog.at_level(logging.WARNING):
        job = prepare(photos, own, OPTIONS, captions=tmp_path / "partly.jsonl")
    assert job.captions == {"a.png": "A."} and "val.png" in job.names
    assert "captions for 1 files that are not in" in caplog.text


def test_targets_are_sharpened_only_if_that_is_asked_for():
    crop = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    plain, sharp = crop.astype(np.float32) / 255, usm_sharpen(crop.astype(np.float32) / 255)
    assert np.abs(sharp - plain).max() > 0.1
    for usm, target, source in (("none", plain, plain), ("input_only", plain, sharp), ("both", sharp, sharp)):
        hq, clean, degraded = sharpened(crop, usm)
        np.testing.assert_allclose(hq / 255, np.clip(target, 0, 1), atol=0.5001 / 255)
        np.testing.assert_allclose(clean, hq / 255, atol=1e-6)
        np.testing.assert_array_equal(degraded, source)


def test_small_photos_are_mirrored_if_asked_for(photos, tmp_path):
    """As scipy mirrors, and pictures of such records can be made again."""
    photo = np.asarray(Image.open(photos / "a.png").convert("RGB"))
    assert photo.shape[:2] == (48, 60)
    grown = padded(photo, 64)
    assert grown.shape[:2] == (64, 64)
    rows, columns = np.mgrid[:64, :64]
    for channel in range(3):
        mirrored = map_coordinates(photo[..., channel], [rows, columns], order=0, mode="mirror")
        np.testing.assert_array_equal(grown[..., channel], mirrored)
    assert padded(photo, 40) is photo and padded(photo, 80) is photo  # large enough; too small
    options = dataclasses.replace(OPTIONS, tiles_per_side=4, crops=1, variants=1, pad=True, twin=False)
    job = dataclasses.replace(prepare(photos, image_tokenizer(), options), names=["a.png"])
    assert tokenize(job, tmp_path / "out").records == 16
    assert write_pictures(tmp_path / "out", photos, tmp_path / "pictures", low=False) == 16
    last = np.asarray(Image.open(tmp_path / "pictures" / "00015.png"))
    np.testing.assert_array_equal(tiny_model(tile_size=TILE).encode(last), open_records(tmp_path / "out")[15].hq_codes)


def test_the_fingerprint_is_of_what_codes_depend_on():
    own = image_tokenizer()
    assert own.fingerprint == image_tokenizer().fingerprint != image_tokenizer(1).fingerprint
    decoder = {name: value for name, value in image_tokenizer(1).params.items() if "decoder" in name}
    assert decoder and dataclasses.replace(own, params=own.params | decoder).fingerprint == own.fingerprint
    quantizer = {"quantizer": image_tokenizer(1).params["quantizer"]}
    assert dataclasses.replace(own, params=own.params | quantizer).fingerprint != own.fingerprint


@pytest.mark.parametrize("preset", PRESETS)
def test_every_set_of_degradations_makes_records(photos, tmp_path, preset):
    one = dataclasses.replace(OPTIONS, preset=preset, crops=1, variants=1, twin=False)
    job = dataclasses.replace(prepare(photos, image_tokenizer(), one), names=["a.png"])
    tokenize(job, tmp_path / "out")
    record = open_records(tmp_path / "out")[0]
    assert len(record.draws[0]["stages"]) == len(PRESETS[preset].stages)
    assert np.isnan(record.twin).all() and np.isfinite(record.params).all()
