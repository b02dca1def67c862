"""An autoencoder that is a dictionary of a tiny model, saved as SAELens saves them, with what it was built from."""

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.cli import app
from exemplar_partitioning.core.dictionary import Dictionary
from exemplar_partitioning.exchange.from_sae import SparseAutoencoder


def made(tiny_folder, text_file, folder):
    """A build, the activations of its text, and the autoencoder that is its dictionary: folder/build, x and sae."""
    options = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 3000}
    ep.build(str(tiny_folder), text_file, out=folder / "build", sites="resid_post.1", percentiles=[5, 20], **options)
    invoke("extract", folder / "x", text_file, "--model", tiny_folder, "--site", "resid_post.1", "--context-size", 32)
    saved(same(ep.load(folder / "build", percentile=5)), folder / "sae", "blocks.1.hook_resid_post")
    return folder


def same(dictionary: Dictionary) -> SparseAutoencoder:
    """The autoencoder that does what the dictionary does: its one feature of an activation is the region."""
    return SparseAutoencoder(
        dictionary.exemplars.T.contiguous(),
        torch.zeros(dictionary.k),
        dictionary.exemplars,
        dictionary.center,
        "topk",
        k=1,
    )


def saved(sae: SparseAutoencoder, folder, site):
    folder.mkdir()
    tensors = {name: getattr(sae, name).contiguous() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(
        json.dumps({"architecture": "topk", "k": sae.k, "metadata": {"hook_name": site, "model_name": "tiny"}})
    )


def invoke(*arguments):
    done = CliRunner().invoke(app, ["experiment", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments):
    with pytest.raises(ep.EPError) as error:
        CliRunner().invoke(app, ["experiment", *map(str, arguments)], catch_exceptions=False)
    return str(error.value)
