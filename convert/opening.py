"""Opening a model in either layout: a model directory of this library, or PyTorch files, on this disk or on the hub."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from pure_jax.checkpoint import EMBEDDED, compute_dtype, demo_directory, open_checkpoint, place, with_precision
from pure_jax.config import require_precision
from pure_jax.convert.hub import download, is_hub_id
from pure_jax.convert.layouts import layout_of
from pure_jax.convert.upstream import Upstream
from pure_jax.errors import PureError
from pure_jax.families import check_options

logger = logging.getLogger(__name__)


def load(
    source: str | os.PathLike | None = None,
    dtype: str = "auto",
    scan_layers: bool | None = None,
    *,
    mesh: Mesh | None = None,
    weights: str | None = None,
    cache: str | None = None,
    vqgan: str | os.PathLike | None = None,
    tokenizer: str | os.PathLike | None = None,
    revision: str | None = None,
) -> Any:
    """Load a model: a native directory, or the original's PyTorch files (read straight into place).

    What is there but not used or not followed, of PyTorch files, is logged as a warning, one sentence each.

    Args:
        source: a model directory; a directory with a PyTorch model in Hugging Face's layout (PURE, Lumina-mGPT,
            Chameleon); the id of one on the Hugging Face hub, "owner/name"; "demo-nsarm", the embedded model of NSARM's
            family; None means "demo", the embedded one of PURE's.
        dtype: the transformer's compute and parameter dtype; "auto" is float32 on CPU (where bfloat16 is slow) and
            bfloat16 elsewhere. The image tokenizer always runs in float32.
        scan_layers: scan over stacked layers or unroll them; None unrolls on CPU, where that decodes faster.
        mesh: devices to spread the parameters over, as `pure_jax.sharding` says; each reads its own part of the files.
            None puts all on the first device.
        weights, cache: "int8" rounds the kernels, while they are read, and the KV cache; docs/quantisation.md says what
            that costs. None keeps what the directory says.
        vqgan: PyTorch models only: LlamaGen's file, if it does not lie in the directory.
        tokenizer: PyTorch models only: the tokenizer file, if it is not the directory's tokenizer.json.
        revision: hub only: the commit, tag or branch wanted; a commit is the same for ever.

    Returns:
        A model of the directory's family: `pure_jax.Model` for PURE.

    Raises:
        PureError: what `read_config` refuses; a missing, broken or unfitting part; an unknown dtype or precision, or
            one that the model cannot have; a size that the mesh does not divide; a hub that cannot be reached or a
            revision that has moved.
    """
    compute_dtype(dtype)  # refused before anything is downloaded
    for name, value in (("weights", weights), ("cache", cache)):
        if value is not None:
            require_precision(name, value)
    path = find(demo_directory() if source is None else source, revision)
    checkpoint, remarks = open_model(path, vqgan=vqgan, tokenizer=tokenizer)
    for remark in remarks:
        logger.warning("%s: %s", path, remark)
    return place(with_precision(checkpoint, weights, cache), dtype, scan_layers, mesh=mesh)


def load_config(source: str | os.PathLike | None = None, revision: str | None = None) -> Any:
    """The configuration of a model, without its weights; source and revision as in `load`.

    Raises:
        PureError: what `load` refuses in a model's files, as far as headers tell.
    """
    return open_model(find(demo_directory() if source is None else source, revision))[0].config


def open_model(path: Path, **options: Any) -> Upstream:
    """Open a model in either layout; only headers are read now.

    options: those of its PyTorch layout; None is the same as nothing.

    Raises:
        PureError: no whole model lies there, or an option that has no meaning for it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    found = layout_of(path)
    if found is None:
        if given:
            raise PureError(f"{path} is a whole model directory of this library; leave {next(iter(given))} out")
        return Upstream(open_checkpoint(path), [])
    family, layout = found
    check_options(family, layout.open, given)
    return layout.open(path, **given)


def find(source: str | os.PathLike, revision: str | None = None) -> Path:
    """A directory as it is; a model that ships with this package, by its name; a hub id ("owner/name") downloaded, with
    a pinned or at least unmoved revision.

    Raises:
        PureError: none of these, or what `pure_jax.convert.hub.download` refuses.
    """
    path = Path(source)
    if not path.is_dir() and str(source) in EMBEDDED:
        path = demo_directory(str(source))
    if path.is_dir():
        if revision is not None:
            raise PureError(f"{path} is a directory, which has no revisions; leave revision out")
        return path
    if is_hub_id(str(source)):
        return download(str(source), revision)
    raise PureError(
        f"{source} is not a model directory: there is no such directory, and it is no hub id (owner/name) and none of "
        f"{', '.join(EMBEDDED)}"
    )
