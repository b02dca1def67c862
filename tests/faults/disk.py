"""Disks that fill up at every write, folders that may not be written, clocks that jump, names that look like nothing.

What a command writes must be there whole or not at all, with one clear message; with room again, the same command ends
in the bytes that it ends in where nothing happened.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import exemplar_partitioning as ep
from annotated import annotated
from building.test_build import LONG
from conftest import tree
from exemplar_partitioning.errors import EPError, Interrupted
from exemplar_partitioning.exchange.export import TARGETS, export
from exemplar_partitioning.files import write_new
from exemplar_partitioning.folder import annotation
from exemplar_partitioning.folder import dictionary as store
from exemplar_partitioning.folder.checkpoints import Checkpoints
from exemplar_partitioning.folder.labels import Labels
from exemplar_partitioning.folder.listing import find
from exemplar_partitioning.show.explorer.library import Library

from .pool import REFUSED, SAME, WRONG, Work

SITE = "resid_post.1"
MEMORY_SECONDS = 120  # then it hangs
NAMES = (
    *(
        "-rf",
        "--help",
        "a b",
        " ",
        "...",
        "new\nline",
        "tab\t",
        "quo'te\"s",
        "$(reboot)",
        "`id`",
        "*",
        "?",
        "[a]",
        "%2e",
    ),
    *("\u202eright", "\u05e9\u05dc", "\U0001f30a", "e\u0301", "\x1b[31m", "#", "c:\\d", "n" * 200, "<b>&amp;", "p2"),
)


@dataclass(frozen=True)
class Writing:
    """Something that is written into a folder.

    before: fills the folder beforehand.  write: does it; done again, it leaves what is whole.  step: bytes by which the
    free room grows from one try to the next.
    """

    name: str
    write: Callable[[Path], object]
    before: Callable[[Path], object] = lambda out: out.mkdir(exist_ok=True)
    step: int = 4096


def writings(model: Path | None, text: Path | None, folder: Path) -> list[Writing]:
    """All of them; with a model, whole builds and annotations too."""
    (d,) = annotated(folder / "from", k=40, percentiles=(2,))
    bare = folder / "bare"
    shutil.copytree(d.path.parent.parent, bare, ignore=shutil.ignore_patterns("annotation"))

    def save(out: Path) -> None:
        if not (out / SITE / "p2").exists():
            store.save(out / SITE / "p2", d.config, d, d.regions)

    a, examples = d.annotation, d.annotation._examples[0].read()

    def evidence(out: Path) -> None:
        here = store.load(out)
        if not (here.path / "annotation").exists():
            annotation.write(
                here.path / annotation.FOLDER,
                a.record,
                a.regions,
                [examples],
                mean_directions=a.mean_directions,
                histogram=a.histogram,
            )

    def exported(out: Path) -> None:
        for to in TARGETS:
            if to != "axbench" and not (out / to).exists():
                export(d, to, out / to)

    def checkpoint(out: Path) -> None:
        Checkpoints(out).save({"x": np.arange(9000.0)}, {"done": 3})
        for old in sorted(out.glob("checkpoint-*"))[:-1]:
            shutil.rmtree(old)

    def put(source: Path) -> Callable[[Path], object]:
        return lambda out: shutil.copytree(source, out, dirs_exist_ok=True)

    found = [
        Writing("save a dictionary", save),
        Writing("write an annotation", evidence, put(bare)),
        Writing("label", lambda out: Labels(store.load(out)).set(3, "w" * 150), put(bare)),
        Writing("replace a file", lambda out: write_new(out / "a.json", b"b" * 20_000)),
        Writing("export", exported, step=16_384),
        Writing("save a checkpoint", checkpoint),
    ]
    if model is None or text is None:
        return found
    ep.build(str(model), [text], out=folder / "built", **LONG)

    def build(out: Path) -> None:
        ep.build(str(model), [text], out=out / "out", resume=True, checkpoint_seconds=0.0, **LONG)

    def annotate(out: Path) -> None:
        ep.annotate(out, [text], model=str(model), max_tokens=3000, checkpoint_seconds=0.0, replace=True)

    return [
        *found,
        Writing("build", build, step=1 << 18),
        Writing("annotate", annotate, put(folder / "built"), 1 << 18),
    ]


@contextmanager
def small_disk(path: Path) -> Iterator[Callable[[int], None]]:
    """A file system in memory at a new folder; gives a function that leaves so many bytes of room. Needs root."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)], check=True)

    def leave(room: int) -> None:
        info = os.statvfs(path)
        used = (info.f_blocks - info.f_bfree) * info.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={max(4096, used + room)}", str(path)], check=True)

    try:
        yield leave
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


def may_mount(folder: Path) -> bool:
    """Whether a small file system can be had."""
    with suppress(OSError, subprocess.CalledProcessError), small_disk(folder / "mount"):
        return True
    return False


def full(writing: Writing, folder: Path) -> list[tuple[str, str]]:
    """Every room from none to enough: (outcome, what was said)."""
    whole = folder / "whole"
    writing.before(whole)
    writing.write(whole)
    expected, found, room = _content(whole), [], 0
    while not found or found[-1][0] != SAME:
        with small_disk(folder / "disk") as leave:
            out = folder / "disk" / "out"
            writing.before(out)
            leave(room)
            found.append(_try(writing, out, f"{writing.name} with {room:,} bytes of room"))
            if found[-1][0] == REFUSED:
                found[-1] = _whole_or_nothing(out, found[-1])
                leave(60 << 20)
                writing.write(out)
            if _content(out) != expected:
                found[-1] = (WRONG, f"{found[-1][1]}: then others than the undisturbed bytes")
        room += writing.step
    shutil.rmtree(whole)
    return found


def _try(writing: Writing, out: Path, said: str) -> tuple[str, str]:
    try:
        writing.write(out)
    except EPError as error:
        good = any(word in str(error) for word in ("space", "room", "disk", "cannot write", "read-only"))
        return (REFUSED, said) if good else (WRONG, f"{said}: {error}")
    except Exception as error:
        return WRONG, f"{said}: {type(error).__name__}: {error}"
    return SAME, said


def _whole_or_nothing(out: Path, refused: tuple[str, str]) -> tuple[str, str]:
    for path in find(out):
        d = store.load(path)
        _ = d.regions, (path / "annotation").is_dir() and d.annotation.examples(0)
    return refused


def _content(out: Path) -> dict[str, bytes]:
    """Files that count."""
    return {name: data for name, data in tree(out).items() if not name.endswith(".lock")}


def read_only(writing: Writing, folder: Path) -> tuple[str, str]:
    """Another user's folder."""
    out = folder / "theirs"
    writing.before(out)
    for path in (out, *out.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before, mine = _content(out), os.geteuid()
    try:
        os.seteuid(65534 if mine == 0 else mine)
        found = _try(writing, out, f"{writing.name} in a read-only folder")
    finally:
        os.seteuid(mine)
    if _content(out) != before:
        found = WRONG, f"{found[1]}: changed"
    for path in (out, *out.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(out)
    return found


def at_once(writing: Writing, folder: Path, writers: int = 4) -> list[tuple[str, str]]:
    """Several at the same time in one folder: one succeeds, others may be refused, the bytes are the same."""
    whole, out = folder / "whole", folder / "shared"
    for path in (whole, out):
        writing.before(path)
    writing.write(whole)
    found, start = list[tuple[str, str]](), threading.Barrier(writers)

    def one() -> None:
        start.wait()
        try:
            writing.write(out)
            found.append((SAME, writing.name))
        except (EPError, FileExistsError):
            found.append((REFUSED, writing.name))
        except Exception as error:
            found.append((WRONG, f"{writing.name} by several: {type(error).__name__}: {error}"))

    threads = [threading.Thread(target=one) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if _content(out) != _content(whole) or not any(kind == SAME for kind, _ in found):
        found.append((WRONG, f"{writing.name} by several: other bytes"))
    for path in (whole, out):
        shutil.rmtree(path)
    return found


def clocks(model: Path, text: Path, folder: Path) -> list[tuple[str, str]]:
    """A build stopped at every checkpoint, its files then from the past or the future; it goes on in the same bytes."""
    ep.build(str(model), [text], out=folder / "whole", **LONG)
    found = []
    for when in (0, 315_532_800, 4_102_444_800):
        out, stops = folder / f"at-{when}", 0
        while not _built_further(model, text, out):
            stops += 1
            for path in (out, *out.rglob("*")):
                os.utime(path, (when, when))
        same = tree(out) == tree(folder / "whole") and stops > 1
        found.append((SAME if same else WRONG, f"build with files of {when} s after 1970, stopped {stops} times"))
    return found


def _built_further(model: Path, text: Path, out: Path) -> bool:
    """Go on with a build for two checkpoints; whether it got through."""
    saved = 0

    def count(event: Any) -> None:
        nonlocal saved
        saved += event.kind == "checkpoint"

    options: dict[str, Any] = LONG | {"checkpoint_seconds": 0.0, "resume": True}
    try:
        ep.build(str(model), [text], out=out, on_event=count, stop=lambda: saved > 1, **options)
    except Interrupted:
        return False
    return True


def names(folder: Path) -> list[tuple[str, str]]:
    """Folders of every awkward name: saved, read, labelled, exported, shown."""
    found = []
    for name in NAMES:
        try:
            home = folder / "names" / name
            (d,) = annotated(home, k=12, percentiles=(2,))
            Labels(d).set(1, f"{name} \u202e label")
            export(d, "saelens", home / name / "sae")
            shown = Library([home]).entries
            assert Labels.read(store.load(home)).best(1).source == "hand" and len(shown) == 1
            found.append((SAME, f"named {name[:20]!r}"))
        except EPError as error:
            found.append((REFUSED, f"named {name[:20]!r}: {error}"))
        except Exception as error:
            found.append((WRONG, f"named {name[:20]!r}: {type(error).__name__}: {error}"))
    try:
        export(store.load(folder / "names" / "p2"), "saelens", folder / ("n" * 250))
        found.append((SAME, "a name of 250 bytes"))
    except EPError:
        found.append((REFUSED, "a name of 250 bytes"))
    except OSError as error:
        found.append((WRONG, f"a name of 250 bytes: {errno.errorcode[error.errno or 0]}"))
    return found


def memory(ep_command: Path, folder: Path) -> list[tuple[str, str]]:
    """`ep show` under ever more address space: a result, or advice and its exit code; never a trace or a hang."""
    annotated(folder / "build", k=60, percentiles=(2,))
    found = []
    for megabytes in (*range(100, 1250, 50), 1500, 3000, 6000):
        command = f"ulimit -v {megabytes << 10}; exec {ep_command} show {folder / 'build'}"
        given = {"capture_output": True, "text": True, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
        try:
            done = subprocess.run(["bash", "-c", command], timeout=MEMORY_SECONDS, **given)
        except subprocess.TimeoutExpired:
            found.append((WRONG, f"ep show in {megabytes} MB: no end within {MEMORY_SECONDS} s"))
            continue
        said = f"ep show in {megabytes} MB: exit code {done.returncode}"
        if "Traceback" in done.stderr or done.returncode not in (0, 4):
            found.append((WRONG, f"{said}: {done.stderr.strip()[-200:]}"))
        else:
            found.append((SAME if done.returncode == 0 else REFUSED, said))
    return found


def prepare(kind: str, model: str, text: str, folder: str) -> Work:
    """Cases of a kind by number, for the pool: the writings in order, or one case alone. Says its outcomes as JSON."""
    torch.set_num_threads(1)
    home, known = Path(folder), Path(model) if model else None
    alone: dict[str, Callable[[Path], list[tuple[str, str]]]] = {
        "names": names,
        "clocks": lambda place: clocks(Path(model), Path(text), place),
    }
    if kind in alone:
        return lambda case: (SAME, json.dumps(alone[kind](home)))
    each = writings(known, Path(text) if text else None, home)
    doing: dict[str, Callable[[Writing, Path], Any]] = {
        "full": full,
        "read-only": lambda writing, place: [read_only(writing, place)],
        "at once": at_once,
    }
    return lambda case: (SAME, json.dumps(doing[kind](each[case], home)))
