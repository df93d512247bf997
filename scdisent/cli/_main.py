"""From arguments to an exit code: 0 done, 2 input that cannot be used, 130 interrupted."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from scdisent import ScDisentError, ScDisentWarning
from scdisent.cli._parser import build_parser

BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    What a user can get wrong ends with one line on stderr; a traceback means a fault of the
    package. Bad options leave through :class:`SystemExit` with the same code, as in argparse.

    Parameters
    ----------
    argv
        Arguments after the program's name; None: those of the process.
    """
    args = build_parser().parse_args(argv)
    try:
        with plain_messages():
            module, _, name = args.run.partition(":")
            getattr(importlib.import_module(module), name)(args)
    except (ScDisentError, OSError) as error:
        print(f"scdisent {args.verb}: error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"scdisent {args.verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


@contextmanager
def plain_messages() -> Iterator[None]:
    """Show this package's warnings, one line each; keep other libraries' remarks out of the way."""
    os.environ.setdefault("MPLBACKEND", "Agg")  # figures go to files; no window, no display needed
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", ScDisentWarning)
            warnings.showwarning = _show_warning  # restored by catch_warnings
            yield
    finally:
        logging.disable(disabled)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"scdisent: warning: {message}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Message of an error without line breaks; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
