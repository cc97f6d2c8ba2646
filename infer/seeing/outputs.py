"""The files that show what `pure restore` did: checked before the work, written after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pure_jax.errors import PureError
from pure_jax.files import check_output_file, refuse_existing, replacing, require_writable
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.pictures.writing import check_output, write_image
from pure_jax.infer.restore import Restoration
from pure_jax.infer.seeing.page import page
from pure_jax.infer.seeing.side_by_side import GAP, side_by_side


@dataclass(frozen=True)
class Shown:
    """side_by_side: a picture file. report: an HTML file. None where it is not wanted."""

    side_by_side: Path | None = None
    report: Path | None = None

    def check(self, taken: Sequence[Path], picture: Picture, size: tuple[int, int], overwrite: bool) -> None:
        """See that both can be written. taken: files that they must not be. size: width and height of the result.

        Raises:
            PureError: a name of another kind or that is taken, a place that cannot be written to.
        """
        others = [path.resolve() for path in taken]
        for path in (self.side_by_side, self.report):
            if path is None:
                continue
            if path.resolve() in others:
                raise PureError(f"{str(path)!r} is the name of two files; give each one of its own")
            others.append(path.resolve())
        if self.side_by_side is not None:
            width, height = size
            check_output(self.side_by_side, has_alpha=picture.alpha is not None, size=(2 * width + GAP, height))
            refuse_existing(self.side_by_side, overwrite)
        if self.report is not None:
            if self.report.suffix.lower() not in (".html", ".htm"):
                raise PureError(f"the report {str(self.report)!r} must be a .html file")
            check_output_file(self.report, overwrite)
            require_writable(self.report)

    def write(
        self,
        name: str,
        picture: Picture,
        result: Restoration,
        max_entropy: float,
        facts: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        """Write those that are wanted; arguments as of `pure_jax.infer.seeing.page.page`.

        Raises:
            PureError: the disk is full, say.
        """
        if self.side_by_side is not None:
            write_image(self.side_by_side, side_by_side(picture, result))
        if self.report is not None:
            text = page(name, picture, result, max_entropy, facts, settings)
            with replacing(self.report) as beside:
                beside.write_text(text, encoding="utf-8", errors="backslashreplace")
