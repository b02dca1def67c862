"""A pickle as data: a reader that can build arrays, containers, strings, numbers and records, and nothing else.

Python's own unpickler runs what the file names. This one is an interpreter for the few instructions that data needs;
it imports and calls nothing by name. Any other instruction, and any class but those listed here, is an error. What it
allocates is bounded by the size of the file.
"""

from __future__ import annotations

import mmap
import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_RECORD_MODULES = re.compile(r"(ep|cas)(\.[a-z_]+)*")
_RECORD_CLASS = re.compile(r"[A-Za-z_]\w*")
_SCALARS = (str, bytes, int, float, bool, type(None), np.generic)
_NUMBERS = re.compile(r"[biuf]\d")


@dataclass
class Record:
    """An instance of a class that is known by name alone."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass
class _DType:
    code: str

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.code)


@dataclass
class Array:
    """An array, named before its contents come."""

    value: np.ndarray | None = None


def read_pickle(path: Path) -> Any:
    """The object in a pickle file: lists, dicts, tuples, sets, scalars, `Record`s, and arrays, some as `Array`.

    Raises DataError: not a pickle, truncated, or with an instruction or class that data does not need.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            warnings.catch_warnings(action="ignore"),  # of strange escapes in text, by pickletools
        ):
            return _Machine(path, len(data)).run(data)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    # pickletools on malformed input, an empty file, or a stack that does not hold what an instruction needs
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no pickle, or a damaged one: {error}") from error


class _Machine:
    def __init__(self, path: Path, size: int):
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget = size  # bytes that may be built beside those of the file

    def run(self, data: Any) -> Any:
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise self.refusal(f"the instruction {opcode.name} at byte {position}")
            step(self, argument)
        raise DataError(f"{self.path} ends too early")

    def refusal(self, what: str) -> DataError:
        return DataError(
            f"{self.path} holds {what}, which no dictionary needs; expected arrays, lists, dicts, strings, numbers and "
            "records of the package ep. It may be made to run code: do not load it by other means"
        )

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def popped_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an instruction without its operands")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def find(self, module: str, name: str) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a class without a name")
        full = f"{module}.{name}"
        if full in _BUILDERS or full in _TYPES or (_RECORD_MODULES.fullmatch(module) and _RECORD_CLASS.fullmatch(name)):
            self.push(_Global(full))
        else:
            raise self.refusal(f"the class or function {full!r}")

    def reduce(self) -> None:
        function, arguments = self.popped(2)
        builder = _BUILDERS.get(function.name) if isinstance(function, _Global) else None
        if builder is None:
            raise self.refusal(f"a call of {_said(function)}")
        self.push(builder(self, *arguments))

    def new(self) -> None:
        cls, arguments = self.popped(2)
        if not isinstance(cls, _Global) or arguments != () or cls.name in _BUILDERS or cls.name in _TYPES:
            raise self.refusal(f"an instance of {_said(cls)}")
        self.push(Record(cls.name))

    def build(self) -> None:
        (state,) = self.popped(1)
        target = self.stack[-1]
        if isinstance(target, Record):
            parts = state if isinstance(state, tuple) else (state,)  # with slots: (dict or None, dict)
            for part in parts:
                target.fields.update(part or {})
        elif isinstance(target, Array) and target.value is None:
            _version, shape, dtype, by_columns, content = state
            target.value = _array(content, dtype, shape, "F" if by_columns else "C")
        elif isinstance(target, _DType):
            target.code = (">" if state[1] == ">" else "<") + target.code
        else:
            raise self.refusal(f"a state for a {type(target).__name__}")

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise self.refusal("more data than the file itself")


def _said(value: Any) -> str:
    """What a value is, in words; its repr could be without end."""
    return repr(value.name) if isinstance(value, _Global) else f"a {type(value).__name__}"


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """Over the bytes of the file, without a copy; ValueError unless their number is the shape's."""
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _DType):
        raise ValueError("an array of something other than numbers")
    shape = tuple(int(length) for length in shape[:4])
    flat = np.frombuffer(content, dtype=dtype.dtype)
    if min(shape, default=0) < 0 or int(np.prod([float(n) for n in shape])) != len(flat):
        raise ValueError(f"an array of shape {list(shape)} with {len(flat)} numbers")
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _dtype(_: _Machine, code: Any, *flags: Any) -> _DType:
    if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
        raise ValueError("an array of something other than numbers")
    return _DType(code)


def _encoded(machine: _Machine, text: str, codec: str = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise ValueError("bytes in another encoding than latin1")
    machine.spend(len(text))
    return text.encode("latin1")


def _record(machine: _Machine, cls: Any, base: Any, state: Any) -> Record:
    plain = isinstance(base, _Global) and base.name in _TYPES[:2] and state is None
    if not plain or not isinstance(cls, _Global) or cls.name in _TYPES:
        raise machine.refusal(f"an instance of {_said(cls)}")
    return Record(cls.name)


def _set(machine: _Machine, members: Any = ()) -> set[Any]:
    machine.spend(len(members))
    return _checked_set(members)


def _checked_set(members: Any) -> set[Any]:
    for member in members:
        _key(member)
    return set(members)


def _key(value: Any) -> Any:
    """Hashing nested tuples can take time without bound."""
    if not isinstance(value, _SCALARS):
        raise ValueError(f"a {type(value).__name__} as a key or a member of a set")
    return value


_BUILDERS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": _record,
    "copy_reg._reconstructor": _record,
    "builtins.set": _set,
    "__builtin__.set": _set,  # so called up to protocol 2
    "__builtin__.bytes": lambda machine: b"",
    "numpy.dtype": _dtype,
}
for _core in ("numpy.core", "numpy._core"):
    _BUILDERS[f"{_core}.multiarray._reconstruct"] = lambda _, cls, shape, code: Array()
    _BUILDERS[f"{_core}.multiarray.scalar"] = lambda _, dtype, content: _array(content, dtype, (1,), "C")[0]
    _BUILDERS[f"{_core}.numeric._frombuffer"] = lambda _, content, dtype, shape, order: _array(
        content, dtype, shape, order
    )
_TYPES = ("builtins.object", "__builtin__.object", "numpy.ndarray")


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise ValueError(f"values for a {type(target).__name__}")
    target.extend(values)


def _set_items(machine: _Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict):
        raise ValueError(f"items for a {type(target).__name__}")
    target.update(zip(map(_key, pairs[::2]), pairs[1::2], strict=True))


def _add_items(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, set):
        raise ValueError(f"members for a {type(target).__name__}")
    target.update(_checked_set(values))


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


_Step = Callable[[_Machine, Any], object]
_STEPS: dict[str, _Step] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.marks.append(len(m.stack)),
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "EMPTY_SET": lambda m, a: m.push(set()),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "TUPLE": lambda m, a: m.push(tuple(m.popped_to_mark())),
    "TUPLE1": lambda m, a: m.push(tuple(m.popped(1))),
    "TUPLE2": lambda m, a: m.push(tuple(m.popped(2))),
    "TUPLE3": lambda m, a: m.push(tuple(m.popped(3))),
    "APPEND": lambda m, a: _append(m, m.popped(1)),
    "APPENDS": lambda m, a: _append(m, m.popped_to_mark()),
    "SETITEM": lambda m, a: _set_items(m, m.popped(2)),
    "SETITEMS": lambda m, a: _set_items(m, m.popped_to_mark()),
    "ADDITEMS": lambda m, a: _add_items(m, m.popped_to_mark()),
    "FROZENSET": lambda m, a: m.push(frozenset(_checked_set(m.popped_to_mark()))),
    "GLOBAL": lambda m, a: m.find(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.find(*m.popped(2)),
    "REDUCE": lambda m, a: m.reduce(),
    "NEWOBJ": lambda m, a: m.new(),
    "BUILD": lambda m, a: m.build(),
    "MEMOIZE": lambda m, a: _put(m, len(m.memo)),
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "GET": lambda m, a: m.push(m.memo[a]),
    "BINGET": lambda m, a: m.push(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.push(m.memo[a]),
}
for _literal in (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
):
    _STEPS[_literal] = _Machine.push
