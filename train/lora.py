"""Low-rank adaptation of a language model: what is trained, how the network sees it, and how it is merged.

Trained are {"lora": {... "q_proj": {"a" [.., in, rank], "b" [.., rank, out]}}}, a sub-tree for each kernel, stacked
where layers are, and {"codes": {"embedding" [codes, hidden], "head" [hidden, codes]}}: the image codes' rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from pure_jax.files import new_directory
from pure_jax.train.config import LoraConfig
from pure_jax.vocabulary import Vocabulary

Params = dict[str, Any]


def init_adapters(base: Params, lora: LoraConfig, vocabulary: Vocabulary, key: Array) -> Params:
    """Adapters that change nothing yet: A is uniform as torch's Kaiming initialisation, B is 0; the codes' rows are the
    base's. All float32. base: arrays or shapes."""
    adapters: dict[tuple[str, ...], Any] = {}
    kernels = {path: k for path, k in flatten_dict(base).items() if path[-1] == "kernel" and path[-2] in lora.targets}
    for number, (path, kernel) in enumerate(sorted(kernels.items())):
        *lead, inputs, outputs = kernel.shape
        bound = inputs**-0.5
        shape = (*lead, inputs, lora.rank)
        a = jax.random.uniform(jax.random.fold_in(key, number), shape, jnp.float32, -bound, bound)
        adapters |= {(*path[:-1], "a"): a, (*path[:-1], "b"): jnp.zeros((*lead, lora.rank, outputs))}
    trained: Params = {"lora": unflatten_dict(adapters)}
    if lora.codes:
        rows = {
            "embedding": base["embed"]["embedding"][vocabulary.code_to_id],
            "head": base["lm_head"]["kernel"][:, vocabulary.code_to_id],
        }
        trained["codes"] = jax.tree.map(lambda x: x.astype(jnp.float32), rows)
    return trained


def adapted_variables(base: Params, trained: Params, lora: LoraConfig, vocabulary: Vocabulary) -> Params:
    """What `Transformer.apply` takes: the base with the codes' trained rows, and adapters with their weight in B."""
    scale = lora.alpha / lora.rank
    adapters = {p: x * scale if p[-1] == "b" else x for p, x in flatten_dict(trained["lora"]).items()}
    return {"params": _with_rows(base, trained, vocabulary), "lora": unflatten_dict(adapters)}


def merged(base: Params, trained: Params, lora: LoraConfig, vocabulary: Vocabulary) -> Params:
    """The adapted model as a plain one: W + alpha / rank A B, in W's dtype; A B is computed in float32."""
    flat = flatten_dict(_with_rows(base, trained, vocabulary))
    adapters = flatten_dict(trained["lora"])
    for path in {path[:-1] for path in adapters}:
        kernel = flat[(*path, "kernel")]
        change = jnp.matmul(adapters[(*path, "a")], adapters[(*path, "b")], precision="highest")
        flat[(*path, "kernel")] = (kernel + lora.alpha / lora.rank * change).astype(kernel.dtype)
    return unflatten_dict(flat)


def _with_rows(base: Params, trained: Params, vocabulary: Vocabulary) -> Params:
    if "codes" not in trained:
        return base
    ids, rows = vocabulary.code_to_id, trained["codes"]
    table, head = base["embed"]["embedding"], base["lm_head"]["kernel"]
    return base | {
        "embed": {"embedding": table.at[ids].set(rows["embedding"].astype(table.dtype))},
        "lm_head": {"kernel": head.at[:, ids].set(rows["head"].astype(head.dtype))},
    }


def peft_tensors(trained: Params) -> dict[str, np.ndarray]:
    """The adapters by the names and in the axes of Hugging Face's PEFT: lora_A [rank, in], lora_B [out, rank]."""
    tensors = {}
    for path, value in flatten_dict(trained["lora"]).items():
        *module, name = path
        stacked = module[0] == "layers"
        for layer in range(value.shape[0]) if stacked else (None,):
            number = layer if stacked else int(module[0].removeprefix("layers_"))
            own = np.asarray(value if layer is None else value[layer], np.float32).T
            rest = ".".join(module[1:])
            tensors[f"base_model.model.model.layers.{number}.{rest}.lora_{name.upper()}.weight"] = np.ascontiguousarray(
                own
            )
    return tensors


def save_peft(directory: Path, trained: Params, lora: LoraConfig, base: str) -> None:
    """Write the adapters as PEFT's LoraModel reads them; the image codes' rows lie beside them, in codes.safetensors.

    directory: must not exist yet. base: name or place of the model that is adapted.

    Raises:
        PureError: the directory exists or cannot be written.
    """
    from safetensors.numpy import save_file

    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": lora.rank}
    told |= {"lora_alpha": lora.alpha, "lora_dropout": 0.0, "target_modules": list(lora.targets), "bias": "none"}
    with new_directory(directory) as partial:
        save_file(peft_tensors(trained), partial / "adapter_model.safetensors", {"format": "pt"})
        if "codes" in trained:
            save_file({n: np.asarray(x) for n, x in trained["codes"].items()}, partial / "codes.safetensors")
        (partial / "adapter_config.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
