"""Errors and progress bars of transformers and peft while reading files: one ivlens error, and no bars."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

from ..errors import IvlensError, SourceError, few, reason

REMEDY = (
    "give the packaged default 'smollm2', a Hugging Face hub name, a local Hugging Face folder, a .gguf file, "
    "a model object, or the other packaged model, 'gemma3-270m'"
)


@contextmanager
def library_errors(expected: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn the many errors of transformers and peft while reading into one.

    Their warnings and logs still reach the user, except for deprecation warnings.
    """
    try:
        with without_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    except IvlensError:
        raise
    except Exception as error:
        raise SourceError(expected, without_advice(error), remedy) from error


def without_advice(error: BaseException) -> str:
    """An error in one short line, without advice to run a folder's code."""
    if "trust_remote_code" in str(error):
        return f"{type(error).__name__}: it needs Python code that lies beside it, which is never run"
    return reason(error)


def few_of(names: Iterable[object]) -> str:
    """The first three names in order, and how many more there are."""
    return few(sorted(map(str, names)), 3)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide transformers' short progress bars."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
