"""What can go wrong, said to the person who can mend it.

Every message tells what was given, what was expected and what to do. The command line prints the
message alone and exits with `exit_code`; in Python these are ordinary `ValueError`s.
"""


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
