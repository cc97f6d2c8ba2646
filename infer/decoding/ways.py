"""The ways of decoding by name, and which one is taken when nobody says."""

from __future__ import annotations

from pure_jax.errors import PureError
from pure_jax.infer.decoding.contract import Decoding
from pure_jax.infer.decoding.drafts import DRAFTS
from pure_jax.infer.decoding.rows import Rows
from pure_jax.infer.decoding.rules import RULES
from pure_jax.infer.decoding.sequential import Sequential
from pure_jax.infer.decoding.windows import Windows

WAYS = ("plain", *RULES)
MAX_WINDOW = 256
DEFAULT_WINDOW = 8
DEFAULT_DRAFT = "like"


def way_of_decoding(
    decode: str | None = None, window: int | None = None, draft: str | None = None, faithful: bool = False
) -> Decoding:
    """The way of decoding with a name.

    Args:
        decode: "plain", or a rule of `pure_jax.infer.decoding.rules`; None takes "jacobi", which writes the same codes
            as "plain" in fewer passes.
        window: tokens of a pass, 2 ... 256; None takes 8.
        draft: one of `pure_jax.infer.decoding.drafts`; None takes "like".
        faithful: as the original: text unmasked, the picture's size drawn by the model, one token a step.

    Raises:
        PureError: an unknown name, a window out of range, or values that have no meaning together.
    """
    given = {"--window": window is not None, "--draft": draft is not None}
    if faithful:
        given["--decode"] = decode is not None
    if faithful or decode == "plain":
        for name, is_given in given.items():
            if is_given:
                raise PureError(f"{name} has no meaning with {'--faithful' if faithful else '--decode plain'}")
        return Sequential() if faithful else Rows()
    decode = "jacobi" if decode is None else decode
    draft = DEFAULT_DRAFT if draft is None else draft
    window = DEFAULT_WINDOW if window is None else window
    if decode not in WAYS:
        raise PureError(f"there is no way of decoding {decode!r}; choose one of {', '.join(WAYS)}")
    if draft not in DRAFTS:
        raise PureError(f"there is no draft {draft!r}; choose one of {', '.join(DRAFTS)}")
    if not 2 <= window <= MAX_WINDOW:
        raise PureError(f"the window is {window}, but it must lie in 2 ... {MAX_WINDOW}")
    return Windows(decode, window, draft)
