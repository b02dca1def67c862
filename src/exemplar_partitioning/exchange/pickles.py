"""A pickle as data: a reader that can build arrays, containers, strings, numbers and records, and nothing else.

Python's own unpickler runs what the file names, and an allow-list of names is not enough: it hashes whatever is a key
(a tuple of tuples without end), copies a state into every object, and lets calls be repeated on one argument. This one
interprets the few instructions that data needs; it imports and calls nothing by name. Each instruction is charged for
what it may allocate, and all of them together may cost three times the file and four megabytes; more is refused. So
time and memory are proportional to the file's size. (Arrays and text cost what they take in the file, small numbers
and tuples up to ten times as much, since Python keeps an object for each: dictionaries in the paper's layout come to
1.4 times their size at d = 2,048 and 2.3 times at d = 576.)
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_RECORD = re.compile(r"(ep|cas)(\.[a-z_]+)*\.[A-Za-z_]\w*")
_NUMBERS = re.compile(r"[biuf]\d")
_TYPES = ("builtins.object", "__builtin__.object", "numpy.ndarray")
_LARGEST_KEY = 1 << 60  # beyond it, integers can be chosen whose hashes are the same

_FACTOR, _FLOOR = 3, 4 << 20  # bytes that may be built: by byte of the file, and in any case


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
    order: str = "<"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


@dataclass
class Array:
    """An array, named before its contents come."""

    value: np.ndarray | None = None


def read_pickle(path: Path) -> Any:
    """The object in a pickle file: lists, dicts, tuples, sets, scalars, `Record`s, and arrays, some as `Array`.

    Raises:
        DataError: not a pickle, truncated, with an instruction or class that data does not need, or built to grow
            beyond the file.
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
        raise DataError(f"{path} is no pickle, or a damaged one: {str(error)[:200]}") from error


class _Machine:
    def __init__(self, path: Path, size: int):
        self.path, self.left = path, _FLOOR + _FACTOR * size
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.states: set[int] = set()  # ids of the dicts that are some record's fields

    def run(self, data: Any) -> Any:
        for opcode, argument, position in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            self.spend(_COST.get(name, 12))
            if name in _LITERALS:
                self.spend(sys.getsizeof(argument))
                self.stack.append(argument)
            elif (step := _STEPS.get(name)) is not None:
                step(self, argument)
            else:
                raise self.refusal(f"the instruction {name} at byte {position}")
        raise DataError(f"{self.path} ends too early")

    def refusal(self, what: str) -> DataError:
        return DataError(
            f"{self.path} holds {what}, which no dictionary needs; expected arrays, lists, dicts, strings, numbers and "
            "records of the package ep. It may be made to run code: do not load it by other means"
        )

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise self.refusal("more data than the file itself")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an instruction without its operands")
        start = len(self.stack) - count
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def to_mark(self) -> list[Any]:
        return self.popped(len(self.stack) - self.marks.pop())

    def hashed(self, values: Sequence[Any]) -> Sequence[Any]:
        """Keys and members: text, and small numbers, as hashing anything else can take time without bound."""
        self.spend(100 * len(values))
        for value in values:
            number = isinstance(value, int | np.integer) and -_LARGEST_KEY < value < _LARGEST_KEY
            if not (number or value is None or isinstance(value, str | bytes)):
                raise ValueError(f"a {type(value).__name__} as a key or a member of a set")
        return values

    def find(self, module: str, name: str) -> None:
        if len(module) + len(name) > 200:
            raise ValueError("a class without a name")
        full = f"{module}.{name}"
        if not (full in _CALLS or full in _TYPES or (_RECORD.fullmatch(full) and "." not in name)):
            raise self.refusal(f"the class or function {full!r}")
        self.push(_Global(full))

    def call(self) -> None:
        function, arguments = self.popped(2)
        called = _CALLS.get(function.name) if isinstance(function, _Global) else None
        if called is None:
            raise self.refusal(f"a call of {_named(function)}")
        self.push(called(self, *arguments))

    def new(self) -> None:
        cls, arguments = self.popped(2)
        if arguments != ():
            raise self.refusal(f"an instance of {_named(cls)}")
        self.push(_record(self, cls))

    def build(self) -> None:
        (state,) = self.popped(1)
        target = self.stack[-1]
        if isinstance(target, Record):
            if isinstance(state, tuple) and len(state) == 2:  # with slots: (dict or None, dict)
                state = state[1] if state[0] is None else state[0] if state[1] is None else state
            if not isinstance(state, dict | None) or target.fields or id(state) in self.states:
                raise self.refusal("a record without fields of its own")
            target.fields = {} if state is None else state
            self.states.add(id(target.fields))
        elif isinstance(target, Array) and target.value is None:
            _version, shape, dtype, by_columns, content = state
            target.value = _array(content, dtype, shape, "F" if by_columns else "C")
        elif isinstance(target, _DType):
            target.order = ">" if state[1] == ">" else "<"
        else:
            raise self.refusal(f"a state for a {type(target).__name__}")

    def extend(self, kind: type, values: list[Any]) -> None:
        """Put values into the list, dict or set on top of the stack."""
        target = self.stack[-1]
        if type(target) is not kind:
            raise ValueError(f"values for a {type(target).__name__}")
        if kind is list:
            target.extend(values)
        elif kind is set:
            target.update(self.hashed(values))
        else:
            target.update(zip(self.hashed(values[::2]), values[1::2], strict=True))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


def _named(value: Any) -> str:
    """What a value is, in words; its repr could be without end."""
    return repr(value.name) if isinstance(value, _Global) else f"a {type(value).__name__}"


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """Over the bytes of the file, without a copy; ValueError unless their number is the shape's."""
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _DType):
        raise ValueError("an array of something other than numbers")
    flat = np.frombuffer(content, dtype=dtype.dtype)
    shape = tuple(shape[:4])
    if not all(isinstance(n, int) and 0 <= n <= len(flat) for n in shape) or math.prod(shape) != len(flat):
        raise ValueError(f"an array of another shape than its {len(flat)} numbers have")
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


def _record(machine: _Machine, cls: Any, base: Any = None, state: Any = None) -> Record:
    plain = base is None or (isinstance(base, _Global) and base.name in _TYPES[:2])
    if not plain or state is not None or not isinstance(cls, _Global) or not _RECORD.fullmatch(cls.name):
        raise machine.refusal(f"an instance of {_named(cls)}")
    return Record(cls.name)


_CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": _record,
    "copy_reg._reconstructor": _record,
    "builtins.set": lambda machine, members=(): set(machine.hashed(members)),
    "__builtin__.set": lambda machine, members=(): set(machine.hashed(members)),  # its name in Python 2
    "__builtin__.bytes": lambda machine: b"",
    "numpy.dtype": _dtype,
}
for _core in ("numpy.core", "numpy._core"):
    _CALLS |= {
        f"{_core}.multiarray._reconstruct": lambda _, cls, shape, code: Array(),
        f"{_core}.multiarray.scalar": lambda _, dtype, content: _array(content, dtype, (1,), "C")[0],
        f"{_core}.numeric._frombuffer": lambda _, content, dtype, shape, order: _array(content, dtype, shape, order),
    }

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
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
    "TUPLE": lambda m, a: m.push(tuple(m.to_mark())),
    "TUPLE1": lambda m, a: m.push(tuple(m.popped(1))),
    "TUPLE2": lambda m, a: m.push(tuple(m.popped(2))),
    "TUPLE3": lambda m, a: m.push(tuple(m.popped(3))),
    "APPEND": lambda m, a: m.extend(list, m.popped(1)),
    "APPENDS": lambda m, a: m.extend(list, m.to_mark()),
    "SETITEM": lambda m, a: m.extend(dict, m.popped(2)),
    "SETITEMS": lambda m, a: m.extend(dict, m.to_mark()),
    "ADDITEMS": lambda m, a: m.extend(set, m.to_mark()),
    "FROZENSET": lambda m, a: m.push(frozenset(m.hashed(m.to_mark()))),
    "GLOBAL": lambda m, a: m.find(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.find(*m.popped(2)),
    "REDUCE": lambda m, a: m.call(),
    "NEWOBJ": lambda m, a: m.new(),
    "BUILD": lambda m, a: m.build(),
    "MEMOIZE": lambda m, a: m.put(len(m.memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, a: m.push(m.memo[a])),
}
_COST = {  # bytes; 12 for those not named: a place on the stack and in a list
    **dict.fromkeys(("EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), 80),
    **dict.fromkeys(("EMPTY_DICT", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"), 100),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"), 240),
}
