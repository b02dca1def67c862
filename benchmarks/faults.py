"""Faults on purpose, all of them (tests/faults): what was tried, survived, refused clearly, or came out wrong.

Files of every kind damaged at random places, and made to do harm; requests that no page sends; kills, full disks,
read-only folders, several writers, jumping clocks, awkward names and little memory while things are written. The target
is nothing wrong: never a crash, a hang, a trace, or an answer that is another one without a word. Any case can be
repeated: it follows from the seed and its number. Most formats of others have no checksum: `read as it stands` counts
damaged ones that still are well-formed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .measure import Row, check_parts, kept_rows, write

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; default: all. Rows of others are kept")
    parser.add_argument("--quick", action="store_true", help="a few cases of each, for a look")
    parser.add_argument("--only", default="", help="rows whose name this pattern finds; the others are kept")
    parser.add_argument("--missing", action="store_true", help="rows alone that the result does not have yet")
    given = parser.parse_args()
    check_parts(parser, given.parts, tuple(PARTS))
    chosen = bool(given.parts or given.only or given.missing)
    rows = _rows(given.quick) if chosen else {}
    for name in given.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="ep-faults-") as folder:
            Path(folder).chmod(0o755)
            for what, outcomes in PARTS[name](Path(folder), given.quick):
                row = f"{name}: {what}"
                if re.search(given.only, row) and not (given.missing and row in rows):
                    made = {row: _row(row, outcomes)}
                    rows = (_rows(given.quick) if chosen or rows else {}) | made  # another run may have added some
                    _keep(rows, given.quick)
    print(_total(list(rows.values())))
    if wrong := _total(list(rows.values()))["wrong"]:
        sys.exit(f"{wrong} cases came out wrong")


def _rows(quick: bool) -> dict[str, Row]:
    """Those of the result as it is on the disk."""
    return {row.what: row for row in kept_rows("faults", ["\0"], quick=quick)}


Outcomes = Iterable[tuple[str, str]]  # one of the kinds of faults.pool, and what was said; tried as it is read


def _all(tried: Callable[..., Outcomes], *given: Any) -> Outcomes:
    """What a trial comes to, once it is asked for."""
    yield from tried(*given)


def _each(*trials: Callable[[], tuple[str, str]]) -> Outcomes:
    """As `_all`, of trials that come to one outcome."""
    for trial in trials:
        yield trial()


def _row(what: str, outcomes: Outcomes) -> Row:
    from faults.pool import OTHER, REFUSED, SAME, WRONG

    begun = time.monotonic()
    outcomes = list(outcomes)
    counts = Counter(kind for kind, _ in outcomes)
    wrong = sorted({said for kind, said in outcomes if kind == WRONG})
    found: dict[str, Any] = {"tried": len(outcomes), "survived": counts[SAME], "refused clearly": counts[REFUSED]}
    found |= {"read as it stands": counts[OTHER]} if counts[OTHER] else {}
    print(f"{what}: {dict(counts)}, {time.monotonic() - begun:.0f} s", *wrong[:20], sep="\n    ", flush=True)
    found |= {"wrong": counts[WRONG]} | ({"first wrong": wrong[:3]} if wrong else {})
    return Row(what, target="0 wrong", found=found)


def _keep(rows: dict[str, Row], quick: bool) -> None:
    """Write what there is after every row, in the order of the parts: who stops this loses no more than one."""
    order = {part: place for place, part in enumerate(PARTS)}
    ordered = sorted(rows.values(), key=lambda row: order.get(row.what.partition(":")[0], len(order)))
    with contextlib.redirect_stdout(io.StringIO()):
        write("faults", quick=quick, seed=SEED, about=__doc__ or "", data=_total(ordered), rows=ordered)


def _total(rows: list[Row]) -> dict[str, int]:
    names = ("tried", "survived", "refused clearly", "read as it stands", "wrong")
    return {name: sum((row.found or {}).get(name, 0) for row in rows) for name in names}


def damaged(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """More than 20,000 damages over all kinds of files."""
    from faults import subjects

    for name in subjects.SUBJECTS:
        yield name, _damaged(name, folder, quick)


def _damaged(name: str, folder: Path, quick: bool) -> Outcomes:
    from faults import pool, subjects

    subject, pristine = subjects.SUBJECTS[name], folder / name.replace("/", "-")
    pristine.mkdir()
    subject.make(pristine)
    count = max(10, int((20 if quick else 1150) / subject.cost))
    given = (name, SEED, str(pristine), str(folder / "scratch"))
    for o in pool.run(subjects.prepare, given, range(count)):
        yield o.kind, f"case {o.case}: {o.said}"


def hostile(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """What is well-formed and means harm."""
    from faults import hostile as made
    from faults import pool

    def outcomes() -> Outcomes:
        for o in pool.run(made.prepare, (str(folder),), range(len(made.CASES))):
            yield o.kind, f"{list(made.CASES)[o.case]}: {o.said}"

    yield "files", outcomes()


def bombs(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """Pickles and containers that are small and ask for much, under a limit of memory and of processor time."""
    from exchange import test_pickle_bombs as made
    from faults.pool import OTHER, REFUSED, WRONG

    def outcomes() -> Outcomes:
        kinds = {"refused": REFUSED, "read": OTHER}
        for what, said in made.tried(folder, 3 if quick else None).items():
            yield kinds.get(said.split(":")[0], WRONG), f"{what}: {said}"

    yield f"pickles and containers, {made.FACTOR} times their size and {made.FLOOR >> 20} MB", outcomes()


def tampered(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """Contents exchanged and every hash made right, in each of two dictionaries."""
    from faults.pool import REFUSED, WRONG
    from folder import test_invariants as tampering

    def outcomes(by_readers: bool) -> Outcomes:
        tiny, text = _model_and_text(folder)
        built = folder / "built"
        if not built.exists():
            tampering.built(tiny, text, built)
        for percentile in ("p10", "p20"):
            for what in list(tampering.TAMPERINGS)[: 5 if quick else None]:
                said = tampering.told(built / "resid_post.1" / percentile, folder / "tampered", what)
                if by_readers:
                    wrong = "; ".join(tampering.unclear(folder / "tampered" / "resid_post.1" / percentile))
                    yield (WRONG, f"{what}: {wrong}") if wrong else (REFUSED, what)
                else:
                    yield (REFUSED, said) if said else (WRONG, f"{what}: accepted")

    yield "consistently", outcomes(by_readers=False)
    yield "and read by commands that do not check it all", outcomes(by_readers=True)


def web(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults.pool import REFUSED, SAME, WRONG
    from faults.web import attack

    def outcomes() -> Outcomes:
        counts, wrong = attack(200 if quick else 10_000, SEED, folder)
        refused = counts["refused clearly"] + counts["cut off"]
        good = [(SAME, "")] * counts["answered"] + [(REFUSED, "")] * refused
        yield from good[: len(good) - len(wrong)]
        yield from ((WRONG, said) for said in wrong)

    yield "requests", outcomes()


def pages(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from explorer_browser import CHROMIUM
    from faults.pages import TEXTS, looked_at

    if CHROMIUM is None:
        print("no Chromium to look at pages with: pages of hostile text are not tried")
        return
    yield "of hostile text, in a browser", _all(looked_at, folder, 2 if quick else len(TEXTS))


def killed(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import kills
    from faults.pool import SAME, WRONG

    def outcomes(job: kills.Job) -> Outcomes:
        found = kills.kill(job, 3 if quick else 40, SEED, folder)
        wrong = [*found.broken, *["other bytes in the end"] * found.unlike]
        yield from [(SAME, "")] * (found.kills - len(wrong))
        yield from ((WRONG, said) for said in wrong)

    for job in kills.jobs(*_model_and_text(folder), folder):
        yield job.name, outcomes(job)


def ray(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """Workers of a cluster killed at random instants; what they depend on killed."""
    from faults import clusters

    given = *_model_and_text(folder, 12_000), folder
    for count in (1, 2, 3, 4):
        yield f"workers killed, of {count}", _all(clusters.workers, *given, count, 2 if quick else 13)
    for name in ("", "gcs_server"):
        yield (
            f"{name or 'the process that decides'} killed, then --resume",
            _each(lambda name=name: clusters.resumed(*given, name)),
        )


def points(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """Every verb of the command line, disturbed at each of its writes."""
    from faults import points as tried

    trials = [tried.Trial(verb, folder) for verb in tried.verbs(folder)]
    for fault, count in (("kill", 16), ("full", 16), ("interrupt", 2)):
        for trial in trials:
            yield f"{trial.verb.name}, {fault}", trial.at(fault, 2 if quick else count)
    for trial in trials:
        name, line = trial.verb.name, trial.verb.line
        yield f"{name}, two at once", _each(trial.twice)
        if "{out}" in line and line[-1] != "{out}":
            yield f"{name}, a link to nowhere", _each(trial.dangling)
        if name in ("build", "extend"):
            for pattern in tried.GONE:
                yield f"{name}, {pattern or 'the folder'} removed", trial.removed(pattern, 2)


def full(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    if not disk.may_mount(folder):
        print("no small file system can be mounted here: full disks are not tried")
        return
    for writing in _writings(folder, quick):
        yield writing.name, _all(disk.full, writing, folder)


def readonly(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    writings = _writings(folder, quick)
    for path in folder.rglob("*"):
        path.chmod(0o755)  # model and text are anybody's to read
    yield "folders", (disk.read_only(writing, folder) for writing in writings)


def together(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    rounds = 1 if quick else 10
    for writing in disk.writings(None, None, folder)[:-1]:  # checkpoints lie in folders that are locked
        yield writing.name, (outcome for _ in range(rounds) for outcome in disk.at_once(writing, folder))


def clocks(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    yield "builds", _all(disk.clocks, *_model_and_text(folder), folder)


def names(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    yield "of folders and labels", _all(disk.names, folder)


def memory(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    yield "ulimit -v", _all(disk.memory, Path(sys.executable).with_name("ep"), folder)


def _writings(folder: Path, quick: bool) -> list:
    from faults import disk

    model, text = (None, None) if quick else _model_and_text(folder)
    return disk.writings(model, text, folder)


def _model_and_text(folder: Path, documents: int = 300) -> tuple[Path, Path]:
    from conftest import sentences, tiny_llama

    text = folder / "corpus.jsonl"
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in sentences(documents, seed=1)))
    return tiny_llama(folder / "tiny"), text


_PARTS = (
    damaged,
    hostile,
    bombs,
    tampered,
    web,
    pages,
    killed,
    ray,
    points,
    full,
    readonly,
    together,
    clocks,
    names,
    memory,
)
PARTS: dict[str, Callable[[Path, bool], Iterator[tuple[str, Outcomes]]]] = {part.__name__: part for part in _PARTS}


if __name__ == "__main__":
    main()
