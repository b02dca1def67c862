"""SAEDashboard's and Neuronpedia's own models take the rows we write for Neuronpedia."""

import gzip
import json

import pytest

pytest.importorskip("sae_dashboard", reason="only `make test-peers` has SAEDashboard and Neuronpedia's client")

from neuronpedia.np_activation import Activation
from neuronpedia.np_feature import Feature, Logit
from neuronpedia.requests.feature_request import FeatureRequest
from neuronpedia.types.common.activation import NPActivation
from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch

from exemplar_partitioning.exchange.export import export


@pytest.fixture(scope="module")
def home(dictionary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "np"
    export(dictionary, "neuronpedia", folder)
    (home,) = folder.glob("*/*")
    return home


def rows(home, kind):
    for file in sorted((home / kind).glob("batch-*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def as_dashboard(feature, activations):
    """A feature as SAEDashboard has it before its own export renames the fields to those of the import."""
    renamed = {"qualifying_token_index": "qualifyingTokenIndex", "bin_min": "binMin", "bin_max": "binMax"}
    renamed |= {"bin_contains": "binContains", "tokens": "tokens", "values": "values"}
    kept = ("pos_str", "pos_values", "neg_str", "neg_values", "frac_nonzero", "vector")
    kept += ("freq_hist_data_bar_values", "freq_hist_data_bar_heights")
    return {
        "feature_index": int(feature["index"]),
        **{name: feature[name] for name in kept},
        "activations": [{name: row[field] for name, field in renamed.items()} for row in activations],
    }


def test_saedashboard_takes_every_feature_and_gives_the_same_back(dictionary, home):
    examples = {}
    for row in rows(home, "activations"):
        examples.setdefault(row["index"], []).append(row)
    given = [as_dashboard(row, examples.get(row["index"], [])) for row in rows(home, "features")]
    batch = NeuronpediaDashboardBatch(model_id=home.parent.name, layer=1, sae_set="ep-p2", features=given)
    assert len(batch.features) == dictionary.k
    for before, after in zip(given, batch.to_dict()["features"], strict=True):
        assert before == {name: after[name] for name in before}


def test_neuronpedias_client_takes_the_rows(home, monkeypatch):
    """Its upload of 128 features, but for the request itself, which goes no further than this test."""
    sent = {}
    monkeypatch.setattr(FeatureRequest, "__init__", lambda self: None)
    monkeypatch.setattr(FeatureRequest, "send_request", lambda self, **request: sent.update(request))
    examples = {}
    for row in rows(home, "activations"):
        NPActivation(tokens=row["tokens"], values=row["values"])
        activation = Activation.from_np_db_json({**row, "source": row["layer"]})
        examples.setdefault(int(row["index"]), []).append(activation)
    features = [
        Feature(
            modelId=row["modelId"],
            source=row["layer"],
            index=int(row["index"]),
            density=row["frac_nonzero"],
            top_logits=[Logit(*pair) for pair in zip(row["pos_str"], row["pos_values"], strict=True)],
            bottom_logits=[Logit(*pair) for pair in zip(row["neg_str"], row["neg_values"], strict=True)],
            activations=examples.get(int(row["index"]), []),
        )
        for row in rows(home, "features")
    ]
    FeatureRequest().upload_batch(home.parent.name, home.name, features[:128])
    assert len(sent["json"]["features"]) == 128
    json.dumps(sent["json"], allow_nan=False)
