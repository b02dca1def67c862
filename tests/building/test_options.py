"""What may be asked is declared once: the functions and the command have it all, with one default and one meaning."""

import inspect

import click
import pytest
import typer.main

import exemplar_partitioning as ep
from exemplar_partitioning.annotating.options import AnnotateRequest
from exemplar_partitioning.building.options import BuildOptions, BuildRequest
from exemplar_partitioning.building.settings import BuildSettings
from exemplar_partitioning.cli import app
from exemplar_partitioning.core import calibration
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder.schema import TextRecord
from exemplar_partitioning.text.windowing import Windowing

ONLY_PYTHON = {"on_event", "stop", "progress"}
SPELLED = {"prepend_bos": "--bos", "sites": "--site", "percentiles": "--percentile"}


@pytest.mark.parametrize(("function", "request_"), [(ep.build, BuildRequest), (ep.annotate, AnnotateRequest)])
def test_functions_have_every_field_in_signature_and_docstring(function, request_):
    parameters = inspect.signature(function).parameters
    for name, field in request_.model_fields.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default is (inspect.Parameter.empty if field.is_required() else field.default)
        assert f"    {name}: {field.description}" in function.__doc__
    assert list(parameters)[1] == "text" and len(parameters) == len(request_.model_fields) + 2


def test_the_command_has_every_field_as_an_option_that_says_the_same():
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group) or hasattr(command, "commands")
    options = {name: option for option in command.commands["build"].params for name in option.opts}
    for name, field in BuildRequest.model_fields.items():
        if name not in ONLY_PYTHON:
            option = options[SPELLED.get(name, "--" + name.replace("_", "-"))]
            if name not in ("out", "ray", "workers", "keep_activations", "annotate"):
                assert option.help == field.description


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="percentile"):
        ep.build("m", percentile=2, out="x")
    with pytest.raises(TypeError, match="out"):
        ep.build("m")
    with pytest.raises(EPError, match=r"context_size: .*greater than or equal to 1; got 0"):
        ep.build("m", out="x", context_size=0)


def test_settings_hold_every_option_and_the_defaults_of_the_core():
    assert issubclass(BuildSettings, BuildOptions) and issubclass(BuildOptions, Windowing)
    defaults = {name: field.default for name, field in BuildOptions.model_fields.items()}
    assert defaults["calibration_batch"] == defaults["saturation_window"] == calibration.BATCH
    assert defaults["calibration_sample"] == calibration.SAMPLE
    assert set(Windowing.model_fields) <= set(TextRecord.model_fields)
