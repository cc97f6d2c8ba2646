"""How large a result is to be: a factor, or a size that a factor follows from. The aspect ratio is always kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pure_jax.errors import PureError

DEFAULT_SCALE = 4.0
MAX_SCALE = 16.0


@dataclass(frozen=True)
class Size:
    """One way to say it; none of them means a scale of 4.

    scale: the result's side over the photo's. width, height: of the result in pixels, or with both the box that it is
    to fit into. long_side: the longer of both. megapixels: million pixels of the result.
    Raises PureError for two ways at once, or a value that is not above 0.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    long_side: int | None = None
    megapixels: float | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height", "long_side", "megapixels"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise PureError(f"{_option(name)} is {value}, but it must be above 0")
        said = [name for name in ("scale", "long_side", "megapixels") if getattr(self, name) is not None]
        if self.width is not None or self.height is not None:
            said.append("width" if self.width is not None else "height")
        if len(said) > 1:
            raise PureError(f"the result has one size; give {_option(said[0])} or {_option(said[1])}, not both")

    def scale_for(self, width: int, height: int) -> float:
        """The scale for a photo of that size. One that was given as such is returned as it is.

        Raises:
            PureError: the size asked for is smaller than the photo, or more than 16 times as large.
        """
        if self.scale is not None:
            return self.scale
        if self.megapixels is not None:
            scale, said = math.sqrt(self.megapixels * 1e6 / (width * height)), f"--megapixels {self.megapixels:g}"
        elif self.long_side is not None:
            scale, said = self.long_side / max(width, height), f"--long-side {self.long_side}"
        elif self.width is None and self.height is None:
            return DEFAULT_SCALE
        else:
            ways = [("width", self.width, width), ("height", self.height, height)]
            scale = min(wanted / side for _, wanted, side in ways if wanted is not None)
            said = " ".join(f"{_option(name)} {wanted}" for name, wanted, _ in ways if wanted is not None)
        if scale < 1:
            raise PureError(f"{said} would make the photo of {width}x{height} pixels smaller; ask for more")
        if scale > MAX_SCALE:
            raise PureError(
                f"{said} would enlarge the photo of {width}x{height} pixels {scale:.4g} times; ask for at most "
                f"{MAX_SCALE:g} times its size"
            )
        return scale


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
