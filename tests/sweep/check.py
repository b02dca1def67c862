"""What is held of every model: admitted with the right activations, tokens and lens, or refused."""

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import exemplar_partitioning as ep
from exemplar_partitioning.errors import EPError
from exemplar_partitioning.models.capture import Extractor
from exemplar_partitioning.models.hooks import applied, at
from exemplar_partitioning.models.lens import lens
from exemplar_partitioning.models.loaded import LoadedModel
from exemplar_partitioning.models.sites import Site
from exemplar_partitioning.quiet import first_line

PROMPT, NEW = 10, 5
# Their hidden states begin after the first block, not before it.
_LIST_AFTER = ("mamba", "mamba2", "falcon_mamba", "rwkv")


@dataclass(frozen=True)
class Outcome:
    """What became of a model. refused: the reason it was not admitted; without: what it does not offer, and why."""

    class_name: str
    refused: str = ""
    without: tuple[str, ...] = ()


def checked(model: torch.nn.Module) -> Outcome:
    """Admit a model and hold it to what it claims; AssertionError where something is wrong."""
    name = type(model).__name__
    try:
        loaded = ep.load_model(model, tokenizer=letters())
    except EPError as error:
        return Outcome(name, refused=str(error))
    idle = idle_blocks(loaded)
    check_activations(loaded, idle)
    without = [f"blocks {', '.join(map(str, idle))}: they do not run on text alone"] if idle else []
    checks = [check_tokens, check_lens]
    try:
        _written(model, torch.arange(10, 10 + PROMPT)[None])
    except Exception as error:  # nothing of ours takes part
        without.append(f"writing: {type(error).__name__} in its own generate: {first_line(error)}")
        checks.remove(check_tokens)
    for check in checks:
        try:
            check(loaded)
        except EPError as error:
            without.append(f"{check.__name__.removeprefix('check_')}: {error}")
    return Outcome(name, without=tuple(without))


def letters() -> PreTrainedTokenizerFast:
    """A token for each printable character."""
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2} | {chr(i): i - 29 for i in range(32, 124)}
    whole = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    whole.pre_tokenizer, whole.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=whole, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def idle_blocks(loaded: LoadedModel) -> list[int]:
    """Blocks that do not run on text alone, such as those that look at images."""
    ran, sites = set[int](), [Site(layer, "resid_post") for layer in range(loaded.architecture.n_layers)]
    with ExitStack() as stack, torch.inference_mode():
        for site in sites:
            stack.enter_context(at(loaded.model, site, lambda _, site=site: ran.add(site.layer)))
        loaded.model(input_ids=torch.arange(3, 3 + PROMPT)[None], use_cache=False)
    return sorted(set(range(len(sites))) - ran)


def check_activations(loaded: LoadedModel, idle: list[int]) -> None:
    """What is captured is what transformers calls hidden states, and a batch-mate changes nothing."""
    running = [layer for layer in range(loaded.architecture.n_layers) if layer not in idle]
    sites = [Site(layer, point) for layer in running for point in ("resid_pre", "resid_post")]
    window = np.arange(3, 3 + PROMPT)
    got = Extractor(loaded.model, sites).extract([window])
    beside = Extractor(loaded.model, sites).extract([window, np.arange(40, 40 + 3 * PROMPT) % 60 + 3])
    with torch.inference_mode():
        output = loaded.model(input_ids=torch.from_numpy(window)[None], output_hidden_states=True, use_cache=False)
    for site in sites:
        close(beside[site][:PROMPT], got[site], f"{site} beside a longer window")
    states = output.hidden_states
    expected = len(running) + 1
    assert states is not None and len(states) == expected, f"{0 if states is None else len(states)} hidden states"
    shift = 1 if loaded.model.config.model_type in _LIST_AFTER else 0
    for i in range(1, len(running)):
        state_sd = states[i - shift][0]  # the last of all is taken after the final norm
        close(got[Site(running[i], "resid_pre")], state_sd, f"hidden state before block {running[i]}")
        close(got[Site(running[i - 1], "resid_post")], state_sd, f"hidden state after block {running[i - 1]}")
    if not shift:
        close(got[Site(0, "resid_pre")], states[0][0], "hidden state before the first block")


def check_tokens(loaded: LoadedModel) -> None:
    """An edit is given the tokens it is for, without padding."""
    ids_1s = torch.arange(10, 10 + PROMPT)[None]
    short_s = torch.cat([torch.zeros(4, dtype=torch.long), ids_1s[0, :6]])
    padded_2s = torch.stack([ids_1s[0], short_s])
    loaded.model.generation_config.eos_token_id = None
    for ids_bs, per_token in ((ids_1s, {"all": 14, "prompt": 10, "generated": 4}), (padded_2s, None)):
        expected = per_token or {"all": 24, "prompt": 16, "generated": 8}
        cached = _counts(loaded, ids_bs)
        if cached != expected:  # nothing is kept from pass to pass: all is read again
            again = [sum(int((row != 0).sum()) for row in ids_bs) + len(ids_bs) * i for i in range(NEW)]
            new = len(ids_bs) * sum(range(NEW))
            assert cached == {"all": sum(again), "prompt": sum(again) - new, "generated": new}, cached


def _counts(loaded: LoadedModel, ids_bs: torch.Tensor) -> dict[str, int]:
    counts = {}
    for tokens in ("all", "prompt", "generated"):
        seen = []
        edit = lambda x_nd, seen=seen: seen.append(len(x_nd)) or x_nd  # noqa: E731
        with applied(loaded.model, edit, "resid_post.1", tokens=tokens):
            _written(loaded.model, ids_bs)
        counts[tokens] = sum(seen)
    return counts


def _written(model: torch.nn.Module, ids_bs: torch.Tensor) -> None:
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    with torch.inference_mode():
        model.generate(ids_bs, attention_mask=(ids_bs != 0).long(), **options)


def check_lens(loaded: LoadedModel) -> None:
    """The lens of the last block's own activations is what the model says."""
    loaded.require_lens()
    last, got = Site(loaded.architecture.n_layers - 1, "resid_post"), []
    ids_1s = torch.arange(3, 3 + PROMPT)[None]
    with torch.inference_mode(), at(loaded.model, last, lambda x: got.append(x[0].clone())):
        logits = loaded.model(input_ids=ids_1s, use_cache=False).logits[0].float()
    close(torch.cat(list(lens(loaded, got[0]))), logits, "lens")


def close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Equal but for rounding."""
    found, expected = found.float(), expected.float()
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)} for {tuple(expected.shape)}"
    gap = float((found - expected).abs().max() / expected.abs().max())
    assert gap < 1e-4, f"{what}: off by {gap:.2g} of its scale"
