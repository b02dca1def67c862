"""Every causal language model class that transformers has: admitted and right, or refused with the reason.

`make test` tries a sample, `make sweep` all, and writes docs/models-tried.md.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.check import Outcome, checked
from sweep.small import UNTRIED, classes, small

SAMPLE = (
    *("afmoe", "bamba", "bloom", "codegen", "cohere2", "deepseek_v3", "falcon", "gemma2", "glm4", "gpt_bigcode"),
    *("gptj", "granite", "jamba", "lfm2", "llama", "mamba", "mixtral", "olmo2", "opt", "qwen3"),
)
REFUSED = {
    "bert": "does not attend causally",
    "deepseek_v4": "no block of .* puts out a residual stream",
    "musicgen": "expected one table",
    "reformer": "no block of .* puts out a residual stream",
    "xlnet": "no block of .* puts out a residual stream",
}
TABLE = Path(__file__).parents[2] / "docs" / "models-tried.md"


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Outcome]]:
    """What became of each family; written down once all have been tried."""
    tried: dict[str, Outcome] = {}
    yield tried
    if tried.keys() == classes().keys() - UNTRIED.keys():
        TABLE.write_text(table(tried))


def table(tried: dict[str, Outcome]) -> str:
    """The outcomes as a page."""
    rows = ["| class | outcome |", "|---|---|"]
    for model_type, (_, model_class) in sorted(classes().items(), key=lambda item: item[1][1].__name__):
        outcome = tried.get(model_type, Outcome(model_class.__name__, f"not tried: {UNTRIED.get(model_type)}"))
        said = outcome.refused or "; ".join(("admitted", *outcome.without))
        rows.append(f"| `{model_class.__name__}` | {said.replace('|', '/')} |")
    admitted = sum(not outcome.refused for outcome in tried.values())
    return (
        "# Models tried\n\n<!-- Written by `make sweep`. -->\n\nEvery causal language model class of the installed "
        f"transformers, as a tiny random model: {admitted} of {len(classes())} are admitted. Of these, captured "
        "activations equal transformers' hidden states, steering touches the tokens it says, and the lens of the last "
        "block equals the logits, unless the row says otherwise.\n\n" + "\n".join(rows) + "\n"
    )


@pytest.mark.filterwarnings("default")  # what the families themselves say when built or run
@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(name, marks=() if name in (*SAMPLE, *REFUSED) else pytest.mark.sweep)
        for name in sorted(classes().keys() - UNTRIED.keys())
    ],
)
def test_admitted_or_refused_and_never_wrong(model_type, outcomes):
    model = small(model_type)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1e8, "not tiny: a size has another name"
    outcomes[model_type] = outcome = checked(model)
    if model_type in SAMPLE:
        assert not outcome.refused and not outcome.without
    assert re.search(REFUSED.get(model_type, ""), outcome.refused)
