"""Photos on their way through the app: from uploads to a page or an archive, with all that is seen in between."""

from __future__ import annotations

import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pure_jax.errors import PureError
from pure_jax.infer.contract import override
from pure_jax.infer.control.candidates import best_of
from pure_jax.infer.control.fidelity import at_fidelity
from pure_jax.infer.facts import facts_of, reading_of
from pure_jax.infer.jobs import Cancelled, Closed, Desk, Full, Job, TooLate
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.pictures.writing import fitting_profile_for, lost_by
from pure_jax.infer.restore import Restoration, Restorer
from pure_jax.infer.seeing.page import page
from pure_jax.infer.stages import StageClock
from pure_jax.infer.uploads import Limits, read_upload

LOOK_S = 0.2
"""Between two looks at how far the work is."""
OPTIONS = ("text", "guidance", "description", "one_description", "fast")
WORDS = {
    "wait": "waiting", "encode": "reading the photo", "compile": "getting ready", "restore": "restoring",
    "decode": "making pixels", "blend": "blending",
}  # fmt: skip


@dataclass(frozen=True)
class Wishes:
    """What the user has set; the names are those of `pure restore`. None takes the model's default, "" says nothing."""

    scale: float = 4.0
    seed: int = 0
    colour_fix: str | None = None
    text: str = ""
    guidance: str | None = None
    blur: str | None = None
    noise: str | None = None
    description: str = ""
    one_description: bool = False
    fidelity: float | None = None
    strength: float = 1.0
    candidates: int = 1
    temperature: float | None = None
    k_max: float | None = None
    guidance_scale: float | None = None
    fast: bool = False

    def options(self) -> dict[str, Any]:
        """Of the model's family, those that were set."""
        given = {name: getattr(self, name) for name in OPTIONS if getattr(self, name)}
        reading = {kind: getattr(self, kind) for kind in ("blur", "noise") if getattr(self, kind)}
        return given | ({"reading": reading} if reading else {})

    def sampling(self, own: Any) -> Any:
        """The model's own sampling, changed. Raises PureError for a value out of range, or of another family."""
        return override(
            own if self.fidelity is None else at_fidelity(own, self.fidelity),
            temperature=self.temperature,
            guidance_scale=self.guidance_scale,
            k_max=self.k_max,
        )


@dataclass(frozen=True)
class Seen:
    """What there is to be seen now. said: one line. preview: the photo so far, uint8 [H, W, 3], if it is a new one.
    When it is done: page, the report, or rows, the name of each of several photos and what is said of it; and file, the
    path of the result, or of an archive. over: nothing comes after this."""

    said: str
    preview: np.ndarray | None = None
    page: str | None = None
    rows: Sequence[tuple[str, str]] = ()
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

    def restore(self, who: str, uploads: Sequence[Path], wishes: Wishes) -> Iterator[Seen]:
        """Restore a page's photos; what that page had under way before is given up. Leaving early gives it up, too."""
        if not uploads:
            yield Seen("choose a photo first", over=True)
            return
        if len(uploads) > self.limits.photos:
            yield Seen(f"{len(uploads)} photos are more than {self.limits.photos} at a time; choose fewer", over=True)
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
        work = _Work(uploads)
        try:
            future = self.desk.submit(job, lambda job: self._work_all(job, work, wishes))
            yield from self._watch(job, future, work)
            yield self._finished(future, work, wishes)
        finally:
            job.cancel()
            if self.jobs.get(who) is job:
                del self.jobs[who]

    def _watch(self, job: Job[Any], future: Future[Any], work: _Work) -> Iterator[Seen]:
        """Until the work ends or is given up."""
        began, last = time.monotonic(), ""
        while not future.done():
            preview = work.previews.pop() if work.previews else None
            said = f"{work.place}{self._progress(job)} ({time.monotonic() - began:.0f} s)"
            if said != last or preview is not None:
                yield Seen(said, preview)
            last = said
            time.sleep(LOOK_S)

    def _progress(self, job: Job[Any]) -> str:
        stage, done, total = job.stage
        if stage == "wait" and (ahead := self.desk.ahead(job)):
            return f"waiting, {ahead} ahead"
        return WORDS.get(stage, stage) + (f" {100 * done // total} %" if total else "")

    def _work_all(self, job: Job[Any], work: _Work, wishes: Wishes) -> None:
        """In the desk's thread. A photo that cannot be restored is noted, and the others are."""
        for upload in work.uploads:
            try:
                picture, result, seconds = self._work(job, upload, wishes, work.previews)
            except PureError as error:
                work.done.append(_Failed(upload.name, str(error)))
            else:
                lost = lost_by(".png", result.picture)
                facts = facts_of(result, scale=wishes.scale, seed=result.seed, seconds=seconds, lost=lost)
                # Of several photos the pictures are not kept: a page shows one.
                own = self._page(upload.name, picture, result, facts, wishes) if len(work.uploads) == 1 else None
                work.done.append(_Restored(upload.name, facts, self._saved(result, upload.name), own))

    def _work(self, job: Job[Any], upload: Path, wishes: Wishes, previews: list[np.ndarray]) -> Any:
        """In the desk's thread."""
        if upload.stat().st_size > self.limits.bytes:
            raise PureError(f"{upload.name} has more than {self.limits.bytes / 1e6:g} MB; choose a smaller one")
        picture = read_upload(upload.read_bytes(), wishes.scale, self.limits)
        sampling = wishes.sampling(self.restorer.model.config.sampling)

        def show(image: np.ndarray) -> None:
            previews[:] = [image]  # the latest only, as it may come faster than it is looked at

        with StageClock(job.progress) as watch:
            restore = partial(
                self.restorer.restore,
                picture,
                scale=wishes.scale,
                colour_fix=wishes.colour_fix,
                strength=wishes.strength,
                sampling=sampling,
                progress=watch,
                preview=show,
                **wishes.options(),
            )
            result = best_of(restore, picture, wishes.seed, wishes.candidates)
        return picture, result, watch.seconds

    def _finished(self, future: Future[Any], work: _Work, wishes: Wishes) -> Seen:
        """One photo's page, or a table of several and an archive of those that are done, however it ended."""
        ended = ""
        try:
            future.result()
        except Cancelled:
            ended = "cancelled"
        except TooLate:
            ended = f"given up, as it took longer than {self.limits.timeout:g} seconds"
        if len(work.uploads) == 1:
            return Seen(ended, over=True) if ended else _alone(work.done[0])
        restored = [one for one in work.done if isinstance(one, _Restored)]
        said = f"{len(restored)} of {len(work.uploads)} photos are restored"
        failed = len(work.done) - len(restored)
        said = f"{ended}; {said}" if ended else said + (f", {failed} could not be" if failed else "")
        file = self._archive(restored) if restored else None
        return Seen(said, rows=[one.row for one in work.done], file=file, over=True)

    def _page(self, name: str, picture: Picture, result: Restoration, facts: dict[str, Any], wishes: Wishes) -> str:
        return page(name, picture, result, self.restorer.model.config.max_entropy, facts, vars(wishes))

    def _archive(self, restored: Sequence[_Restored]) -> Path:
        """The results in one file, two of one name as NAME and NAME-2."""
        file = self._own_folder() / "restored.zip"
        names: Counter[str] = Counter()
        with zipfile.ZipFile(file, "w") as archive:  # pictures are compressed already
            for one in restored:
                names[one.file.name] += 1
                number = f"-{names[one.file.name]}" if names[one.file.name] > 1 else ""
                archive.write(one.file, f"{one.file.stem}{number}{one.file.suffix}")
        return file

    def _saved(self, result: Restoration, name: str) -> Path:
        file = self._own_folder() / f"{Path(name).stem}-restored.png"
        result.image.save(file, icc_profile=fitting_profile_for("PNG", result.image.info.get("icc_profile")))
        return file

    def _own_folder(self) -> Path:
        own = self.folder / f"{time.monotonic_ns()}"
        own.mkdir()
        return own


@dataclass(frozen=True)
class _Restored:
    name: str
    facts: dict[str, Any]
    file: Path
    page: str | None

    @property
    def row(self) -> tuple[str, str]:
        return self.name, _told(self.facts)


@dataclass(frozen=True)
class _Failed:
    name: str
    reason: str

    @property
    def row(self) -> tuple[str, str]:
        return self.name, f"not possible: {self.reason}"


@dataclass
class _Work:
    """What the desk's thread has done of a page's photos; the page's own thread looks at it."""

    uploads: Sequence[Path]
    done: list[_Restored | _Failed] = field(default_factory=list)
    previews: list[np.ndarray] = field(default_factory=list)

    @property
    def place(self) -> str:
        many = len(self.uploads)
        return f"photo {min(len(self.done) + 1, many)} of {many}: " if many > 1 else ""


def _alone(one: _Restored | _Failed) -> Seen:
    if isinstance(one, _Failed):
        return Seen(f"not possible: {one.reason}", over=True)
    return Seen(_told(one.facts), page=one.page, file=one.file, over=True)


def _told(facts: Mapping[str, Any]) -> str:
    reading = reading_of(facts["degradation"]) or "no degradation"
    seconds, size = sum(facts["seconds"].values()), f"{facts['width']} x {facts['height']} pixels"
    said = facts["description"] or "nothing"
    return f"done in {seconds:.0f} s: {size}; the model reads: {reading}; it says: {said}"
