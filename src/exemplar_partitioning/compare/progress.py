"""How much of a long work is done: who is told may raise, which ends the work."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[float], object]
"""Takes the share that is done, 0 to 1."""


def ignore(share: float) -> None:
    """For works that nobody follows."""


def part(tell: Tell, start: float, end: float) -> Tell:
    """What a part of a work is to call with its own share: it begins and ends at these shares of the whole."""
    return lambda share: tell(start + (end - start) * share)
