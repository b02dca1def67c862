"""What can go wrong, said to the person who can mend it.

Every message tells what was given, what was expected and what to do. The command line prints the
message alone and exits with `exit_code`; in Python these are ordinary `ValueError`s.
"""

from collections.abc import Iterable
from importlib.util import find_spec


class EPError(ValueError):
    """Something the user gave does not fit: a name, a shape, a setting, a text."""

    exit_code = 2


class DataError(EPError):
    """A file is damaged, foreign, altered or of a newer schema."""

    exit_code = 3


class ResourceError(EPError):
    """The machine cannot do it now: no network, no space on the disk, no such device."""

    exit_code = 4


class Interrupted(EPError):
    """Stopped on request after saving a checkpoint; `--resume` goes on."""

    exit_code = 130


def check_choice(name: str, chosen: object, choices: Iterable[str]) -> None:
    """Raise EPError unless what was chosen for something is among the choices."""
    *most, last = choices
    if chosen not in (*most, last):
        raise EPError(f"{name} is {chosen!r}; expected {', '.join(most)} or {last}")


def require_extra(extra: str, *modules: str, of: str) -> None:
    """Raise EPError, saying how to install them, unless the modules of an extra are there that something needs."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise EPError(
            f"{of} needs {', '.join(missing)}, which is not installed: python -m pip install "
            f"'exemplar-partitioning[{extra}]'"
        )
