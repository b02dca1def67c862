"""Other libraries' chatter, kept down: progress bars, notices, warnings, long errors."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LONGEST = 1 << 20  # bytes of what is kept


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers; its own settings are restored at the end. Errors still come through."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def native_errors() -> Iterator[Callable[[], str]]:
    """Keep what libraries in other languages print to standard error, and give a function that tells it afterwards."""
    before, kept = os.dup(2), bytearray()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: kept.decode(errors="replace")
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            kept += file.read(_LONGEST)


def first_line(error: BaseException) -> str:
    """What another library's error says, cut to fit into a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
