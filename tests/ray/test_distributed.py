"""Many workers, one stream (L1, L4): whatever they know and whenever they answer, the dictionaries are the same."""

import copy
import pickle
import socket
import sys

import numpy as np
import pytest
import torch
import transformers

import exemplar_partitioning as ep
from exemplar_partitioning.building.growing import Growing, decided, end
from exemplar_partitioning.building.settings import BuildSettings
from exemplar_partitioning.core.leader import LeaderClustering
from exemplar_partitioning.errors import DataError, EPError, ResourceError
from exemplar_partitioning.ray.deciding import NOTHING, Ahead, settle
from exemplar_partitioning.ray.identity import check
from exemplar_partitioning.ray.pool import _count, connected
from exemplar_partitioning.ray.snapshot import Snapshots
from exemplar_partitioning.ray.team import Ray, team
from exemplar_partitioning.ray.wire import News, Proposal, Segment, Windows
from exemplar_partitioning.stream import Chunk
from exemplar_partitioning.text.windows import Window

D = 6
SPECIAL = frozenset({0})


def stream(rng, chunks):
    """Chunks of windows of all lengths and their activations at two sites: clouds, copies, rows without a direction."""
    told = []
    clouds = rng.normal(size=(40, D)).astype(np.float32)
    for index in range(chunks):
        lengths = rng.integers(1, 60, size=int(rng.integers(1, 80)))
        windows = [Window(f"{index}:{i}", 0, rng.integers(1, 50, n).astype(np.int32), 0) for i, n in enumerate(lengths)]
        for window in windows:
            window.ids[0] = 0 if len(window.ids) > 1 else 1
        chunk = Chunk(windows, SPECIAL, 0, 0, f"digest {index}", "text" if index == chunks - 1 else None)
        n = len(chunk.kept)
        x = {}
        for site in ("a", "b"):
            x_nd = clouds[rng.integers(0, 40, n)] + 0.2 * rng.normal(size=(n, D)).astype(np.float32)
            x_nd[rng.random(n) < 0.02] = rng.choice([np.nan, np.inf, 0.0])
            copies = rng.random(n) < 0.1
            x_nd[copies] = clouds[rng.integers(0, 40, copies.sum())]
            x[site] = torch.from_numpy(x_nd.astype(np.float32))
        told.append((chunk, x))
    return told


def dictionaries(window, until):
    settings = BuildSettings.model_construct(saturation_window=window, until_unseen=until, strict=False)
    center = torch.full((D,), 0.05)
    return [
        Growing(site=site, percentile=p, clustering=LeaderClustering(center, threshold), settings=settings)
        for site in ("a", "b")
        for p, threshold in ((1.0, 0.02), (10.0, 0.3))
    ]


def state(growing):
    """Everything a checkpoint or a dictionary's folder has of it."""
    arrays = {name: array.tolist() for name, array in growing.arrays().items()}
    c = growing.clustering
    tokens = [(p.document, p.position, p.window_tokens.tolist(), p.raw_norm) for p in growing.provenance]
    return arrays, c.position, c.skipped, list(growing.growth), growing.stopped, growing.digest, tokens


def single(told, growing):
    """One process; yields after each chunk."""
    for _ in decided(((chunk, dict(x)) for chunk, x in told), growing, "cpu"):
        yield [state(one) for one in growing]


class Owner:
    """The bookkeeping of an owner, without Ray between it and its workers; everything is sent as bytes."""

    def __init__(self, growing, rng):
        self.growing, self.rng = growing, rng
        self.ahead = [Ahead.of(one, "cpu") for one in growing]
        self.news = []
        self.closed = [set() for _ in growing]

    def hire(self):
        return Snapshots(sent([one.known(np.zeros(0, np.int64)) for one in self.ahead]), "cpu"), len(self.news)

    def tell(self, worker, told, up_to):
        worker.learn(sent(self.news[told:up_to]))
        return max(told, up_to)

    def decide(self, chunk, proposal):
        proposal.check(len(chunk.kept), D, [(one.site, one.clustering.k) for one in self.ahead], "host")
        made = [NOTHING if one.stopped else one.decide(chunk, proposal, i) for i, one in enumerate(self.ahead)]
        closed = [np.flatnonzero(one.clustering.sole_counts >= 2) for one in self.growing]
        self.news.append(News([m.exemplars.reshape(-1, D).numpy() for m in made], [m.births for m in made], closed))
        return made

    def settle(self, chunk, made, skipped, segments):
        for one, ahead, decision, found in zip(self.growing, self.ahead, made, segments, strict=True):
            if not one.stopped:
                settle(one, decision, found, skipped[one.site], "host")
                ahead.stopped = one.stopped or ahead.stopped
        end(self.growing, chunk)


def sent(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("window", "until"), [(10**6, None), (2000, None), (700, 0.02)])
def test_lag_order_and_loss_leave_no_trace(seed, window, until):
    """Workers with snapshots of any age, that answer in any order and die between their answers."""
    rng = np.random.default_rng(seed)
    told = stream(rng, 7)
    expected = list(single(told, dictionaries(window, until)))
    growing = dictionaries(window, until)
    first = int(rng.integers(0, 3))  # chunks that one process has clustered before
    for _ in zip(range(first), single(told, growing), strict=False):
        pass
    if first and all(one.stopped for one in growing):
        return
    owner = Owner(growing, rng)
    workers = [list(owner.hire()) for _ in range(3)]
    position = sum(len(chunk.kept) for chunk, _ in told[:first])
    index = first
    while index < len(told):
        flying = []
        for at in range(index, min(index + int(rng.integers(1, 6)), len(told))):
            worker = workers[rng.integers(3)]
            worker[1] = owner.tell(*worker, int(rng.integers(worker[1], len(owner.news) + 1)))
            chunk, x = told[at]
            windows = sent(Windows.of(chunk))
            assert (windows.chunk.kept == chunk.kept).all()
            active = [not one.stopped for one in owner.ahead]
            proposal = sent(worker[0].propose(at, copy.deepcopy(x), position, active))
            flying.append((at, chunk, worker, position, proposal))
            position += len(chunk.kept)
        made = [owner.decide(chunk, proposal) for _, chunk, _, _, proposal in flying]
        answers = {}
        for i in rng.permutation(len(flying)):
            at, _, worker, start, _ = flying[i]
            cuts = sent([m.cuts for m in made[i]])
            if rng.random() < 0.3:  # its worker died; another does it again, from what is known now
                fresh, _ = owner.hire()
                fresh.hold(at, copy.deepcopy(told[at][1]), start)
                answers[i] = sent(fresh.settle(at, cuts))
            else:
                needed = len(owner.news) - len(flying) + int(i) + 1  # with what became of this chunk
                worker[1] = owner.tell(*worker, int(rng.integers(max(needed, worker[1]), len(owner.news) + 1)))
                answers[i] = sent(worker[0].settle(at, cuts))
        for i, (at, chunk, _, _, proposal) in enumerate(flying):
            owner.settle(chunk, made[i], proposal.skipped, answers[i])
            assert [state(one) for one in growing] == expected[at]
        index += len(flying)
    if until:
        assert {one.stopped for one in growing} - {"text"}


def proposal(**change):
    rows = {"a": np.array([1, 4], np.int32)}
    given = {
        "rows": rows,
        "x": {"a": np.ones((2, D), np.float32)},
        "skipped": {"a": np.array([2], np.int32)},
        "known": [3],
        "uncovered": [np.array([0, 1], np.int32)],
    }
    return Proposal(**given | change)


@pytest.mark.parametrize(
    "change",
    [
        {"x": {"a": np.full((2, D), np.nan, np.float32)}},
        {"x": {"a": np.ones((2, D + 1), np.float32)}},
        {"x": {"a": np.ones((1, D), np.float32)}},
        {"rows": {"a": np.array([1, 5], np.int32)}},
        {"rows": {"a": np.array([4, 1], np.int32)}},
        {"rows": {"a": np.array([-1, 1], np.int32)}},
        {"skipped": {"a": np.array([4], np.int32)}},
        {"rows": {}},
        {"known": [4]},
        {"known": [3, 3]},
        {"uncovered": [np.array([0, 2], np.int32)]},
    ],
)
def test_nonsense_is_refused_with_the_host_named(change):
    proposal().check(5, D, [("a", 3)], "host-7")
    with pytest.raises(DataError, match=r"worker on host-7 .* broken.*--resume, without that host"):
        proposal(**change).check(5, D, [("a", 3)], "host-7")


def test_counts_must_add_up():
    ids, alone = np.array([3, -1, 3, 0, 3]), np.array([True, False, True, False, True])
    arrivals, soles = Segment.of(ids, alone).dense(4, 4, "h")
    assert arrivals.tolist() == [1, 0, 0, 3] and soles.tolist() == [0, 0, 0, 2]
    for rows, k in ((3, 4), (5, 4), (4, 3)):
        with pytest.raises(DataError, match="add up"):
            Segment.of(ids, alone).dense(rows, k, "h")


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EPError, match=r"Ray, which is not installed .*pip install 'exemplar-partitioning\[ray\]'"):
        connected("local", 1).__enter__()


def test_a_cluster_that_is_not_there():
    with pytest.raises(ResourceError, match=r"no Ray cluster at '127.0.0.1:1'.*ray start --head.*--ray local"):
        connected("127.0.0.1:1", 1).__enter__()


@pytest.mark.parametrize(
    "local, raised, said",
    [
        (True, TimeoutError("The current node timed out during startup."), "out of memory, or busy"),
        (False, RuntimeError("Unauthenticated: InvalidAuthToken: bad token"), "wants a token: set RAY_AUTH_MODE=token"),
        (False, ConnectionError("no answer"), "ray start --head"),
    ],
)
def test_what_ray_raises_is_said_with_what_helps(monkeypatch, local, raised, said):
    """As Ray raised them; a cluster that does so takes minutes to come about."""
    ray = pytest.importorskip("ray")

    def init(**_):
        raise raised

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ResourceError, match=said) as told:
        connected("local" if local else f"127.0.0.1:{server.getsockname()[1]}", 1).__enter__()
    assert not (local and "--ray local" in str(told.value))


def test_workers_need_room():
    assert _count({"CPU": 16.0}, {"CPU": 4.0}, None) == 4
    assert _count({"CPU": 16.0, "GPU": 3.0}, {"CPU": 1.0, "GPU": 1.0}, None) == 3
    with pytest.raises(ResourceError, match=r"has 16 CPUs, but a worker needs 4 CPUs: .*room for 4, not for 5"):
        _count({"CPU": 16.0}, {"CPU": 4.0}, 5)
    with pytest.raises(ResourceError, match=r"0 GPUs, but a worker needs 1 CPU and 1 GPU"):
        _count({"CPU": 16.0}, {"CPU": 1.0, "GPU": 1.0}, None)
    with pytest.raises(EPError, match="workers is 0"):
        Ray("local", 0)


def test_a_model_object_is_refused(tiny_folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    loaded = ep.load_model(model, tokenizer=transformers.AutoTokenizer.from_pretrained(tiny_folder))
    with pytest.raises(EPError, match=r"name or path, and got a model object .*save_pretrained"):
        team(Ray("local"), object, loaded, ["resid_post.0"], batch_size=1, context_size=4).__enter__()


def test_a_worker_that_differs_is_refused_with_both_sides_named():
    mine = {"torch": "2.13", "model": "abc", "dtype": "float32", "activations": "1" * 64}
    check(mine, dict(mine), "h")
    with pytest.raises(EPError, match=r"on gpu-3 .*torch 2\.12 there, 2\.13 here"):
        check(mine, {"torch": "2.12"}, "gpu-3")
    with pytest.raises(EPError, match=r"model xyz there, abc here; dtype bfloat16 there, float32 here"):
        check(mine, mine | {"model": "xyz", "dtype": "bfloat16"}, "gpu-3")
    with pytest.raises(EPError, match="another kind of processor"):
        check(mine, mine | {"activations": "2" * 64}, "gpu-3")
