"""A photo on its way through the app: from the upload to a page, with everything that is seen in between."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pure_jax.errors import PureError
from pure_jax.infer.contract import override
from pure_jax.infer.facts import facts_of, reading_of
from pure_jax.infer.jobs import Cancelled, Closed, Desk, Full, Job, TooLate
from pure_jax.infer.restore import Restoration, Restorer
from pure_jax.infer.seeing.page import page
from pure_jax.infer.stages import StageClock
from pure_jax.infer.uploads import Limits, read_upload

LOOK_S = 0.2
"""Between two looks at how far the work is."""
WORDS = {
    "wait": "waiting", "encode": "reading the photo", "compile": "getting ready", "restore": "restoring",
    "decode": "making pixels", "blend": "blending",
}  # fmt: skip


@dataclass(frozen=True)
class Wishes:
    """What the user has set. None takes the model's default, "" says nothing."""

    scale: float = 4.0
    seed: int = 0
    colour_fix: str | None = None
    text: str = ""
    temperature: float | None = None
    k_max: float | None = None
    guidance_scale: float | None = None
    fast: bool = False


@dataclass(frozen=True)
class Seen:
    """What there is to be seen now. said: one line. preview: the photo so far, uint8 [H, W, 3], if it is a new one.
    page: the report, and file: the result's path, when it is done. over: nothing comes after this."""

    said: str
    preview: np.ndarray | None = None
    page: str | None = None
    file: Path | None = None
    over: bool = False


@dataclass
class Sessions:
    """The desk, and which job belongs to whom: one for each browser page."""

    restorer: Restorer
    limits: Limits
    folder: Path
    """For results; whoever made it removes it."""
    jobs: dict[str, Job[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.desk = Desk(self.limits.places, self.limits.timeout)

    def cancel(self, who: str) -> None:
        """Free the place of a page's job, if it has one."""
        job = self.jobs.pop(who, None)
        if job is not None:
            job.cancel()

    def restore(self, who: str, upload: Path | None, wishes: Wishes) -> Iterator[Seen]:
        """Restore a page's photo; what that page had under way before is given up. Leaving early gives it up, too."""
        if upload is None:
            yield Seen("choose a photo first", over=True)
            return
        self.cancel(who)
        try:
            job = self.desk.reserve()
        except Full:
            yield Seen("all places are taken; try again later", over=True)
            return
        except Closed:
            yield Seen("the app is stopping", over=True)
            return
        self.jobs[who] = job
        previews: list[np.ndarray] = []
        try:
            name = upload.name
            future = self.desk.submit(job, lambda job: self._work(job, upload, wishes, previews))
            yield from self._watch(job, future, previews)
            yield self._finished(future, name, wishes)
        finally:
            job.cancel()
            if self.jobs.get(who) is job:
                del self.jobs[who]

    def _watch(self, job: Job[Any], future: Future[Any], previews: list[np.ndarray]) -> Iterator[Seen]:
        """Until the work ends or is given up."""
        began, last = time.monotonic(), ""
        while not future.done():
            preview = previews.pop() if previews else None
            said = f"{self._progress(job)} ({time.monotonic() - began:.0f} s)"
            if said != last or preview is not None:
                yield Seen(said, preview)
            last = said
            time.sleep(LOOK_S)

    def _progress(self, job: Job[Any]) -> str:
        stage, done, total = job.stage
        if stage == "wait" and (ahead := self.desk.ahead(job)):
            return f"waiting, {ahead} ahead"
        return WORDS.get(stage, stage) + (f" {100 * done // total} %" if total else "")

    def _work(self, job: Job[Any], upload: Path, wishes: Wishes, previews: list[np.ndarray]) -> Any:
        """In the desk's thread."""
        if upload.stat().st_size > self.limits.bytes:
            raise PureError(f"{upload.name} has more than {self.limits.bytes / 1e6:g} MB; choose a smaller one")
        picture = read_upload(upload.read_bytes(), wishes.scale, self.limits)
        options: dict[str, Any] = {"fast": True} if wishes.fast else {}
        if wishes.text:
            options["text"] = wishes.text
        sampling = override(
            self.restorer.model.config.sampling,
            temperature=wishes.temperature,
            guidance_scale=wishes.guidance_scale,
            k_max=wishes.k_max,
        )

        def show(image: np.ndarray) -> None:
            previews[:] = [image]  # the latest only, as it may come faster than it is looked at

        with StageClock(job.progress) as watch:
            result = self.restorer.restore(
                picture,
                scale=wishes.scale,
                seed=wishes.seed,
                colour_fix=wishes.colour_fix,
                sampling=sampling,
                progress=watch,
                preview=show,
                **options,
            )
        return picture, result, watch.seconds

    def _finished(self, future: Future[Any], name: str, wishes: Wishes) -> Seen:
        try:
            picture, result, seconds = future.result()
        except PureError as error:
            return Seen(f"not possible: {error}", over=True)
        except Cancelled:
            return Seen("cancelled", over=True)
        except TooLate:
            return Seen(f"given up, as it took longer than {self.limits.timeout:g} seconds", over=True)
        facts = facts_of(result, scale=wishes.scale, seed=wishes.seed, seconds=seconds)
        most = self.restorer.model.config.max_entropy
        file = self._saved(result, name)
        return Seen(
            _told(facts, seconds), page=page(name, picture, result, most, facts, vars(wishes)), file=file, over=True
        )

    def _saved(self, result: Restoration, name: str) -> Path:
        own = self.folder / f"{time.monotonic_ns()}"
        own.mkdir()
        file = own / f"{Path(name).stem}-restored.png"
        result.image.save(file, icc_profile=result.image.info.get("icc_profile"))
        return file


def _told(facts: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    reading = reading_of(facts["degradation"]) or "no degradation"
    return (
        f"done in {sum(seconds.values()):.0f} s: {facts['width']} x {facts['height']} pixels; the model reads: "
        f"{reading}; it says: {facts['description'] or 'nothing'}"
    )
