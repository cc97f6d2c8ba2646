"""Models on the Hugging Face hub: download of one revision, which must not move behind the user's back."""

from __future__ import annotations

import re
from pathlib import Path

from pure_jax.errors import PureError

FILES = [
    *("config.json", "tokenizer.json", "*.safetensors"),  # every model
    *("model.safetensors.index.json", "*.pt"),  # PyTorch models
    *("upstream.json", "transformer/*", "vqgan/*"),  # model directories of this library
]
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# How the hub's library lays out its cache.
_DOWNLOADED = re.compile(r"/models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})$")


def is_hub_id(source: str) -> bool:
    """True for "owner/name"."""
    return _ID.fullmatch(source) is not None


def origin_of(directory: Path) -> tuple[str, str | None]:
    """A model's name and commit: hub id and commit of a downloaded one, the folder's name and None of any other."""
    folder = directory.resolve()
    if downloaded := _DOWNLOADED.search(folder.as_posix()):
        return f"{downloaded['owner']}/{downloaded['name']}", downloaded["commit"]
    return folder.name, None


def download(repo: str, revision: str | None = None) -> Path:
    """The files of a hub model, from the local cache where they are there already.

    A commit is fetched exactly. A branch or tag (by default "main") is accepted as it is found the first time; if it
    points to another commit later, that is refused and the user chooses.

    Args:
        revision: a commit (40 hexadecimal digits), tag or branch.

    Raises:
        PureError: the hub cannot be reached and the cache lacks the files; no such model or revision; it has moved.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = revision or "main"
    try:
        seen = _seen_before(repo, wanted)
        if seen != wanted:  # a branch, a tag, or a commit that is not here yet
            now = _commit_now(repo, wanted, seen)
            if seen not in (None, now):
                raise PureError(
                    f"{repo}: the revision {wanted!r} has moved from {seen} to {now}; give the one you want by its "
                    "commit (--revision, or revision= in Python)"
                )
        return Path(snapshot_download(repo, revision=seen or wanted, allow_patterns=FILES))
    except PureError:
        raise
    except GatedRepoError as error:
        raise PureError(f"{repo} asks for its licence to be accepted on the hub; do so and log in there") from error
    except RepositoryNotFoundError as error:
        raise PureError(f"{repo} is neither a directory here nor a model on the hub") from error
    except RevisionNotFoundError as error:
        raise PureError(f"{repo} has no revision {wanted!r} (any more); look up the one you want on the hub") from error
    except HFValidationError as error:
        raise PureError(f"{repo!r} is neither a directory here nor a hub id (owner/name)") from error
    except Exception as error:  # which one a failed connection raises depends on the HTTP library beneath
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise PureError(
            f"{repo} is no directory here, and it cannot be downloaded from the hub ({reason}); "
            "connect, or give a directory with the files"
        ) from error


def _seen_before(repo: str, revision: str) -> str | None:
    """The commit that a revision meant when it was last downloaded into the local cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _commit_now(repo: str, revision: str, seen: str | None) -> str | None:
    """The commit that a revision means on the hub now; if the hub cannot be reached, the one that was seen before."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return HfApi().model_info(repo, revision=revision).sha
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:
        if seen is None:
            raise
        return seen
