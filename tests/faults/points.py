"""Every verb of the command line, disturbed at each of its writes in turn, then asked for the same again.

A hook of the interpreter (`sys.addaudithook`) sees files opened for writing, folders made, names changed and removed
below the folder of the output. At the n-th of these, before it happens: the process is killed, the disk is full from
here on, Ctrl-C is pressed, or somebody removes what a running build stands on. What can be loaded afterwards must be
whole; the same command must end in the bytes, and in no other files, than where nothing happened.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conftest import sentences, tiny_llama
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.listing import find

from .foreign import published
from .pool import PRELOAD, REFUSED, SAME, WRONG

SITE = "resid_post.1"
SECONDS = 600  # of a command; beyond, it hangs
_BUILD = (
    *("--site", SITE, "--max-tokens", "9000", "--calibration-batch", "1000", "--calibration-sample", "3000"),
    *("--saturation-window", "100000", "--threads", "1", "--checkpoint-seconds", "0", "--no-annotate"),
)
_WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree", "open"}
GONE = (".build", ".build/spill", ".build/lock", ".build/settings.json", ".build/checkpoint-*", "")

Outcome = tuple[str, str]


@dataclass(frozen=True)
class Verb:
    """A command line that writes; `{out}` in it is the folder, or stands before the name of the file, that it writes.

    before: makes the folder, if there is something in it beforehand.  again: words of a refusal that is no fault, once
    all is there.  cache: the folder is the user's cache, where what was killed may leave work in progress for a day.
    """

    name: str
    line: tuple[str, ...]
    before: Callable[[Path], object] = field(default=lambda out: None)
    again: tuple[str, ...] = ()
    cache: bool = False


def verbs(folder: Path) -> list[Verb]:
    """All that write, over one small model, its text and two builds, made in a folder."""
    text, more = folder / "corpus.jsonl", folder / "more.jsonl"
    _write_text(text, 300, 1)
    _write_text(more, 120, 2)
    tiny, built, plain, other, grown = (str(folder / name) for name in ("tiny", "built", "plain", "other", "grown"))
    tiny_llama(folder / "tiny")
    build = ("build", tiny, str(text), *_BUILD, "--percentile", "2,8")
    annotate = ("annotate", "--max-tokens", "3000", "--threads", "1", "--model", tiny)
    for line in (
        (*build, "--out", plain),
        (*build, "--out", built),
        (*annotate, built, str(text)),
        ("build", tiny, str(more), *_BUILD, "--percentile", "2", "--out", other),
        ("extend", built, str(more), "--model", tiny, "--max-tokens", "2000", "--out", grown),
        ("match", f"{built}/{SITE}/p2", f"{grown}/{SITE}/p2", "--out", str(folder / "matched")),
    ):
        ran = run(line, folder)
        assert ran.code == 0, ran.said
    (folder / "sweep.yaml").write_text("seed: [0, 1]\nmax_tokens: 3000\n")
    (folder / "a.pkl").write_bytes(published(30, 24))
    np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(3000, 12)).astype(np.float32))
    for name, word in (("with", "king"), ("without", "dog")):
        (folder / f"{name}.txt").write_text("\n".join(f"the {word} sings {line}" for line in sentences(12, 3)))
    one, two, apart = (f"{home}/{SITE}/p2" for home in (built, grown, other))

    def put(source: str) -> Callable[[Path], object]:
        return lambda out: shutil.copytree(source, out)

    def exported(to: str) -> Verb:
        return Verb(f"export --to {to}", ("export", one, "--to", to, "--out", "{out}/new"), _made)

    labelled = ("label", "{out}", "weekdays", "--region", "3", "--percentile", "2")
    ood = ("ood", "fit", "{out}", str(more), "--percentile", "2", "--false-alarms", "0.1", "--model", tiny)
    carry = (
        "transport",
        one,
        "--to-site",
        "resid_post.0",
        "--model",
        tiny,
        "--source-model",
        tiny,
        "--text",
        str(text),
    )
    steer = (
        *("steer", one, "--region", "3", "--alpha", "0.5", "--prompt", "the king", "--max-new-tokens", "3"),
        *("--model", tiny, "--save"),
    )
    there = ("exists already", "already")
    apart_texts = ("--positive", str(folder / "with.txt"), "--negative", str(folder / "without.txt"), "--name", "king")
    return [
        *(
            Verb(f"combine {name}", ("combine", name, two, b, "--out", "{out}"), again=there)
            for name, b in (("union", one), ("difference", one), ("intersection", one), ("merge", apart))
        ),
        Verb("match --out", ("match", one, apart, "--out", "{out}")),
        Verb("match --out, a second time", ("match", one, apart, "--out", "{out}"), put(str(folder / "matched"))),
        Verb("concept", ("concept", one, *apart_texts, "--model", tiny, "--out", "{out}/new"), _made, there),
        Verb("steer --save", (*steer, "{out}/new.safetensors"), _made, ("must be a new file",)),
        Verb("steer --save, for llama.cpp", (*steer, "{out}/new.gguf"), _made, ("must be a new file",)),
        Verb("match --row --out", ("match", one, grown, "--row", "--percentile", "2", "--out", "{out}")),
        Verb(
            "build of a sweep",
            ("build", tiny, str(text), *_BUILD, "--config", str(folder / "sweep.yaml"), "--out", "{out}", "--resume"),
        ),
        Verb("search", ("search", one, "king"), _made, cache=True),
        Verb("show demo", ("show", "demo", "--percentile", "4"), _made, cache=True),
        Verb("label", labelled, put(built)),
        Verb("ood fit", ood, put(built)),
        Verb(
            "import",
            ("import", str(folder / "a.pkl"), "--site", SITE, "--percentile", "2", "--out", "{out}"),
            again=there,
        ),
        *map(exported, ("saelens", "sparsify", "neuronpedia", "interp-engine", "saebench", "mib", "axbench")),
        Verb("build", (*build, "--out", "{out}", "--resume")),
        Verb(
            "extend",
            ("extend", built, str(more), "--model", tiny, "--max-tokens", "3000", "--out", "{out}", "--resume"),
        ),
        Verb(
            "build, annotated and kept",
            (*(word for word in build if word != "--no-annotate"), "--keep-activations", "--out", "{out}", "--resume"),
        ),
        Verb(
            "build of activations",
            (
                "build",
                "--activations",
                str(folder / "a.npy"),
                "--percentile",
                "5",
                "--threads",
                "1",
                "--out",
                "{out}",
                "--resume",
            ),
        ),
        Verb("annotate", (*annotate, "{out}", str(text)), put(plain), there),
        Verb("annotate --replace", (*annotate, "{out}", str(more), "--replace"), put(built)),
        Verb("transport", (*carry, "--max-tokens", "4000", "--out", "{out}"), again=there),
        Verb("figures", ("figures", built, "--out", "{out}", "--percentile", "2")),
        Verb("report", ("report", one, "--out", "{out}/new.html", "--top", "3"), _made),
        Verb(
            "evaluate --figure",
            (
                "evaluate",
                one,
                str(text),
                "--model",
                tiny,
                "--max-tokens",
                "1000",
                "-k",
                "1,2",
                "--figure",
                "{out}/new.svg",
            ),
            _made,
        ),
    ]


def _made(out: Path) -> None:
    out.mkdir()


def _write_text(path: Path, count: int, seed: int) -> None:
    import json

    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in sentences(count, seed)))


@dataclass(frozen=True)
class Ran:
    """How a command ended. writes: that were seen of it.  code: None if it was killed."""

    code: int | None
    said: str
    writes: int


def run(line: tuple[str, ...], folder: Path, out: Path | None = None, **given: Any) -> Ran:
    """A command in a process of its own; fault, at: disturbed so at the at-th write below `out`; cache: the user's."""
    return _ended(*_start(line, folder, out, **given))


def _start(
    line: tuple[str, ...], folder: Path, out: Path | None, *, fault: str = "", at: int = 0, cache: Path | None = None
) -> tuple[Any, Path]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "faults.points"])
    said = folder / f"said-{time.monotonic_ns()}.txt"
    words = tuple(word.replace("{out}", str(out)) for word in line)
    process = context.Process(target=_command, args=(words, said, cache or folder / "cache", out, fault, at))
    process.start()
    return process, said


def _ended(process: Any, path: Path) -> Ran:
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        return Ran(-1, f"no end within {SECONDS} s", 0)
    said = path.read_text(errors="replace") if path.exists() else ""
    path.unlink(missing_ok=True)
    said, _, writes = said.rpartition("writes: ")
    killed = process.exitcode == -signal.SIGKILL
    return Ran(None if killed else process.exitcode, said, int(writes) if writes.isdigit() else 0)


def _command(words: tuple[str, ...], said: Path, cache: Path, out: Path | None, fault: str, at: int) -> None:
    from exemplar_partitioning.cli import main

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {"EP_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "TERM": "dumb"}
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    hook = _Hook(str(out) if out else "\0", fault, at)
    sys.addaudithook(hook)
    sys.argv = ["ep", *words]
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    hook.over = True
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(handle, f"writes: {hook.seen}".encode())
    os._exit(code if isinstance(code, int) else 1 if code else 0)


class _Hook:
    """Counts writes below a folder, and does something at one of them."""

    def __init__(self, root: str, fault: str, at: int):
        self.root, self.fault, self.at = root, fault, at
        self.seen, self.over = 0, False

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if self.over or event not in _WRITES or not self._below(event, given):
            return
        self.seen += 1
        if not self.at or self.seen < self.at:
            return
        if self.fault == "full":
            if event in ("open", "os.mkdir", "os.link"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(given[0]))
        elif self.seen == self.at:
            self.over = True
            self._happen()
            self.over = False

    def _below(self, event: str, given: tuple[Any, ...]) -> bool:
        if event == "open" and not (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
        return any(isinstance(part, str | bytes | os.PathLike) and self.root in os.fsdecode(part) for part in given)

    def _happen(self) -> None:
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "interrupt":
            signal.raise_signal(signal.SIGINT)
        else:
            for path in Path(self.root).glob(self.fault) if self.fault else [Path(self.root)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def everything(out: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too; of files their bytes, but for the log that holds times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        if path.is_file() and path.name not in ("build.json", "run.yaml")
        else None
        for path in sorted(out.rglob("*"))
        if "staging" not in path.relative_to(out).parts
    }


class Trial:
    """A verb as it ends undisturbed, and as it ends otherwise."""

    def __init__(self, verb: Verb, folder: Path):
        self.verb, self.folder = verb, folder

    @cached_property
    def whole(self) -> tuple[int, dict[str, bytes | None]]:
        """How many writes it takes, and what is there then."""
        out = self._empty()
        ran = self._run(out)
        assert ran.code == 0, f"{self.verb.name}: {ran.said}"
        made = everything(out)
        shutil.rmtree(out)
        return ran.writes, made

    @property
    def writes(self) -> int:
        return self.whole[0]

    def _start(self, out: Path, **fault: Any) -> tuple[Any, Path]:
        return _start(self.verb.line, self.folder, out, cache=out if self.verb.cache else None, **fault)

    def _run(self, out: Path, **fault: Any) -> Ran:
        return _ended(*self._start(out, **fault))

    def _empty(self) -> Path:
        """The same place for all, as some files say where they were made."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        self.verb.before(out)
        return out

    def _fresh(self) -> Path:
        _ = self.whole
        return self._empty()

    def at(self, fault: str, points: int) -> Iterator[Outcome]:
        """The verb with a fault at each write, or at so many of them, spread evenly."""
        count = min(points, self.writes)
        for index in range(count):
            yield self._one(fault, 1 + index * self.writes // count)

    def _one(self, fault: str, at: int) -> Outcome:
        what = f"{self.verb.name}, {fault} at write {at} of {self.writes}"
        out = self._fresh()
        ran = self._run(out, fault=fault, at=at)
        if problem := _unclear(fault, ran) or _half(out):
            return WRONG, f"{what}: {problem}"
        return self._again(what, out)

    def _again(self, what: str, out: Path) -> Outcome:
        ran = self._run(out)
        if ran.code and not (ran.code == 2 and any(word in ran.said for word in self.verb.again)):
            return WRONG, f"{what}: the same again: {_last(ran)}"
        now = everything(out)
        expected = self.whole[1]
        if now != expected:
            names = sorted(name for name in now.keys() | expected if now.get(name, 0) != expected.get(name, 0))
            return WRONG, f"{what}: in the end others than the undisturbed: {', '.join(names[:5])}"
        return (REFUSED if ran.code else SAME), what

    def removed(self, pattern: str, points: int) -> Iterator[Outcome]:
        """Somebody removes what a running job stands on: it ends, or says what is the matter."""
        for index in range(points):
            at = 1 + index * self.writes // points
            what = f"{self.verb.name}, {pattern or 'the folder'} removed at write {at} of {self.writes}"
            out = self._fresh()
            ran = self._run(out, fault=pattern, at=at)
            if "Traceback" in ran.said or ran.code not in (0, 2, 3, 4):
                yield WRONG, f"{what}: {_last(ran)}"
            elif ran.code and not (out.exists() and (out / ".build").exists()):
                yield self._again(what, out)
            else:
                yield (REFUSED if ran.code else SAME), what

    def twice(self) -> Outcome:
        """Two of the same at once: one gets through at least, in the same bytes."""
        out = self._fresh()
        both = [self._start(out) for _ in range(2)]
        ran = [_ended(*one) for one in both]
        clear = all(one.code in (0, 2, 4) and "Traceback" not in one.said for one in ran)
        if not clear or all(one.code for one in ran):
            return WRONG, f"{self.verb.name} twice at once: {' | '.join(map(_last, ran))}"
        return self._again(f"{self.verb.name} twice at once", out)

    def dangling(self) -> Outcome:
        """The output is a link to nowhere: made there, or refused clearly."""
        out = self.folder / "out-dangling"
        out.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "nowhere", ignore_errors=True)
        out.symlink_to(self.folder / "nowhere")
        ran = self._run(out)
        out.unlink()
        clear = "Traceback" not in ran.said and ran.code in (0, 2, 4)
        return (
            SAME if not ran.code else REFUSED
        ) if clear else WRONG, f"{self.verb.name} --out to nowhere: {_last(ran)}"


def _unclear(fault: str, ran: Ran) -> str:
    """What is wrong with how a disturbed command ended."""
    if "Traceback" in ran.said:
        return _last(ran)
    if fault == "full" and ran.code == 4:
        return "" if "space" in ran.said else _last(ran)
    fine = {"kill": (None, 0), "full": (0,), "interrupt": (130, 0)}[fault]
    return "" if ran.code in fine else f"exit code {ran.code}: {_last(ran)}"


def _half(out: Path) -> str:
    """What can be loaded though it is not whole."""
    for path in find(out) if out.is_dir() else []:
        try:
            d = store.load(path)
            _ = d.regions, d.annotated and d.annotation.examples(0)
        except EPError as error:
            return f"half there: {error}"
    return ""


def _last(ran: Ran) -> str:
    return (ran.said.strip().splitlines() or ["nothing"])[-1][-300:]
