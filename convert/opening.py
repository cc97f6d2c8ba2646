"""Opening a model in either layout: a model directory of this library, or PyTorch files, on this disk or on the hub."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from jax.sharding import Mesh

from pure_jax.checkpoint import compute_dtype, demo_directory, open_checkpoint, place, read_json
from pure_jax.convert.hub import download, is_hub_id
from pure_jax.convert.upstream import open_upstream
from pure_jax.errors import PureError
from pure_jax.model import Model

logger = logging.getLogger(__name__)


def load(
    source: str | os.PathLike | None = None,
    dtype: str = "auto",
    scan_layers: bool | None = None,
    *,
    mesh: Mesh | None = None,
    vqgan: str | os.PathLike | None = None,
    tokenizer: str | os.PathLike | None = None,
    revision: str | None = None,
) -> Model:
    """Load a model: a native directory, or the original's PyTorch files (read straight into place).

    What is there but not used or not followed, of PyTorch files, is logged as a warning, one sentence each.

    Args:
        source: a model directory; a directory with a PyTorch model in Hugging Face's layout (PURE, Lumina-mGPT,
            Chameleon); the id of one on the Hugging Face hub, "owner/name"; None means the embedded demo model.
        dtype: the transformer's compute and parameter dtype; "auto" is float32 on CPU (where bfloat16 is slow) and
            bfloat16 elsewhere. The image tokenizer always runs in float32.
        scan_layers: scan over stacked layers or unroll them; None unrolls on CPU, where that decodes faster.
        mesh: devices to spread the parameters over, as `pure_jax.sharding` says; each reads its own part of the files.
            None puts all on the first device.
        vqgan: PyTorch models only: LlamaGen's file, if it does not lie in the directory.
        tokenizer: PyTorch models only: the tokenizer file, if it is not the directory's tokenizer.json.
        revision: hub only: the commit, tag or branch wanted; a commit is the same for ever.

    Raises:
        PureError: what `read_config` refuses; a missing, broken or unfitting part; an unknown dtype; a size that the
            mesh does not divide; a hub that cannot be reached or a revision that has moved.
    """
    compute_dtype(dtype)  # refused before anything is downloaded
    path = find(demo_directory() if source is None else source, revision)
    if is_upstream(path):
        checkpoint, remarks = open_upstream(path, vqgan=vqgan, tokenizer=tokenizer)
        for remark in remarks:
            logger.warning("%s: %s", path, remark)
    elif vqgan is not None or tokenizer is not None:
        raise PureError(f"{path} has its own tokenizers; leave {'tokenizer' if vqgan is None else 'vqgan'} out")
    else:
        checkpoint = open_checkpoint(path)
    return place(checkpoint, dtype, scan_layers, mesh=mesh)


def find(source: str | os.PathLike, revision: str | None = None) -> Path:
    """A directory as it is; a hub id ("owner/name") downloaded, with a pinned or at least unmoved revision.

    Raises:
        PureError: neither of both, or what `pure_jax.convert.hub.download` refuses.
    """
    path = Path(source)
    if path.is_dir():
        if revision is not None:
            raise PureError(f"{path} is a directory, which has no revisions; leave revision out")
        return path
    if is_hub_id(str(source)):
        return download(str(source), revision)
    raise PureError(f"{source} is not a model directory: there is no such directory, and it is no hub id (owner/name)")


def is_upstream(directory: Path) -> bool:
    """True for a directory with a PyTorch model in Hugging Face's layout, whose config.json names its model type.

    Raises:
        PureError: no such directory, or config.json is missing or no JSON.
    """
    values = read_json(directory / "config.json")
    return isinstance(values, dict) and "model_type" in values
