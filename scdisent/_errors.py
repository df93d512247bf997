"""Errors a user can meet: each message says what was expected, what was found, what to do."""

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class ScDisentError(Exception):
    """Base of all errors raised on purpose by scdisent."""


class InputDataError(ScDisentError, ValueError):
    """The values of an AnnData do not fit what was asked of them."""


class SetupError(ScDisentError, ValueError):
    """An AnnData was not set up, or cannot be set up as asked."""


class OptionError(ScDisentError, ValueError):
    """An argument is outside the allowed values."""


class NotTrainedError(ScDisentError, RuntimeError):
    """A result was asked of a model before ``train()``."""


class UnseenLevelError(ScDisentError, ValueError):
    """A query holds a condition or covariate level that was not in training."""


class ModelFileError(ScDisentError, ValueError):
    """A model folder is incomplete, altered, foreign or of a newer format."""


class TrainingDivergedError(ScDisentError, RuntimeError):
    """The loss stopped being a number; the last good weights were restored."""


class DownloadError(ScDisentError, OSError):
    """A data file could not be fetched whole and with the expected hash."""


class ScDisentWarning(UserWarning):
    """Something works but probably does not mean what the user thinks."""


def one_of(value: T, allowed: Iterable[T], name: str) -> T:
    """Return ``value`` if it is allowed, else raise an :class:`OptionError` listing what is."""
    options = list(allowed)
    if value not in options:
        msg = f"{name}={value!r} is not known. Choose one of: {', '.join(map(repr, options))}."
        raise OptionError(msg)
    return value


def missing_extra(package: str, *, purpose: str) -> ImportError:
    """Error for an optional package that is not installed, with the line that installs it."""
    return ImportError(f"{purpose} needs {package!r}. Install it with: pip install {package}")
