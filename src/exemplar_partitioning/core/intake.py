"""One intake for activations: whatever researchers hold them in, as float32 rows, a block at a time.

Tensors on any device, of any real dtype, with gradients, of any strides; numpy arrays of any byte order,
read-only, memory-mapped, masked; frames of pandas or polars; lists of any of these. Nothing is converted or
copied before its block is asked for, so a file larger than memory is read as it is needed.

Shapes: n activations, d = d_model.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from ..errors import EPError
from .precision import full_precision


class _NotNumbersError(EPError, TypeError):
    """Also a TypeError, as Python's own is where a number was expected."""


class Rows:
    """Activations [n, d] as they were given, whatever their leading axes: [d], [n, d], [batch, tokens, d].

    Slices are float32 tensors on the device of what was given; float64 is rounded, as activations are float32
    values by definition (law L2), and masked values become NaN.
    """

    def __init__(self, values: Tensor | np.ndarray, *, tensors: bool):
        self.leading = tuple(values.shape[:-1])
        self.width = int(values.shape[-1])
        self.tensors = tensors
        self._n = math.prod(self.leading)
        whole = values.is_contiguous() if isinstance(values, Tensor) else values.flags.c_contiguous
        if values.ndim == 1 or (values.ndim > 2 and whole):
            values = values.reshape(self._n, self.width)  # a view
        self.values = values

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, rows: slice) -> Float32[Tensor, ...]:
        if self.values.ndim == 2:
            return as_float32(self.values[rows]).contiguous()
        at = np.unravel_index(np.arange(*rows.indices(self._n)), self.leading)
        return as_float32(self.values[tuple(map(torch.from_numpy, at)) if isinstance(self.values, Tensor) else at])

    def like(self, answer: Tensor) -> Any:
        """An answer of one entry a row, with the leading axes and of the kind (tensor or array) that were given."""
        answer = answer.reshape((*self.leading, *answer.shape[1:]))
        return answer if self.tensors else answer.numpy()


@full_precision()
def intake(x: Any, d: int | None = None) -> Rows:
    """Activations in whatever they are held, to be read block by block.

    Args:
        x: [d], [n, d] or [batch, tokens, d]; see the top of this module for what may hold them.
        d: the width they must have, if it is settled.

    Raises:
        EPError: another width, ragged lists, or values that are not real numbers held densely.
    """
    if isinstance(x, Rows):
        rows = x
    else:
        values = _values(x)
        if not values.ndim:
            raise EPError(f"activations are rows [n, d_model]; got a single value of type {type(x).__name__}")
        rows = Rows(values, tensors=isinstance(x, Tensor))
    if d is not None and rows.width != d:
        raise EPError(
            f"activations have width {rows.width}, but the dictionary has d_model = {d}; "
            "give activations of the model and site it was built from"
        )
    return rows


def as_float32(x: Any) -> Float32[Tensor, ...]:
    """Anything that holds real numbers as a float32 tensor of its shape; not a copy where none is needed."""
    values = _values(x)
    if isinstance(values, Tensor):
        return values.to(torch.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is infinite, and counted as such
        array = np.asarray(values, np.float32, order="C")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        array = np.where(np.ma.getmaskarray(values), np.float32(np.nan), array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # torch has no read-only tensors


def _values(x: Any) -> Tensor | np.ndarray:
    """What holds the numbers, as a dense tensor or array of real numbers, without a copy."""
    if isinstance(x, Tensor):
        return _dense_tensor(x)
    if hasattr(x, "nnz"):  # scipy's and others'
        raise _sparse(type(x).__name__)
    try:
        if isinstance(x, list | tuple):
            x = _stacked(x)
        elif not isinstance(x, np.ndarray):
            x = x.to_numpy() if hasattr(x, "to_numpy") else np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, EPError):
            raise
        raise EPError(
            f"activations must form a matrix [n, d_model] of numbers; got {type(x).__name__}: {error}"
        ) from error
    if isinstance(x, Tensor):
        return _dense_tensor(x)
    if not isinstance(x, np.ma.MaskedArray):
        x = np.asarray(x)  # as plain as it can be: a matrix has other rules, a memory map is slower to slice
    return _real(x)


def _dense_tensor(x: Tensor) -> Tensor:
    if x.layout != torch.strided:
        raise _sparse(f"a tensor of layout {x.layout}")
    if x.is_nested or x.is_quantized or x.is_meta:
        kind = "a nested" if x.is_nested else "a quantised" if x.is_quantized else "a meta"
        raise EPError(f"activations must be a dense matrix of numbers; got {kind} tensor: give its rows as float32")
    if x.is_complex():
        raise _complex(x.dtype)
    if x.dtype == torch.bool:
        raise _not_real(x.dtype)
    return x.detach().resolve_neg()


def _real(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "O":
        return _numbers(x)
    if x.dtype.kind == "c":
        raise _complex(x.dtype)
    foreign = x.dtype.kind == "V" and x.dtype.names is None and np.can_cast(x.dtype, np.float64)  # such as bfloat16
    if x.dtype.kind not in "fiu" and not foreign:
        raise _not_real(x.dtype)
    return x


def _numbers(x: np.ndarray) -> np.ndarray:
    """An array of Python objects, if all are real numbers: a frame of mixed columns gives such a one."""
    for value in x.flat:
        if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
            raise _NotNumbersError(
                "activations must be numbers; got an array of objects whose argument must be a string or a real "
                f"number, and is a {type(value).__name__}: give the numeric columns alone, as float32"
            )
    return x.astype(np.float64)


def _stacked(x: list | tuple) -> Tensor | np.ndarray:
    """Nested lists of numbers, arrays or tensors."""
    if any(isinstance(row, Tensor) or (isinstance(row, list | tuple) and _holds_tensors(row)) for row in x):
        return torch.stack([as_float32(row).cpu() for row in x])
    return np.asarray(x)


def _holds_tensors(x: list | tuple) -> bool:
    return any(isinstance(row, Tensor) or (isinstance(row, list | tuple) and _holds_tensors(row)) for row in x)


def _sparse(given: str) -> EPError:
    return EPError(f"activations must be dense; got sparse data, {given}: give x.toarray() or x.to_dense()")


def _complex(given: object) -> EPError:
    return EPError(f"activations must be real numbers; got {given}. Complex data not supported: give a real part")


def _not_real(given: object) -> EPError:
    return EPError(f"activations must be real numbers; got {given}: give them as float32")
