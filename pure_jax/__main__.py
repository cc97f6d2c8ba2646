"""The `pure` command, also `python -m pure_jax`: the one place that puts the commands of all rooms together.

A command has `run`, and may have `interrupted`: what Ctrl-C leaves behind, in one sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from pure_jax import __version__
from pure_jax.convert.command import Compare, Convert
from pure_jax.errors import PureError
from pure_jax.infer.command import Evaluate, Restore
from pure_jax.train.command import Degrade, Train

COMMANDS: dict[str, Callable[..., Any]] = {
    "restore": Restore,
    "convert": Convert,
    "compare": Compare,
    "train": Train,
    "degrade": Degrade,
    "evaluate": Evaluate,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run; a user's mistake is one sentence on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        print(f"pure-jax {__version__}")
        return
    command: Any = None
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="pure",
            description="Restore low-quality photographs. `pure --version` says which version this is.",
            args=arguments,
            config=(tyro.conf.DisallowNone,),  # what is not wanted is left out, instead of being spelled None
        )
        command.run()
        sys.stdout.flush()  # a closed pipe shows here, not when the interpreter ends
    except PureError as error:
        print(f"pure: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        left = getattr(command, "interrupted", None) or "nothing was written"
        print(f"pure: interrupted; {left}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
