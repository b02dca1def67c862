"""Bytes of a file, damaged in one of the ways disks, networks and people do; the same seed damages in the same way."""

from __future__ import annotations

from random import Random


def _flip(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 16))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: Random) -> None:
    start, length = _block(data, rng)
    data[start : start + length] = rng.randbytes(length)


def _zero(data: bytearray, rng: Random) -> None:
    start, length = _block(data, rng)
    data[start : start + length] = bytes(length)


def _swap(data: bytearray, rng: Random) -> None:
    length = rng.randint(1, min(64, max(1, len(data) // 2)))
    a, b = (rng.randrange(len(data) - length + 1) for _ in range(2))
    data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]


def _truncate(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def _append(data: bytearray, rng: Random) -> None:
    data += rng.choice((b"\n", b"\0", bytes(data[-64:]), rng.randbytes(rng.randint(1, 300))))


def _remove(data: bytearray, rng: Random) -> None:
    start, length = _block(data, rng)
    del data[start : start + length]


def _digit(data: bytearray, rng: Random) -> None:
    """Another digit: what is most likely to stay well-formed, and to say something else."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if places:
        data[rng.choice(places)] = 48 + rng.randrange(10)


def _head(data: bytearray, rng: Random) -> None:
    """A number of the header, made huge or strange."""
    start = 8 * rng.randrange(min(8, len(data) // 8 + 1))
    value = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1, rng.getrandbits(64)))
    data[start : start + 8] = value.to_bytes(8, "little")


def _block(data: bytearray, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, rng.randint(1, min(512, len(data) - start))


KINDS = {
    "flipped bits": _flip,
    "overwritten block": _overwrite,
    "zeroed block": _zero,
    "swapped blocks": _swap,
    "truncated": _truncate,
    "appended junk": _append,
    "removed block": _remove,
    "another digit": _digit,
    "header number": _head,
}


def mutated(data: bytes, rng: Random) -> tuple[str, bytes]:
    """Name of what was done, and the damaged bytes, which differ from those given."""
    while True:
        name = rng.choice(list(KINDS))
        changed = bytearray(data)
        KINDS[name](changed, rng)
        if changed != data:
            return name, bytes(changed)
