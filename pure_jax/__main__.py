"""The `pure` command, also `python -m pure_jax`: the one place that puts the commands of all rooms together.

A command has `run`, and may have `interrupted`: what Ctrl-C or SIGTERM leaves behind, in one sentence.
"""

from __future__ import annotations

import io
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tyro

from pure_jax import __version__
from pure_jax.convert.command import Compare, Convert, Quantize
from pure_jax.errors import PureError
from pure_jax.files import not_writable
from pure_jax.infer.app.command import App
from pure_jax.infer.benchmark.command import Benchmark
from pure_jax.infer.command import Restore
from pure_jax.infer.control.aliases import translated
from pure_jax.infer.doctor.command import Doctor, Models
from pure_jax.infer.metrics.command import Evaluate
from pure_jax.infer.serve.command import Serve
from pure_jax.train.ahead.command import Compile
from pure_jax.train.command import Plot, Train
from pure_jax.train.data.command import Degrade, Replay, Tokenize

COMMANDS: dict[str, Callable[..., Any]] = {
    "restore": Restore,
    "convert": Convert,
    "quantize": Quantize,
    "compare": Compare,
    "tokenize": Tokenize,
    "replay": Replay,
    "train": Train,
    "plot": Plot,
    "compile": Compile,
    "degrade": Degrade,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
    "doctor": Doctor,
    "models": Models,
    "serve": Serve,
    "app": App,
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: as an interruption from the keyboard, so that what is half-written goes."""


def _terminate(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: the next one would stop the tidying up
    raise Terminated


def keep_compiled_programs() -> None:
    """Let jax keep what it compiles in the user's cache folder, so that the next call starts without the wait.

    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches it off. Each machine has
    a folder of its own, as homes are shared and programs are made for one processor.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(home, "pure-jax", platform.node() or "here"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def _end(status: int) -> NoReturn:
    """Exit; at once where this is one of several processes, since jax waits five minutes at its end for others, which
    may wait for this one."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run; a user's mistake is one sentence on stderr and exit status 2."""
    signal.signal(signal.SIGTERM, _terminate)
    keep_compiled_programs()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be of bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        print(f"pure-jax {__version__}")
        return
    command: Any = None
    try:
        if arguments and arguments[0] == "restore":
            others, remarks = translated(arguments[1:])
            arguments = [arguments[0], *others]
            for remark in remarks:
                print(f"pure: {remark}", file=sys.stderr)
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
        _end(2)
    except KeyboardInterrupt as stop:
        left = getattr(command, "interrupted", None) or "nothing was written"
        print(f"pure: interrupted; {left}", file=sys.stderr)
        _end(143 if isinstance(stop, Terminated) else 130)
    except OSError as error:
        if error.filename is not None:
            raise
        # Standard output, whose reader has gone or whose device is full: what waits in it would fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"pure: error: {not_writable('standard output', error)}", file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
