"""Published pickles as data, hostile ones refused; autoencoders of others by our own readers."""

import contextlib
import copyreg
import io
import json
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

import exemplar_partitioning as ep
from exemplar_partitioning.cli import app
from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.exchange.from_paper import import_published
from exemplar_partitioning.exchange.from_sae import load_sae
from exemplar_partitioning.exchange.pickles import Record, read_pickle


@pytest.fixture
def classes(monkeypatch):
    """Stand-ins for the two record classes of the paper's package, to pickle with; they are gone when it is read."""
    module = types.ModuleType("ep.discovery.dictionary")
    for name in ("Dictionary", "Partition"):
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
    for parent in ("ep", "ep.discovery", "ep.discovery.dictionary"):
        monkeypatch.setitem(sys.modules, parent, module if parent.endswith("dictionary") else types.ModuleType(parent))
    return module


def instance(cls, **fields):
    made = cls()
    made.__dict__.update(fields)
    return made


@pytest.fixture(scope="module")
def built(tiny_folder, text_file, tmp_path_factory):
    """A dictionary of a tiny model in bfloat16, as the published ones are."""
    out = tmp_path_factory.mktemp("import") / "built"
    options = {"calibration_batch": 500, "calibration_sample": 1000, "context_size": 32, "max_tokens": 4000}
    model = ep.load_model(str(tiny_folder), dtype="bfloat16")
    ep.build(model, [text_file], out=out, sites="resid_post.1", percentiles=[10], **options)
    return model, ep.load(out)


def as_published(classes, built):
    """The dictionary as protocols 1.2 to 1.5 describe the objects that were pickled."""
    model, dictionary = built
    rng = np.random.default_rng(0)
    regions = []
    for row, e_d in zip(dictionary.regions.to_pylist(), dictionary.exemplars.numpy(), strict=True):
        prompt = model.tokenizer.decode(row["window_tokens"][1:])
        position = len(row["window_tokens"]) - 1  # BOS, which was put in front, is at 0
        regions.append(
            instance(
                classes.Partition,
                member_count=row["arrivals"],
                exemplar_direction=e_d,
                mean_member_direction=e_d.copy(),
                member_coherence=np.float64(0.5),
                source_iterations={0, 3},
                constituent_sample_indices=[row["arrival_index"], row["arrival_index"] + 5],
                nearest=[(-0.25, 7, "another text", 2), (-0.0, 1, prompt, position)],
                farthest=[(0.5, 9, "far away", 1)],
                reservoir=[rng.standard_normal(24).astype(np.float32) for _ in range(3)],
                label=None,
            )
        )
    return instance(
        classes.Dictionary,
        center=dictionary.center.numpy(),
        threshold=np.float32(dictionary.threshold),
        merge_close=False,
        partitions=regions,
        exemplars=np.asfortranarray(np.vstack([dictionary.exemplars.numpy(), np.empty((3, 24), np.float32)])),
        last_new_rate=0.0,
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_published_pickle_becomes_a_folder_of_ours(classes, built, tmp_path, protocol, monkeypatch):
    model, dictionary = built
    file = tmp_path / "tiny_layer1.pkl"
    file.write_bytes(pickle.dumps(as_published(classes, built), protocol=protocol))
    monkeypatch.delitem(sys.modules, "ep.discovery.dictionary")
    folder = import_published(file, tmp_path / "out", model=model, site="resid_post.1", percentile=10)
    assert folder == tmp_path / "out" / "resid_post.1" / "p10"
    imported = ep.load(tmp_path / "out", percentile=10)
    assert torch.equal(imported.exemplars, dictionary.exemplars)
    assert torch.equal(imported.center, dictionary.center)
    assert imported.threshold == pytest.approx(dictionary.threshold, rel=1e-7)
    assert imported.config.model == dictionary.config.model
    same = ["region", "content_id", "token_id", "arrival_index", "arrivals", "window_tokens"]
    assert imported.regions.select(same).equals(dictionary.regions.select(same))
    np.testing.assert_allclose(imported.regions["raw_norm"], dictionary.regions["raw_norm"], rtol=0.02)  # bf16, batches
    assert imported.typical_norm == pytest.approx(dictionary.typical_norm, rel=0.02)
    with ep.steer(model, imported, 1, alpha=1), torch.no_grad():
        model.model(torch.tensor([[0, 5, 6]]))


def test_without_the_model_what_the_pickle_lacks_stays_unknown(classes, built, tmp_path):
    file = tmp_path / "tiny_layer1.pkl"
    file.write_bytes(pickle.dumps(as_published(classes, built)))
    described = {"config": {"model": "org/tiny", "layer": 1, "percentile": 2.5, "ctx": 32, "seed": 3}}
    described["discovery"] = {"saturated": True}
    (tmp_path / "metadata.json").write_text(json.dumps(described))
    arguments = ["import", str(file), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and str(tmp_path / "out/resid_post.1/p2.5") in done.output.replace("\n", "")
    imported = ep.load(tmp_path / "out")
    assert imported.config.model.id == "org/tiny" and imported.config.build.stopped == "saturated"
    assert imported.regions["context"][0].as_py() and imported.regions["token"][0].as_py() == ""
    assert torch.equal(imported.assign(built[1].exemplars + imported.center)[0], torch.arange(imported.k))
    with pytest.raises(EPError, match="--model"):
        _ = imported.typical_norm
    with pytest.raises(EPError, match="exists already"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("where", ["the pickle", "metadata.json"])
def test_context_and_batch_are_those_of_the_file(classes, built, tmp_path, where):
    said = {"context_length": 64, "model_batch_size": 10}
    whole, described = as_published(classes, built), {"config": {"layer": 1, "percentile": 10}}
    if where == "the pickle":
        whole.__dict__.update(said)
        described["discovery_config"] = {"seed": 3}
    else:
        whole.__dict__["context_length"] = 99  # what the run says of itself goes before
        described["discovery_config"] = said
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(whole))
    (tmp_path / "metadata.json").write_text(json.dumps(described))
    arguments = ["import", str(tmp_path / "x.pkl"), "--out", str(tmp_path / "out"), "--dtype", "float16"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    config = ep.load(tmp_path / "out").config
    assert (config.text.context_size, config.calibration.batch, config.model.dtype) == (64, 640, "float16")


def test_what_is_missing_is_named(classes, built, tmp_path):
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(as_published(classes, built)))
    with pytest.raises(EPError, match="--percentile"):
        import_published(file, tmp_path / "out")
    with pytest.raises(EPError, match="--site"):
        import_published(file, tmp_path / "out", percentile=2)
    with pytest.raises(EPError, match=r"resid_post\.12"):
        import_published(file, tmp_path / "out", percentile=2, site="../../x")
    file.write_bytes(pickle.dumps({"center": 1}))
    with pytest.raises(DataError, match="holds no dictionary"):
        import_published(file, tmp_path / "out", percentile=2, site="resid_post.1")
    assert not (tmp_path / "out").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(-(2**60) + 1, 2**60 - 1), inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=150)
@given(value=VALUES, protocol=st.integers(2, 5))
def test_plain_data_is_what_it_was(value, protocol, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "value.pkl"
    file.write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_pickle(file) == value


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_are_what_they_were(tmp_path, dtype, order, protocol):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    file = tmp_path / "array.pkl"
    file.write_bytes(pickle.dumps([array, array[0, 1]], protocol=protocol))
    found, scalar = read_pickle(file)
    found = getattr(found, "value", found)
    assert found.dtype == array.dtype and np.array_equal(found, array) and scalar == array[0, 1]


class _Calls:
    """An object whose pickle calls something when it is loaded."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class _Hooked:
    pass


def _setstate_hook():
    """A record whose BUILD would call os.system if `__setstate__` were taken from its fields."""
    machine = io.BytesIO()
    machine.write(b"\x80\x04\x8c\x17ep.discovery.dictionary\x8c\x09Partition\x93)\x81")
    machine.write(b"}\x8c\x0c__setstate__cos\nsystem\nsb\x8c\x04true" + b"b.")
    return machine.getvalue()


def _extension(name):
    copyreg.add_extension("os", "system", 0x7F)
    try:
        return pickle.dumps(os.system, protocol=2)
    finally:
        copyreg.remove_extension("os", "system", 0x7F)


HOSTILE = {
    "os.system by REDUCE": pickle.dumps(_Calls(os.system, ("touch PWNED",))),
    "os.system by REDUCE, protocol 0": b"cos\nsystem\n(S'touch PWNED'\ntR.",
    "eval": pickle.dumps(_Calls(eval, ("open('PWNED', 'w')",))),
    "nested getattr": pickle.dumps(_Calls(getattr, (_Calls(__import__, ("os",)), "system"))),
    "a dotted name in the record's package": b"\x80\x04\x8c\x02ep\x8c\x09os.system\x93.",
    "a module that only begins alike": b"\x80\x04\x8c\x04epos\x8c\x06system\x93.",
    "BUILD with __setstate__": _setstate_hook(),
    "BUILD of a type": b"\x80\x02cnumpy\nndarray\n}b.",
    "EXT1": _extension("os.system"),
    "EXT2": b"\x80\x02\x83\x7f\x00.",
    "EXT4": b"\x80\x02\x84\x7f\x00\x00\x00.",
    "INST": b"(S'touch PWNED'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch PWNED'\no.",
    "NEWOBJ of a type": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04\x8c\x02ep\x8c\x01D\x93)}\x92.",
    "a persistent id": b"\x80\x02Pos\n.",
    "a call of a string": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "a call of a record": b"\x80\x04\x8c\x02ep\x8c\x01D\x93)\x81)R.",
    "an array of objects": pickle.dumps(np.array([_Hooked], dtype=object)),
    "a subclass of an array": b"\x80\x02cnumpy\nmatrix\n.",
    "a type": pickle.dumps(types.SimpleNamespace),
    "truncated": pickle.dumps([1, 2, 3])[:-3],
    "empty": b"",
    "no pickle": b"PK\x03\x04 what is this",
    "a stack that is too short": b"\x80\x02\x86.",
    "a memo that is not there": b"\x80\x02h\x05.",
    "a mark that is not there": b"\x80\x02t.",
    # sizes that are declared and not there: nothing of that size may be allocated
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "text of 2**62": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "bytearray of 2**40": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "a number of 2**31 bytes": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
    "a memo of 2**32 places": b"\x80\x02Nr\xff\xff\xff\xff0.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_and_nothing_happens(tmp_path, monkeypatch, name):
    import tracemalloc

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "hostile.pkl"
    file.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as refused:
            read_pickle(file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert len(str(refused.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.pkl"]


def array_of(shape, content, dtype="f4"):
    """The pickle of an array with a shape of its own."""
    raw = pickle.dumps((dtype, shape, content), protocol=2)
    body = raw[2:-1]  # without PROTO and STOP: a tuple (dtype, shape, content) on the stack
    assert body
    made = io.BytesIO()
    made.write(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01")
    made.write(pickle.dumps(shape, protocol=2)[2:-1])
    made.write(b"cnumpy\ndtype\nX" + struct.pack("<I", len(dtype)) + dtype.encode() + b"\x89\x88\x87R")
    made.write(b"\x89C" + bytes([len(content)]) + content + b"tb.")
    return made.getvalue()


@pytest.mark.parametrize(
    "pickled",
    [
        array_of((1 << 40, 1 << 40), bytes(16)),
        array_of((-1, 4), bytes(16)),
        array_of((5,), bytes(16)),
        array_of((4,), bytes(16), dtype="O8"),
        array_of((1,), bytes(16), dtype="V99"),
    ],
)
def test_arrays_whose_shape_is_not_that_of_their_bytes(tmp_path, pickled):
    file = tmp_path / "array.pkl"
    file.write_bytes(pickled)
    with pytest.raises(DataError):
        read_pickle(file)


def test_such_an_array_with_a_fitting_shape_is_read(tmp_path):
    (tmp_path / "array.pkl").write_bytes(array_of((2, 2), np.arange(4, dtype="f4").tobytes()))
    assert read_pickle(tmp_path / "array.pkl").value.tolist() == [[0, 1], [2, 3]]


def test_nesting_that_doubles_at_every_step_takes_no_time_and_no_memory(tmp_path):
    doubled = b"\x80\x02)" + b"q\x00h\x00\x86" * 200  # tuples of itself, 2**200 leaves
    file = tmp_path / "bomb.pkl"
    file.write_bytes(doubled + b".")
    assert isinstance(read_pickle(file), tuple)
    for ending in (b")R.", b"}\x86R.", b"\x8fq\x01(h\x00\x90.", b"}q\x01h\x00Ns."):  # called, as a key, in a set
        file.write_bytes(doubled + ending)
        with pytest.raises(DataError):
            read_pickle(file)


def test_bytes_that_are_made_again_and_again_are_refused(tmp_path):
    text = "x" * 10_000
    again = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text.encode() + b"q\x01"
    again += b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R" * 500
    file = tmp_path / "again.pkl"
    file.write_bytes(b"\x80\x02" + again + b".")
    with pytest.raises(DataError, match="more data than the file"):
        read_pickle(file)


def test_records_are_no_instances_of_anything(classes, tmp_path):
    file = tmp_path / "record.pkl"
    file.write_bytes(pickle.dumps(instance(classes.Partition, a=1, __class__=2), protocol=4))
    assert read_pickle(file) == Record("ep.discovery.dictionary.Partition", {"a": 1, "__class__": 2})


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_damaged_pickle_is_an_error_or_data_but_nothing_else(data, tmp_path_factory):
    whole = pickle.dumps(
        {"a": [np.arange(5, dtype="f4"), "text", (1, 2.0, {3})]}, protocol=data.draw(st.integers(2, 5))
    )
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.pkl"
    file.write_bytes(damaged)
    with contextlib.suppress(DataError):
        read_pickle(file)


class TestAutoencoders:
    """Against their definitions; against the libraries that write them: tests/peers/sae_lens."""

    D, F = 6, 20

    def tensors(self):
        generator = torch.Generator().manual_seed(0)
        shapes = {"W_enc": (self.D, self.F), "b_enc": (self.F,), "W_dec": (self.F, self.D), "b_dec": (self.D,)}
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    def saelens(self, folder, tensors, **config):
        folder.mkdir()
        save_file(tensors, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps({"architecture": "standard", **config}))
        return load_sae(folder)

    def test_our_own_export_is_our_own_readout(self, tmp_path, built):
        _, dictionary = built
        x_nd = torch.randn(50, 24, generator=torch.Generator().manual_seed(0))
        for to in ("saelens", "sparsify"):
            from exemplar_partitioning.exchange.export import export

            export(dictionary, to, tmp_path / to)
            sae = load_sae(tmp_path / to)
            torch.testing.assert_close(sae.encode(x_nd), dictionary.encode(x_nd), atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(sae.decode(sae.encode(x_nd)), dictionary.decode(dictionary.encode(x_nd)))
        assert load_sae(tmp_path / "saelens").site == "blocks.1.hook_resid_post"

    def test_gemma_scope_files_of_both_kinds(self, tmp_path):
        tensors = {**self.tensors(), "threshold": torch.rand(self.F)}
        small = {name.lower(): tensor.contiguous() for name, tensor in tensors.items()}
        (tmp_path / "layer_3_width_16k_l0_medium").mkdir()
        save_file(small, tmp_path / "layer_3_width_16k_l0_medium" / "params.safetensors")
        config = {
            "architecture": "jump_relu",
            "model_name": "google/gemma-3-270m",
            "hf_hook_point_in": "model.layers.3",
        }
        (tmp_path / "layer_3_width_16k_l0_medium" / "config.json").write_text(json.dumps(config))
        np.savez(tmp_path / "params.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
        x_nd = torch.randn(30, self.D)
        pre_nf = x_nd @ tensors["W_enc"] + tensors["b_enc"]
        expected_nf = torch.where(pre_nf > tensors["threshold"], pre_nf, torch.tensor(0.0))
        for path in (tmp_path / "params.npz", tmp_path / "layer_3_width_16k_l0_medium"):
            torch.testing.assert_close(load_sae(path).encode(x_nd), expected_nf)
        assert load_sae(path).model == "google/gemma-3-270m"

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            ({"architecture": "gated"}, "gated"),
            ({"normalize_activations": "layer_norm"}, "layer_norm"),
            ({"architecture": "topk"}, "topk"),
            ({"architecture": "topk", "k": 99}, "k must lie"),
            ({"architecture": "jumprelu"}, "threshold"),
        ],
    )
    def test_what_cannot_be_read_is_said(self, tmp_path, config, match):
        with pytest.raises(EPError, match=match):
            self.saelens(tmp_path / "sae", self.tensors(), **config)

    def test_damaged_files(self, tmp_path):
        tensors = self.tensors()
        with pytest.raises(DataError, match="W_dec must have shape"):
            self.saelens(tmp_path / "a", {**tensors, "W_dec": torch.zeros(3, self.D)})
        with pytest.raises(DataError, match="holds no b_dec"):
            self.saelens(tmp_path / "b", {name: t for name, t in tensors.items() if name != "b_dec"})
        (tmp_path / "b" / "sae_weights.safetensors").write_bytes(b"\xff" * 40)
        with pytest.raises(DataError, match="cannot be read"):
            load_sae(tmp_path / "b")
        (tmp_path / "params.npz").write_bytes(b"PK no")
        with pytest.raises(DataError, match="cannot be read as arrays"):
            load_sae(tmp_path / "params.npz")
        np.savez(tmp_path / "params.npz", w_enc=np.array([_Hooked], dtype=object))
        with pytest.raises(DataError, match="cannot be read as arrays"):
            load_sae(tmp_path / "params.npz")
        with pytest.raises(EPError, match="holds no autoencoder"):
            load_sae(tmp_path / "nowhere" / "x")
