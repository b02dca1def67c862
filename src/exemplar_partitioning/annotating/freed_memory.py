"""Memory that was freed, given back."""

from __future__ import annotations

import ctypes
import sys


def return_freed() -> None:
    """Give freed memory back to the system between two stages of work.

    glibc keeps what lies between arrays that live on: over 100 MB here, which the next stage may find too scattered
    to use.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
