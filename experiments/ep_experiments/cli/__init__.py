"""`ep experiment`: claims about regions, put to the test with their controls. One file per experiment."""

from __future__ import annotations

import typer

from .agreement import agreement
from .attribution import attribution
from .axbench import axbench
from .behaviour import behaviour
from .extract import extract
from .ood import ood
from .probes import probes
from .readable import readable
from .reconstruction import reconstruction
from .saturation import saturation
from .tokens import tokens

experiment = typer.Typer(no_args_is_help=True, help="Put claims about regions to the test, with their controls.")
experiment.command("refusal", help=f"Does a region carry refusal?\n\n{behaviour.__doc__}")(behaviour)
experiment.command("chinese", help=f"Does a region carry the answer's language?\n\n{behaviour.__doc__}")(behaviour)
experiment.command("lists", help=f"Does a region carry the answer's format?\n\n{behaviour.__doc__}")(behaviour)
experiment.command("ood")(ood)
experiment.command("probes")(probes)
experiment.command("extract")(extract)
experiment.command("agreement")(agreement)
experiment.command("tokens")(tokens)
experiment.command("saturation")(saturation)
experiment.command("axbench")(axbench)
experiment.command("reconstruction")(reconstruction)
experiment.command("attribution")(attribution)
experiment.command("readable")(readable)
