"""Arithmetic as the error bounds assume it, whatever the program around has set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_DEVICES = ("cpu", "cuda", "xpu", "mps")  # of which autocast may be on


@contextmanager
def full_precision() -> Iterator[None]:
    """Tensors are float32 on the CPU unless said otherwise, and products are not rounded further.

    Covers autocast, default dtype and device, inference mode and gradients, deterministic mode (nothing here
    depends on an order, and it refuses what needs none) and TF32 and its like. Every entry point of the core
    runs inside; what the program has set is as it was afterwards. Also a decorator: `@full_precision()`.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_grad_enabled():
            stack.enter_context(torch.no_grad())
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.are_deterministic_algorithms_enabled():
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, True, warn_only=warn_only)
            torch.use_deterministic_algorithms(False)
        _full_products(stack)
        yield


def _full_products(stack: ExitStack) -> None:
    """Matrix products of float32 in float32, sums of bfloat16 in float32."""
    cuda, mkldnn = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    _set(stack, cuda, "allow_bf16_reduced_precision_reduction", False)
    by_backend = [matmul for matmul in (cuda, mkldnn) if hasattr(matmul, "fp32_precision")]
    for matmul in by_backend:
        _set(stack, matmul, "fp32_precision", "ieee")
    if not by_backend and torch.get_float32_matmul_precision() != "highest":  # before torch 2.9
        restore: Callable[[str], None] = torch.set_float32_matmul_precision
        stack.callback(restore, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")


def _set(stack: ExitStack, settings: Any, name: str, value: Any) -> None:
    if (before := getattr(settings, name)) != value:
        stack.callback(setattr, settings, name, before)
        setattr(settings, name, value)
