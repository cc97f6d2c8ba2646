"""Where each result lies in the output folder: no two on one name, and none on a picture that is to be read."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath


def output_names(
    names: Iterable[str], suffix: str, owned: Mapping[str, str] | None = None, forbidden: Collection[str] = ()
) -> dict[str, str]:
    """Relative paths of results by the names of their pictures.

    a.jpg becomes a.png, or a.jpg.png where another picture would become a.png too, or, in the last resort, a name with
    a digest of its own. Names are one where any disk would take them for one: in other letter cases, or accents written
    otherwise. The order of the names means nothing.

    Args:
        suffix: of the results, such as ".png".
        owned: results of earlier runs; they keep their names, and nobody else gets them.
        forbidden: relative paths that no result may have.
    """
    everyone, owned = sorted(set(names)), owned or {}
    # Planned as if nothing were there, so that a run that goes on after a kill plans what the first one did.
    planned: dict[str, str] = {}
    waiting = everyone
    taken = {_as_a_disk_sees(path) for path in forbidden}
    for candidate in (_by_stem, _by_name, _by_digest):
        wanted = {name: candidate(name, suffix) for name in waiting}
        often = Counter(map(_as_a_disk_sees, wanted.values()))
        free = {n: w for n, w in wanted.items() if often[_as_a_disk_sees(w)] == 1 and _as_a_disk_sees(w) not in taken}
        planned |= free
        taken |= {_as_a_disk_sees(path) for path in free.values()}
        waiting = [name for name in waiting if name not in free]
    assert not waiting, "a digest of 64 bits was met twice"
    result = {name: owned[name] for name in everyone if owned.get(name, "").endswith(suffix)}
    others = {_as_a_disk_sees(path) for path in owned.values()}
    for name in everyone:
        if name not in result:
            path = planned[name]
            result[name] = _by_digest(name, suffix) if _as_a_disk_sees(path) in others else path
    return result


def _by_stem(name: str, suffix: str) -> str:
    return str(PurePosixPath(name).with_suffix(suffix))


def _by_name(name: str, suffix: str) -> str:
    return name + suffix


def _by_digest(name: str, suffix: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{PurePosixPath(name).with_suffix('')}-{digest}{suffix}"


def _as_a_disk_sees(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
