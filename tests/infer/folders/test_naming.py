"""Names of results: no two are one on any disk, and they hang on nothing but the pictures' own names."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pure_jax.infer.folders.naming import output_names

NAMES = st.lists(
    st.builds("{}{}{}".format, st.sampled_from(["", "x/", "X/"]), st.sampled_from("aAbéÉß"), st.sampled_from(
        [".jpg", ".png", ".JPG", ".png.tif", ".jpg.tif", ""])), unique=True, max_size=12,
)  # fmt: skip


def one(path: str) -> str:
    return unicodedata.normalize("NFD", path).casefold()


def test_the_suffix_is_replaced_where_that_is_enough():
    assert output_names(["a.jpg", "x/b.c.tif", "d"], ".png") == {
        "a.jpg": "a.png", "x/b.c.tif": "x/b.c.png", "d": "d.png"
    }  # fmt: skip


def test_pictures_of_one_stem_keep_their_whole_names():
    assert output_names(["a.jpg", "a.png", "x/a.jpg"], ".webp") == {
        "a.jpg": "a.jpg.webp", "a.png": "a.png.webp", "x/a.jpg": "x/a.webp"
    }  # fmt: skip


def test_letter_cases_and_accents_written_otherwise_count_as_one_name():
    upper, lower = output_names(["A.jpg", "a.jpg"], ".png").values()
    assert one(upper) != one(lower)
    composed, parts = output_names(["\u00e9.jpg", "e\u0301.jpg"], ".png").values()
    assert one(composed) != one(parts)


@given(NAMES, st.randoms())
def test_results_differ_whatever_the_order(names, random):
    found = output_names(names, ".png")
    assert len({one(path) for path in found.values()}) == len(names)
    shuffled = random.sample(names, len(names))
    assert output_names(shuffled, ".png") == found


@given(NAMES, st.data())
def test_a_run_that_goes_on_plans_what_the_first_one_did(names, data):
    found = output_names(names, ".png")
    done = data.draw(st.sets(st.sampled_from(names))) if names else set()
    assert output_names(names, ".png", {name: found[name] for name in done}) == found


def test_results_of_earlier_runs_keep_their_names_and_nobody_else_gets_them():
    before = output_names(["a.jpg"], ".png")
    after = output_names(["a.jpg", "a.bmp"], ".png", before)
    assert after == {"a.jpg": "a.png", "a.bmp": "a.bmp.png"}
    gone = output_names(["a.bmp"], ".png", before)  # a.jpg is no more, but its result is
    assert one(gone["a.bmp"]) != "a.png"


def test_no_result_lies_on_a_picture():
    assert output_names(["a.png"], ".png", forbidden=["a.png"]) == {"a.png": "a.png.png"}
