"""What guides the picture: which parts of the answer come before it, and which of them the user says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pure_jax.errors import PureError
from pure_jax.infer.decoding.told import Words
from pure_jax.sequence import GUIDANCE, LEVELS, degradation_sentence, guiding_text, normalise_caption, split_reading

KINDS = ("blur", "noise")
Read = Callable[[Sequence[Words] | None], list[str]]
"""What the model would say of each tile, if its answers began with these words."""
Ask = Callable[[Mapping[str, str], str | None], tuple[Mapping[str, str], str]]
"""Shown the levels of "blur" and "noise" and the description of a photo, "" where the model says none; {} and None for
what the mode leaves out. Gives what the user knows better, {} and "" for nothing."""


@dataclass(frozen=True)
class Guidance:
    """mode: one of `pure_jax.sequence.GUIDANCE`. reading: levels of "blur" and "noise" that the user knows better.

    description: the user's own; "" leaves it to the model. one_description: what the model says of most tiles is told
    to all.

    Raises:
        PureError: an unknown mode or level, or a part that the mode leaves out.
    """

    mode: str = "full"
    reading: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    one_description: bool = False

    def __post_init__(self) -> None:
        if self.mode not in GUIDANCE:
            raise PureError(f"the guidance is {self.mode!r}; choose one of {', '.join(GUIDANCE)}")
        for kind, level in self.reading.items():
            if kind not in KINDS or level not in LEVELS:
                raise PureError(f"{kind} is {level!r}; use {' or '.join(KINDS)}, each one of {', '.join(LEVELS)}")
        if self.reading and not self.perceives:
            raise PureError(f"a reading of blur or noise has no meaning with guidance {self.mode}; leave one out")
        if (self.description or self.one_description) and not self.understands:
            raise PureError(f"a description has no meaning with guidance {self.mode}; leave one out")
        if self.description and self.one_description:
            raise PureError("the photo has one description already; give a description or one_description, not both")

    @property
    def perceives(self) -> bool:
        return self.mode in ("full", "perception")

    @property
    def understands(self) -> bool:
        return self.mode in ("full", "understanding")

    @property
    def usual(self) -> bool:
        """The model says it all by itself."""
        return self == Guidance()

    def words(self, count: int, read: Read) -> list[Words]:
        """What each of so many tiles is told. read: asks the model for what the user does not say.

        The model is asked at most twice: how degraded the tiles are, and what they show if they are so degraded.
        """
        readings = self._readings(count, read) if self.perceives else [""] * count
        if not self.understands:
            return [Words(guiding_text(self.mode, reading, ""), True) for reading in readings]
        own = normalise_caption(self.description)
        if not own and self.mode == "full" and not self.one_description:
            return [Words(reading, False) for reading in readings]
        if own:
            descriptions = [own] * count
        else:
            said = read([Words(reading, False) for reading in readings] if self.perceives else None)
            descriptions = [split_reading(text)[1] for text in said]
            if self.one_description:
                descriptions = [most_frequent(descriptions)] * count
        return [
            Words(guiding_text(self.mode, *parts), True) for parts in zip(readings, descriptions, strict=True)
        ]  # fmt: skip

    def asked(self, said: Sequence[str], ask: Ask) -> Guidance:
        """The same with the user's corrections. said: what the model says of each tile.

        Raises:
            PureError: the mode leaves out all that could be asked; corrections that the mode leaves out.
        """
        if self.mode == "none":
            raise PureError("there is nothing to ask with guidance none; leave one out")
        reading, description = vote(said)
        levels, words = ask(
            {**dict.fromkeys(KINDS, ""), **(reading or {}), **self.reading} if self.perceives else {},
            (self.description or description) if self.understands else None,
        )
        own = words or self.description
        return replace(
            self,
            reading={**self.reading, **levels},
            description=own,
            one_description=self.one_description and not own,
        )

    def _readings(self, count: int, read: Read) -> list[str]:
        """Degradation sentences; "" for a tile of which neither the user nor the model says enough."""
        if all(kind in self.reading for kind in KINDS):
            return [degradation_sentence(*(self.reading[kind] for kind in KINDS))] * count
        readings = []
        for text in read(None):
            levels = {**(split_reading(text)[0] or {}), **self.reading}
            known = all(kind in levels for kind in KINDS)
            readings.append(degradation_sentence(*(levels[kind] for kind in KINDS)) if known else "")
        return readings


def most_frequent(descriptions: Sequence[str]) -> str:
    """What is said most often, the first of equals; "" if nothing is."""
    spoken = Counter(description for description in descriptions if description)
    return spoken.most_common(1)[0][0] if spoken else ""


def vote(texts: Sequence[str]) -> tuple[dict[str, str] | None, str]:
    """Of what is said of all tiles the middle level of each degradation, None if none is, and the most frequent
    description."""
    readings, descriptions = zip(*map(split_reading, texts), strict=True)
    found = [reading for reading in readings if reading is not None]
    degradation = None
    if found:
        ranks = {kind: sorted(LEVELS.index(reading[kind]) for reading in found) for kind in KINDS}
        degradation = {kind: LEVELS[rank[len(rank) // 2]] for kind, rank in ranks.items()}
    return degradation, most_frequent(descriptions)


def once(ask: Ask) -> Ask:
    """Asks the first time, and gives the same answer from then on."""
    answers: list[tuple[Mapping[str, str], str]] = []

    def first(reading: Mapping[str, str], description: str | None) -> tuple[Mapping[str, str], str]:
        if not answers:
            answers.append(ask(reading, description))
        return answers[0]

    return first
