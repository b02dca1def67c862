"""Faults on purpose, all of them (tests/faults): what was tried, survived, refused clearly, or came out wrong.

Files of every kind damaged at random places, and made to do harm; requests that no page sends; kills, full disks,
read-only folders, several writers, jumping clocks, awkward names and little memory while things are written. The target
is nothing wrong: never a crash, a hang, a trace, or an answer that is another one without a word. Any case can be
repeated: it follows from the seed and its number. Most formats of others have no checksum: `read as it stands` counts
damaged ones that still are well-formed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from .measure import Row, check_parts, kept_rows, write

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; default: all. Rows of others are kept")
    parser.add_argument("--quick", action="store_true", help="a few cases of each, for a look")
    parser.add_argument("--only", help="of the damaged files, this kind alone", choices=_kinds())
    given = parser.parse_args()
    check_parts(parser, given.parts, tuple(PARTS))
    rows = kept_rows("faults", [f"{part}: {given.only or ''}" for part in given.parts], quick=given.quick)
    for name in given.parts or PARTS:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ep-faults-") as folder:
            Path(folder).chmod(0o755)
            part = partial(damaged, only=given.only) if name == "damaged" else PARTS[name]
            for what, outcomes in part(Path(folder), given.quick):
                rows.append(_row(f"{name}: {what}", outcomes))
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
        write("faults", quick=given.quick, seed=SEED, about=__doc__ or "", data=_total(rows), rows=rows)
    if wrong := _total(rows)["wrong"]:
        sys.exit(f"{wrong} cases came out wrong")


Outcomes = Iterable[tuple[str, str]]  # one of the kinds of faults.pool, and what was said


def _row(what: str, outcomes: Outcomes) -> Row:
    from faults.pool import OTHER, REFUSED, SAME, WRONG

    outcomes = list(outcomes)
    counts = Counter(kind for kind, _ in outcomes)
    wrong = sorted({said for kind, said in outcomes if kind == WRONG})
    found = {"tried": len(outcomes), "survived": counts[SAME], "refused clearly": counts[REFUSED]}
    found |= {"read as it stands": counts[OTHER]} if counts[OTHER] else {}
    print(f"{what}: {dict(counts)}", *wrong[:20], sep="\n    ", flush=True)
    found |= {"wrong": counts[WRONG]} | ({"first wrong": wrong[:3]} if wrong else {})
    return Row(what, target="0 wrong", found=found)


def _total(rows: list[Row]) -> dict[str, int]:
    names = ("tried", "survived", "refused clearly", "read as it stands", "wrong")
    return {name: sum((row.found or {}).get(name, 0) for row in rows) for name in names}


def _kinds() -> list[str]:
    from faults.subjects import SUBJECTS

    return list(SUBJECTS)


def damaged(folder: Path, quick: bool, only: str | None = None) -> Iterator[tuple[str, Outcomes]]:
    """More than 20,000 damages over all kinds of files."""
    from faults import pool, subjects

    for number, (name, subject) in enumerate(subjects.SUBJECTS.items()):
        if only not in (None, name):
            continue
        pristine = folder / f"{number}"
        pristine.mkdir()
        subject.make(pristine)
        count = max(10, int((20 if quick else 1150) / subject.cost))
        given = (name, SEED, str(pristine), str(folder / "scratch"))
        yield name, [(o.kind, f"case {o.case}: {o.said}") for o in pool.run(subjects.prepare, given, range(count))]


def hostile(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """What is well-formed and means harm."""
    from faults import hostile as made
    from faults import pool

    outcomes = pool.run(made.prepare, (str(folder),), range(len(made.CASES)))
    yield "files", [(o.kind, f"{list(made.CASES)[o.case]}: {o.said}") for o in outcomes]


def bombs(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """Pickles that are small and ask for much, under a limit of memory and of processor time."""
    from exchange import test_pickle_bombs as made
    from faults.pool import OTHER, REFUSED, WRONG

    kinds, tried = {"refused": REFUSED, "read": OTHER}, made.tried(folder, 3 if quick else None)
    outcomes = [(kinds.get(said.split(":")[0], WRONG), f"{what}: {said}") for what, said in tried.items()]
    yield f"pickles, {made.FACTOR} times their size and {made.FLOOR >> 20} MB", outcomes


def tampered(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """Contents exchanged and every hash made right, in each of two dictionaries."""
    from faults.pool import REFUSED, WRONG
    from folder import test_invariants as tampering

    tiny, text = _model_and_text(folder)
    built = tampering.built(tiny, text, folder / "built")
    outcomes = []
    for percentile in ("p10", "p20"):
        for what in list(tampering.TAMPERINGS)[: 5 if quick else None]:
            said = tampering.told(built / "resid_post.1" / percentile, folder / "tampered", what)
            outcomes.append((REFUSED, said) if said else (WRONG, f"{what}: accepted"))
    yield "consistently", outcomes


def web(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults.pool import REFUSED, SAME, WRONG
    from faults.web import attack

    counts, wrong = attack(200 if quick else 10_000, SEED, folder)
    refused = counts["refused clearly"] + counts["cut off"]
    good = [(SAME, "")] * counts["answered"] + [(REFUSED, "")] * refused
    yield "requests", [*good[: len(good) - len(wrong)], *((WRONG, said) for said in wrong)]


def killed(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import kills
    from faults.pool import SAME, WRONG

    for job in kills.jobs(*_model_and_text(folder), folder):
        found = kills.kill(job, 3 if quick else 16, SEED, folder)
        wrong = [*found.broken, *["other bytes in the end"] * found.unlike]
        yield job.name, [*[(SAME, "")] * (found.kills - len(wrong)), *((WRONG, said) for said in wrong)]


def points(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    """Every verb of the command line, disturbed at each of its writes."""
    from faults import points as tried

    for verb in tried.verbs(folder):
        trial = tried.Trial(verb, folder)
        for fault, count in (("kill", 90), ("full", 6), ("interrupt", 3)):
            yield f"{verb.name}, {fault}", trial.at(fault, 2 if quick else count)
        yield f"{verb.name}, two at once", [trial.twice()]
        if "{out}" in verb.line and verb.line[-1] != "{out}":
            yield f"{verb.name}, a link to nowhere", [trial.dangling()]
        if verb.name in ("build", "extend"):
            for pattern in tried.GONE:
                yield f"{verb.name}, {pattern or 'the folder'} removed", trial.removed(pattern, 2 if quick else 3)


def full(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    if not disk.may_mount(folder):
        print("no small file system can be mounted here: full disks are not tried")
        return
    for writing in _writings(folder, quick):
        yield writing.name, disk.full(writing, folder)


def readonly(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    yield "folders", [disk.read_only(writing, folder) for writing in _writings(folder, quick)]


def together(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    rounds = 1 if quick else 10
    for writing in disk.writings(None, None, folder)[:-1]:  # checkpoints lie in folders that are locked
        yield writing.name, [outcome for _ in range(rounds) for outcome in disk.at_once(writing, folder)]


def clocks(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    yield "builds", disk.clocks(*_model_and_text(folder), folder)


def names(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    yield "of folders and labels", disk.names(folder)


def memory(folder: Path, quick: bool) -> Iterator[tuple[str, Outcomes]]:
    from faults import disk

    yield "ulimit -v", disk.memory(Path(sys.executable).with_name("ep"), folder)


def _writings(folder: Path, quick: bool) -> list:
    from faults import disk

    model, text = (None, None) if quick else _model_and_text(folder)
    return disk.writings(model, text, folder)


def _model_and_text(folder: Path) -> tuple[Path, Path]:
    from conftest import sentences, tiny_llama

    text = folder / "corpus.jsonl"
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in sentences(300, seed=1)))
    return tiny_llama(folder / "tiny"), text


_PARTS = (damaged, hostile, bombs, tampered, web, killed, points, full, readonly, together, clocks, names, memory)
PARTS: dict[str, Callable[[Path, bool], Iterator[tuple[str, Outcomes]]]] = {part.__name__: part for part in _PARTS}


if __name__ == "__main__":
    main()
