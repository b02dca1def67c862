"""The lens leaves the user's model alone: its blocks, what is put on them, and what a failure interrupts."""

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from exemplar_partitioning.models.lens import lens
from exemplar_partitioning.models.load import load_model
from tiny_models import tiny
from tiny_tokenizer import make_tokenizer


class Counting(ModelHook):
    """As accelerate puts on blocks whose weights it fetches: it replaces their `forward` by one of their own."""

    runs = 0

    def pre_forward(self, module, *args, **kwargs):
        type(self).runs += 1
        return args, kwargs


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_every_attribute_is_as_it_was(hooked, fails):
    model = tiny("llama")
    loaded = load_model(model, tokenizer=make_tokenizer())
    if hooked:
        for block in model.model.layers:
            add_hook_to_module(block, Counting())
    if fails:
        model.lm_head.register_forward_hook(lambda *_: 1 / 0)

    def state():
        return [(name, vars(module).copy(), dict(module._modules)) for name, module in model.named_modules()]

    points = torch.randn(300, 24)
    before = state()
    if fails:
        with pytest.raises(ZeroDivisionError):
            list(lens(loaded, points))
    else:
        assert len(torch.cat(list(lens(loaded, points)))) == 300
    for (name, old, held), (_, new, holding) in zip(before, state(), strict=True):
        assert old.keys() == new.keys() and all(old[key] is new[key] for key in old), name
        assert held == holding and not (old["_forward_hooks"] and name != "lm_head")
    if hooked and not fails:
        Counting.runs = 0
        with torch.no_grad():
            model(torch.arange(5)[None])
        assert Counting.runs == 4
