"""Photos that come over a connection: how large they may be, and reading them without trusting them."""

from __future__ import annotations

from dataclasses import dataclass

from pure_jax.errors import PureError
from pure_jax.infer.pictures.picture import Picture
from pure_jax.infer.pictures.reading import decode
from pure_jax.infer.restore import output_size


@dataclass(frozen=True)
class Limits:
    """places: requests that may be there at once, the one that is worked on included. timeout: seconds from a request
    until its answer; upload_timeout: of these, until the photo is there. bytes: of an upload. pixels: of a result.
    photos: that come together.

    Raises:
        PureError: one of them is not above 0.
    """

    places: int = 8
    timeout: float = 600.0
    upload_timeout: float = 30.0
    bytes: int = 32_000_000
    pixels: int = 16_000_000
    photos: int = 100

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise PureError(f"the limit of {name.replace('_', ' ')} is {value}, but it must be above 0")


class TooLarge(PureError):
    """More bytes or pixels than are allowed."""


def read_upload(data: bytes, scale: float, limits: Limits) -> Picture:
    """The picture in an upload: its first frame.

    Raises:
        TooLarge: more bytes, or a result of more pixels, than the limits allow.
        PureError: what `decode` and `output_size` refuse.
    """
    if len(data) > limits.bytes:
        raise too_many_bytes(limits)
    if not data:
        raise PureError("the upload is empty (0 bytes); send a photo's file")
    picture = decode(data, "the upload").pictures[0]
    width, height = output_size(picture, scale)
    if width * height > limits.pixels:
        raise TooLarge(
            f"the result would have {width}x{height} pixels, more than the {limits.pixels / 1e6:g} million that are "
            "allowed here; choose a smaller scale or photo"
        )
    return picture


def too_many_bytes(limits: Limits) -> TooLarge:
    return TooLarge(f"the upload has more than the {limits.bytes / 1e6:g} MB that are allowed here; send a smaller one")
