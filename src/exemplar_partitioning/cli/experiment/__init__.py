"""`ep experiment`: claims about regions, put to the test with their controls. One file per experiment."""

from __future__ import annotations

import typer

from .behaviour import behaviour
from .probes import probes

experiment = typer.Typer(no_args_is_help=True, help="Put claims about regions to the test, with their controls.")
experiment.command("refusal", help=f"Does a region carry refusal?\n\n{behaviour.__doc__}")(behaviour)
experiment.command("chinese", help=f"Does a region carry the answer's language?\n\n{behaviour.__doc__}")(behaviour)
experiment.command("lists", help=f"Does a region carry the answer's format?\n\n{behaviour.__doc__}")(behaviour)
experiment.command("probes")(probes)
