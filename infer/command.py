"""What `pure restore` and `pure evaluate` do: check everything first, work with a progress bar, then write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

import pure_jax
from infer.generate import check_seed, override
from infer.picture import check_output, read_picture, write_image
from infer.restore import Restorer, output_size
from pure_jax.errors import PureError

if TYPE_CHECKING:
    from pure_jax.cli import Evaluate, Restore


class TokensPerSecond(ProgressColumn):
    """Codes written per second, over the last while."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} tokens/s" if task.speed else "")


def restore_file(command: Restore) -> None:
    """Restore command.input into command.output.

    Raises:
        PureError: before any work where possible; nothing is written then.
    """
    check_seed(command.seed)
    picture = read_picture(command.input)
    output = command.output or command.input.with_name(f"{command.input.stem}-restored.png")
    entropy_map = command.entropy_map
    check_output(output, has_alpha=picture.alpha is not None, size=output_size(picture, command.scale))
    if entropy_map is not None:
        check_output(entropy_map, has_alpha=False)
        if entropy_map.suffix.lower() != ".png":
            raise PureError(f"the entropy map {str(entropy_map)!r} must be a .png file")
        if entropy_map.resolve() in (output.resolve(), command.input.resolve()):
            raise PureError(f"the entropy map {str(entropy_map)!r} would replace the photo; give it a name of its own")
    model = pure_jax.load(command.model, dtype=command.dtype)
    sampling = override(
        model.config.sampling,
        temperature=command.temperature,
        guidance_scale=command.guidance_scale,
        k_max=command.k_max,
    )
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TokensPerSecond(), TimeRemainingColumn())
    # Gone when the work ends and silent in a log file, so that an error stands alone.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling and reading", total=None)
        result = Restorer(model).restore(
            picture,
            scale=command.scale,
            seed=command.seed,
            sampling=sampling,
            text_prefix=command.text,
            faithful=command.faithful,
            colour_fix=command.colour_fix,
            overlap=command.overlap,
            batch=command.batch,
            progress=lambda done, total: bar.update(task, description="restoring", completed=done, total=total),
        )
    write_image(output, result.image)
    if entropy_map is not None:
        from math import log

        from infer.heatmap import entropy_heatmap

        limit = log(model.config.vqgan.codebook_size)
        write_image(entropy_map, entropy_heatmap(result.entropy, limit, result.image.size))
    for remark in result.remarks:
        print(f"note: {remark}")
    reading = result.degradation
    print(f"degradation: {', '.join(f'{level} {name}' for name, level in reading.items()) if reading else 'not read'}")
    print(f"description: {result.description or 'none'}")
    print(f"{output}: {result.image.width}x{result.image.height}")


def evaluate_folder(command: Evaluate) -> None:
    """Print the table for command.pairs.

    Raises:
        PureError: no pairs, a broken model or metric file, or a missing optional package.
    """
    from infer.evaluate import evaluate, format_table, write_csv
    from infer.niqe import load_niqe_params
    from infer.perceptual import load_params

    check_seed(command.seed)
    niqe_params = load_niqe_params(command.niqe) if command.niqe else None
    restorer = Restorer(pure_jax.load(command.model))
    console = Console(stderr=True)
    result = evaluate(
        Path(command.pairs),
        restorer,
        scale=command.scale,
        seed=command.seed,
        perceptual_params=load_params(),
        niqe_params=niqe_params,
        save_images=command.save_images,
        on_image=lambda done, total, name: console.print(f"{done + 1}/{total} {name}"),
    )
    print(format_table(result))
    if command.csv is not None:
        write_csv(result, command.csv)
