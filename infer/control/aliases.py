"""Option names of the StableSR, SeeSR and OSEDiff family of tools, said as `pure restore` says them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from pure_jax.errors import PureError

_INPUTS = {"input_image", "image_path", "init_img", "input"}
_OUTPUTS = {"output_dir", "outdir", "output"}
_RENAMED = {"upscale": "scale", "tile_overlap": "overlap", "prompt": "text"}
_VALUES = {
    **{name: ("colour_fix", {"wavelet": "wavelet", "adain": "adain", "nofix": "none"}) for name in
       ("align_method", "colorfix_type")},
    "mixed_precision": ("dtype", {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}),
}  # fmt: skip
_LATENT_OVERLAP = "latent_tiled_overlap"
LATENT_STRIDE = 8
"""Pixels of a latent position in those tools, all of Stable Diffusion's family."""
_WITHOUT_MEANING = {"process_size", "latent_tiled_size", "vae_encoder_tiled_size", "vae_decoder_tiled_size"}


def translated(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of `pure restore` with its own names in place of the others', and remarks.

    Sizes of tiles have no meaning here, as they are the model's: they are left out, with a remark.

    Raises:
        PureError: one of those names without its value, or with one that has no counterpart.
    """
    inputs: list[str] = []
    outputs: list[str] = []
    others: list[str] = []
    remarks: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        option, equals, value = argument.partition("=")
        name = option[2:].replace("-", "_") if option.startswith("--") else ""
        if name not in _INPUTS | _OUTPUTS | _RENAMED.keys() | _VALUES.keys() | _WITHOUT_MEANING | {_LATENT_OVERLAP}:
            others.append(argument)
            continue
        if not equals:
            value = next(waiting, "")
        if not value or (not equals and value.startswith("--")):
            raise PureError(f"{option} needs a value")
        if name in _INPUTS:
            inputs.append(value)
        elif name in _OUTPUTS:
            outputs.append(value)
        elif name in _RENAMED:
            others.append(f"--{_RENAMED[name]}={value}")
        elif name == _LATENT_OVERLAP:
            if not value.isdecimal():
                raise PureError(f"{option} is {value!r}, but it must be a number of latent positions")
            others.append(f"--overlap={int(value) * LATENT_STRIDE}")
        elif name in _WITHOUT_MEANING:
            remarks.append(f"{option} has no meaning here, as tiles have the model's size; it is passed over")
        else:
            own, values = _VALUES[name]
            if value not in values:
                raise PureError(f"{option} is {value!r}, but it must be one of {', '.join(values)}")
            others.append(f"--{own.replace('_', '-')}={values[value]}")
    # Names of files stand together: the command line takes one run of them.
    named = list(takewhile(lambda argument: argument == "-" or not argument.startswith("-"), others))
    return [*inputs, *named, *outputs, *others[len(named) :]], remarks
