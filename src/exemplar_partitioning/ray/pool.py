"""Ray: a connection, a number of workers, the calls they have, and what is left of these when one dies.

Nothing is retried here: a lost worker's calls are given back to who made them, and another worker takes its place
where the cluster has room for one.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ..demo.wheels import to_stderr
from ..errors import EPError, ResourceError
from ..quiet import first_line, native_errors
from .identity import check
from .wire import Task, size

_CONNECT_SECONDS = 10.0  # for a connection to an address
_JOIN_SECONDS = 600.0  # for any worker to be there, its model loaded
_PATIENCE = 20.0  # before it is said of one that it is not there yet
_LOOK_SECONDS, _GONE_SECONDS = 2.0, 20.0  # between two looks at the cluster, and how long it may not answer; Ray ends
# the process itself after 60
_WHERE, _PREPARE = "where", "prepare"  # keys of the first two calls of every worker
_LOSSES = 5  # workers lost in a row, nothing done between: then it is no accident


@dataclass(eq=False)
class Hand:
    """A worker. where: its host, once it is known.  calls: keys of what it was given and has not returned.

    Attributes:
        informed: how much of the news it was given; for its owner to keep.
        since: when it was asked for.
    """

    actor: Any
    where: str = "a host not known yet"
    node: str = ""
    ready: bool = False
    calls: list[Any] = field(default_factory=list)
    informed: int = 0
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Done:
    """A call that returned; its value stays where it was made until `Pool.get` fetches it."""

    hand: Hand
    key: Any
    ref: Any


@dataclass(frozen=True)
class Lost:
    """A worker that is gone, with the keys of the calls it had."""

    hand: Hand
    keys: list[Any]


@contextmanager
def connected(address: str, cpus: int) -> Iterator[Any]:
    """The ray module, connected; a process that is connected already stays so.

    `local` is a cluster of so many CPUs in this machine, `auto` the one that `ray start` has started or
    joined here, never one that another process has for itself; else the address is `host:port`.

    Raises:
        EPError: Ray is not installed.
        ResourceError: it cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise EPError(
            f"--ray needs Ray, which is not installed ({error}): pip install 'exemplar-partitioning[ray]' on every host"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options |= {"num_cpus": cpus, "include_dashboard": False}
    else:
        address = _started() if address == "auto" else address
        _reach(address)
    printed: Callable[[], str] = str
    try:
        with warnings.catch_warnings(), native_errors() as printed:
            warnings.simplefilter("ignore")
            ray.init(address=address, **options)
    except Exception as error:  # of many kinds, from several layers
        if "AuthToken" in printed() + str(error):
            raise ResourceError(
                f"the Ray cluster at {address!r} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH to the cluster's own, on every host"
            ) from error
        advice = (
            "Is the machine out of memory, or busy? Try again, or build without --ray"
            if address == "local"
            else "Start one with `ray start --head` and join it from every host, or use --ray local for one here"
        )
        raise ResourceError(f"no Ray cluster at {address!r}: {first_line(error)}. {advice}") from error
    # Deaths of workers are ours to tell; Ray would print them to the standard output, among JSON, and has no option.
    vars(import_module("ray._private.worker"))["_worker_logs_enabled"] = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _started() -> str:
    """Address of the cluster that `ray start` has started or joined on this machine, or that RAY_ADDRESS names."""
    named = os.environ.get("RAY_ADDRESS") or import_module("ray._private.services").find_bootstrap_address(None)
    if not named or named == "auto":
        raise ResourceError(
            "no Ray cluster was started on this machine: run `ray start --head` first, or use --ray local for "
            "one of this process alone, as other processes may have for themselves"
        )
    return named


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # a name, such as auto
    try:
        socket.create_connection((host.removeprefix("ray://").strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ResourceError(
            f"no Ray cluster at {address!r}: {error}. Start one with `ray start --head` on that host, or use "
            "--ray local for one in this machine"
        ) from error


class Pool:
    """A number of workers, all as their owner is.

    Args:
        ray: the module, connected.
        count: of workers; None for as many as the cluster has room for.
        kind: class of the workers, from worker.py.
        task: given to each.

    identity: of the owner, to be set before the first `poll`; a worker with another is refused.
    """

    identity: Mapping[str, str]

    def __init__(self, ray: Any, count: int | None, kind: type, task: Task):
        self.ray, self.task = ray, task
        each = {"CPU": float(task.threads)} | ({"GPU": 1.0} if task.device == "cuda" else {})
        self._each = _amounts(each)
        self._address = ray.get_runtime_context().gcs_address
        self.count = _count(ray.cluster_resources(), each, count)
        self._kind = ray.remote(
            num_cpus=each["CPU"],
            num_gpus=each.get("GPU", 0),
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(kind)
        self.hands: list[Hand] = []
        self.received = 0  # bytes of arrays
        self.lost = 0  # workers, ever
        self._in_a_row, self._why = 0, ""
        self._calls: dict[Any, tuple[Hand, Any]] = {}
        self._since = self._looked = time.monotonic()
        self._silent, self._announced = 0.0, False  # when the cluster first did not answer; a worker absent
        for _ in range(self.count):
            self._join()

    @property
    def ready(self) -> list[Hand]:
        """Workers that can take calls."""
        return [hand for hand in self.hands if hand.ready]

    def _join(self) -> None:
        hand = Hand(self._kind.remote())
        self.hands.append(hand)
        self._calls[hand.actor.where.remote()] = hand, _WHERE
        self._calls[hand.actor.prepare.remote(self.task)] = hand, _PREPARE

    def call(self, hand: Hand, key: Any, method: str, *given: Any) -> None:
        """Give a worker something to do; `poll` tells when it is done."""
        self._calls[getattr(hand.actor, method).remote(*given)] = hand, key
        hand.calls.append(key)

    def poll(self, seconds: float) -> list[Done | Lost | Hand]:
        """What happened, waiting at most so long for something: calls done, workers lost, workers that are ready now.

        Raises EPError for a worker that is not as its owner is, whatever a worker raised itself, and
        ResourceError if there are no workers to be had.
        """
        self._look()
        self._announce()
        if not self.ready and time.monotonic() - self._since > _JOIN_SECONDS:
            raise ResourceError(
                f"no worker was ready within {_JOIN_SECONDS:.0f} s: is the cluster busy with other work, or are its "
                "hosts gone? Everything so far is kept; go on with the same command and --resume"
            )
        done = self._wait(1, seconds) and self._wait(len(self._calls), 0)  # the second: whatever else is there already
        happened: list[Done | Lost | Hand] = []
        for ref in done:
            if ref not in self._calls:
                continue  # of a worker just lost
            hand, key = self._calls.pop(ref)
            if key not in (_WHERE, _PREPARE):
                hand.calls.remove(key)
                happened.append(Done(hand, key, ref))
            elif (answer := self._first(hand, key, ref)) is not None:
                happened.append(answer)
        return happened

    def _announce(self) -> None:
        """Say, once, which workers have no place yet, and why that may be."""
        now = time.monotonic()
        absent = [hand for hand in self.hands if not hand.node and now - hand.since > _PATIENCE]
        if not absent or self._announced:
            return
        self._announced = True
        free = self.ray.available_resources()
        meanwhile = "going on without" if self.ready else f"waiting up to {_JOIN_SECONDS:.0f} s"
        to_stderr(
            f"{len(absent)} of {self.count} workers not joined after {_PATIENCE:.0f} s: the cluster has "
            f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free, a worker needs {self._each}; "
            f"{meanwhile}"
        )

    def _look(self) -> None:
        """See, now and then, whether the cluster still answers: Ray would end the process without a word of ours."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _LOOK_SECONDS).close()
            self._silent = 0.0
        except OSError as error:
            self._silent = self._silent or now
            if now - self._silent > _GONE_SECONDS:
                raise _gone(error) from error

    def _wait(self, count: int, seconds: float) -> list[Any]:
        if not self._calls:
            time.sleep(seconds)
            return []
        try:
            return self.ray.wait(list(self._calls), num_returns=count, timeout=seconds, fetch_local=False)[0]
        except self.ray.exceptions.RayError as error:
            raise _gone(error) from error

    def _first(self, hand: Hand, key: Any, ref: Any) -> Hand | Lost | None:
        """The first two answers of a worker: where it is, and what it is."""
        value = self.get(Done(hand, key, ref))
        if isinstance(value, Lost):
            return value
        if key == _WHERE:
            hand.where, hand.node = value
            return None
        check(self.identity, value, hand.where)
        hand.ready, self._since = True, time.monotonic()
        return hand

    def get(self, done: Done) -> Any:
        """The value of a call, or Lost if it is gone with its worker. Raises what the call raised."""
        try:
            value = self.ray.get(done.ref)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, EPError):
                raise type(cause)(f"the worker on {done.hand.where}: {cause}") from error
            raise cause from error
        except self.ray.exceptions.RayError as error:
            return self._lose(done, error)
        self.received += size(value)
        self._in_a_row = 0 if done.key not in (_WHERE, _PREPARE) else self._in_a_row
        return value

    def _lose(self, done: Done, error: Exception) -> Lost:
        hand = done.hand
        keys = [key for key in (done.key, *hand.calls) if key not in (_WHERE, _PREPARE)]
        if hand in self.hands:  # else known to be lost, and this an answer that it left behind
            self.hands.remove(hand)
            self._calls = {ref: (other, key) for ref, (other, key) in self._calls.items() if other is not hand}
            self.ray.kill(hand.actor)
            hand.ready = False
            self.lost += 1
            self._in_a_row += 1
            if not self.ready:
                self._since = time.monotonic()
            if self._in_a_row >= _LOSSES + 2 * self.count:
                raise ResourceError(
                    f"{self._in_a_row} workers were lost with nothing done between, the last on {hand.where}: "
                    f"{first_line(error)}. Is there memory for the model and a few chunks of "
                    "activations on every host? Everything so far is kept; go on with the same command and --resume"
                )
            self._join()
        hand.calls.clear()
        return Lost(hand, keys)

    def close(self) -> None:
        """Let the workers go, whatever they are doing."""
        for hand in self.hands:
            with suppress(Exception):  # the cluster may be gone
                self.ray.kill(hand.actor)
        self.hands.clear()
        self._calls.clear()


def _gone(error: Exception) -> ResourceError:
    return ResourceError(
        f"the Ray cluster is gone ({first_line(error)}); everything so far is kept, go on with the same command and "
        "--resume"
    )


def _amounts(each: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}{'s' * (amount != 1)}" for name, amount in each.items())


def _count(available: Mapping[str, float], each: Mapping[str, float], asked: int | None) -> int:
    room = int(min(available.get(name, 0.0) // amount for name, amount in each.items()))
    needs = _amounts(each)
    has = " and ".join(f"{available.get(name, 0.0):g} {name}s" for name in each)
    if room < (asked or 1):
        raise ResourceError(
            f"the Ray cluster has {has}, but a worker needs {needs}: there is room for {room}, not for {asked or 1}; "
            "lower --workers or --threads, or add hosts"
        )
    return asked or room
