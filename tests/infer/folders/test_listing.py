"""Which files inputs stand for, what they are called, and how shards divide them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pure_jax.errors import PureError
from pure_jax.infer.arguments import Arranged, arrange
from pure_jax.infer.folders.listing import Job, check_folders, list_pictures, share
from pure_jax.shards import Shard
from tests.infer.pictures.test_fuzz import at_most


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.JPG", "in/a.png", "in/sub/c.heic", "in/sub/.hidden/d.png", "in/._a.png", "in/note.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def names(*inputs: str, output: str = "out") -> list[str]:
    return [job.name for job in list_pictures(inputs, Path(output)).jobs]


def test_a_folder_stands_for_the_pictures_in_and_below_it(here):
    listing = list_pictures(["in"], Path("out"))
    assert listing.jobs == [
        Job(Path("in/a.png"), "a.png"), Job(Path("in/b.JPG"), "b.JPG"), Job(Path("in/sub/c.heic"), "sub/c.heic")
    ]  # fmt: skip
    assert listing.ignored == 1  # the note; hidden files are not even mentioned


def test_patterns_are_relative_to_their_fixed_part(here):
    assert names("in/*.png") == ["a.png"]
    assert names("in/**/*.heic") == ["sub/c.heic"]
    assert names("*/[ab].*") == ["in/a.png", "in/b.JPG"]


def test_several_inputs_lie_in_folders_of_their_names(here):
    assert names("in/a.png", "in/sub") == ["a.png", "sub/c.heic"]


def test_a_file_is_listed_once_whatever_leads_to_it(here):
    os.symlink("a.png", "in/link.png")
    assert len(names("in", "in/a.png", "in/*.png")) == 3


def test_files_of_one_name_are_told_apart(here):
    Path("other").mkdir()
    Path("other/a.png").touch()
    one, two = names("in/a.png", "other/a.png")
    assert one != two and names("other/a.png", "in/a.png") == [one, two]


def test_the_output_folder_below_the_input_is_no_input(here):
    Path("in/out").mkdir()
    Path("in/out/a.png").touch()
    assert names("in", output="in/out") == ["a.png", "b.JPG", "sub/c.heic"]


def test_links_to_folders_are_not_followed(here):
    os.symlink("..", "in/sub/up")
    assert names("in") == ["a.png", "b.JPG", "sub/c.heic"]


def test_patterns_do_not_follow_links_round_and_round(here):
    for name in ("up", "up2"):
        os.symlink("..", f"in/sub/{name}")
    with at_most(10):
        assert names("in/**/*.png") == ["a.png"]
        assert names("in/**") == ["a.png", "b.JPG", "note.txt", "sub/c.heic"]


def test_hidden_files_are_meant_by_patterns_that_say_so(here):
    assert names("in/sub/.hidden/*") == ["d.png"]
    assert names("in/._*") == ["._a.png"]


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        (["nowhere"], "'nowhere' does not exist"),
        (["in/*.webp"], "no file is called like 'in/.*.webp'"),
        (["in/sub/.hidden/.."], "c.heic"),
        (["empty"], "there is no picture in 'empty'"),
    ],
)
def test_inputs_that_stand_for_nothing_are_refused(here, inputs, complaint):
    Path("empty").mkdir()
    if complaint == "c.heic":
        assert names(*inputs) == ["c.heic"]
        return
    with pytest.raises(PureError, match=complaint):
        list_pictures(inputs, Path("out"))


@pytest.mark.parametrize("output", ["in", "in/sub", "in/new/deeper", "in/../in"])
def test_an_output_folder_among_the_originals_is_refused_unless_asked_for(here, output):
    for given in ("in", "in/*.png"):
        with pytest.raises(PureError, match="lies in the input"):
            check_folders([given], Path(output), allow_inside=False)
        check_folders([given], Path(output), allow_inside=True)
    check_folders(["in"], Path("inside"), allow_inside=False)


def test_shards_are_parts_of_the_whole_and_hang_on_names_alone():
    jobs = [Job(Path(f"{i}.png"), f"{i}.png") for i in range(200)]
    parts = [share(jobs, Shard(i, 3)) for i in range(3)]
    assert sorted(job.name for part in parts for job in part) == sorted(job.name for job in jobs)
    assert min(map(len, parts)) > 40
    assert share(jobs[50:], Shard(1, 3)) == [job for job in parts[1] if job in jobs[50:]]
    assert share(jobs, None) == jobs


# ---- inputs and output of a command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "arranged"),
    [
        (["a.png"], Arranged(("a.png",), None, False)),
        (["a.png", "b.webp"], Arranged(("a.png",), "b.webp", False)),
        (["-", "-"], Arranged(("-",), "-", False)),
        (["nowhere.png", "out"], Arranged(("nowhere.png",), "out", False)),  # refused later, for its missing suffix
        (["in/a.png", "in/sub"], Arranged(("in/a.png",), "in/sub", True)),
        (["in/a.png", "new/"], Arranged(("in/a.png",), "new/", True)),
        (["in", "new"], Arranged(("in",), "new", True)),
        (["*.png", "new"], Arranged(("*.png",), "new", True)),
        (["a.png", "b.png", "new"], Arranged(("a.png", "b.png"), "new", True)),
    ],
)
def test_the_last_of_several_paths_is_the_output(here, paths, arranged):
    assert arrange(paths) == arranged


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        ([], "nothing to restore"),
        (["in"], "'in' is a directory; name a folder for the results"),
        (["*.png"], "stands for several pictures; name a folder"),
        (["in/a.png", "in/b.JPG", "in/note.txt"], "'in/note.txt' is a file"),
        (["in", "in/a.png"], "'in/a.png' is a file"),
        (["a.png", "b.png", "c.png"], "'c.png' has the name of a picture"),
        (["-", "a.png", "new"], "standard input and output take one photo each"),
        (["in", "-"], "standard input and output take one photo each"),
    ],
)
def test_paths_that_make_no_sense_together_are_refused(here, paths, complaint):
    with pytest.raises(PureError, match=complaint.replace("*", r"\*")):
        arrange(paths)
