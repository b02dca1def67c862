"""Conversations: rows of every make are the same turns, roles are those of the text, days stay what they are."""

import copy
import datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exemplar_partitioning.errors import DataError, EPError
from exemplar_partitioning.text.chat import ids_and_offsets, in_template, rendered, template_date, token_roles
from exemplar_partitioning.text.conversations import Conversation, conversation_of
from exemplar_partitioning.text.documents import read_documents
from exemplar_partitioning.text.windowing import Windowing
from exemplar_partitioning.text.windows import windows
from tiny_tokenizer import make_tokenizer

PLAIN = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GENERATION = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] | trim }}</s>{% endgeneration %}{% else %}{{ m['content'] | trim }}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ALTERNATING = (
    "{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set lead = '' %}{% set rest = messages %}{% endif %}"
    "{{ bos_token }}{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ m['role'] }}] {{ lead if loop.first }}{{ m['content'] }} {% endfor %}"
)
DATED = "{{ bos_token }}Today: {{ strftime_now('%d %b %Y') }}\n" + PLAIN.removeprefix("{{ bos_token }}")
FIRST_ONLY = "{{ bos_token }}{{ messages[0]['content'] }}"


TOKENIZER = make_tokenizer()


def tokenizer_of(template: str):
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.chat_template = template
    return tokenizer


def turns(*said: tuple[str, str]) -> Conversation:
    return Conversation(tuple({"role": role, "content": content} for role, content in said))


TALK = turns(("system", "Be brief."), ("user", "user"), ("assistant", "The dog."), ("user", "The dog."))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because.", "name": None}]},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
        {"conversations": {"from": ["human", "gpt"], "value": ["Why?", "Because."]}},
        {"conversation": '[{"role": "User", "content": "Why?"}, {"role": "Assistant", "content": "Because."}]'},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
                {"from": "model", "value": "Because."},
            ]
        },
        {"prompt": "Why?", "response": "Because."},
        {"prompt": "Why?", "completion": "Because.", "id": 7},
        {"question": "Why?", "answer": "Because."},
        {"instruction": "Why?", "input": "", "output": "Because."},
        {"prompt": [{"role": "user", "content": "Why?"}], "completion": [{"role": "assistant", "content": "Because."}]},
        {
            "prompt": "Why?",
            "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
            "rejected": [],
        },
    ],
)
def test_rows_of_every_make_are_the_same_turns(row):
    (document,) = read_documents([row])
    assert document.turns == turns(("user", "Why?"), ("assistant", "Because.")).turns
    assert document.text == "Why?\n\nBecause."


def test_systems_inputs_and_tools_belong_to_a_conversation():
    found = conversation_of({"system": "Be brief.", "instruction": "Add.", "input": "1 2", "output": "3"}, "row 0")
    assert found == turns(("system", "Be brief."), ("user", "Add.\n\n1 2"), ("assistant", "3"))
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    found = conversation_of(
        {"messages": [call, {"from": "observation", "value": "3"}], "tools": '[{"name": "add"}]'}, ""
    )
    assert found is not None and found.tools == ({"name": "add"},)
    assert "content" not in found.turns[0] and found.turns[1]["role"] == "tool"
    assert conversation_of({"messages": None}, "row 0") is None
    assert conversation_of({"prompt": "Why?", "response": None}, "row 0") is None
    # A row that has a text is that text, unless its turns are asked for by name.
    row = {"text": "plain", "messages": [{"role": "user", "content": "Why?"}]}
    assert next(iter(read_documents([row]))).turns == ()
    assert next(iter(read_documents([row], field="messages"))).text == "Why?"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "row 0: no turns"),
        ({"role": "user", "content": "Why?"}, "row 0: no turns"),
        ({"role": ["user", "assistant"], "content": ["Why?"]}, "row 0: the columns of its turns"),
        ("[", "row 0: its conversation is not JSON"),
        (["Why?"], "row 0, turn 0: is str, expected an object"),
        ([{"role": "user"}], "row 0, turn 0: has role, expected role and content"),
        ([{"content": "Why?"}], "row 0, turn 0: has content, expected role and content"),
        ([{"role": "user", "content": 7}], "turn 0: its content is of type int"),
        (
            [{"role": "user", "content": [{"type": "image", "image": "x"}]}],
            "turn 0: its content has parts that are no text",
        ),
    ],
)
def test_what_is_no_conversation_is_told_with_its_turn(messages, message):
    with pytest.raises(DataError, match=message):
        list(read_documents([{"messages": messages}]))


def tokens_and_roles(tokenizer, conversation: Conversation):
    """Token ids of a conversation, and the role of each."""
    prompt = rendered(tokenizer, conversation)
    ids, offsets = ids_and_offsets(tokenizer, prompt.text)
    return ids, token_roles(prompt.spans, offsets)


def said(tokenizer, conversation: Conversation) -> list[tuple[str, str]]:
    """(role, text) of the runs of tokens of one role."""
    ids, roles = tokens_and_roles(tokenizer, conversation)
    runs: list[tuple[str, list[int]]] = []
    for before, (token, role) in zip([None, *roles], zip(ids, roles, strict=True), strict=False):
        if role is None:
            continue
        if role != before:
            runs.append((role, []))
        runs[-1][1].append(int(token))
    return [(role, tokenizer.decode(tokens)) for role, tokens in runs]


@pytest.mark.parametrize("template", [PLAIN, GENERATION, ALTERNATING], ids=["plain", "generation", "alternating"])
def test_the_tokens_of_a_role_are_what_it_says(template):
    tokenizer = tokenizer_of(template)
    found = rendered(tokenizer, TALK)
    end = "</s>" if template is GENERATION else ""
    assert [(s.role, found.text[s.start : s.stop]) for s in found.spans] == [
        ("system", "Be brief."), ("user", "user"), ("assistant", "The dog." + end), ("user", "The dog.")
    ]  # fmt: skip
    assert found.text == tokenizer.apply_chat_template(list(TALK.turns), tokenize=False)
    ids, roles = tokens_and_roles(tokenizer, TALK)
    assert len(ids) == len(roles)
    assert [role for role, _ in said(tokenizer, TALK)] == ["system", "user", "assistant", "user"]


@settings(max_examples=15, deadline=None)
@given(
    contents=st.lists(
        st.text(st.sampled_from("ab <|>\n[user] The dog."), min_size=1, max_size=30), min_size=1, max_size=5
    ),
    template=st.sampled_from([PLAIN, GENERATION, ALTERNATING]),
)
def test_spans_hold_the_content_whatever_it_is(contents, template):
    contents = [content.strip() or "x" for content in contents]
    roles = ["user", "assistant"] * 3
    conversation = turns(*zip(roles, contents, strict=False))
    found = rendered(tokenizer_of(template), conversation)
    assert [found.text[s.start : s.stop].removesuffix("</s>") for s in found.spans] == contents
    assert all(a.stop <= b.start for a, b in pairwise(found.spans))


def test_a_token_is_of_the_turn_that_says_any_of_it():
    spans = rendered(tokenizer_of(PLAIN), turns(("user", "ab"), ("assistant", "cd"))).spans
    a, b = spans[0].start, spans[1].start
    offsets = [(0, a), (a - 1, a + 1), (a + 1, a + 3), (a + 2, b), (b, b + 2), (b + 2, b + 9), (b, b)]
    assert token_roles(spans, offsets) == [None, "user", "user", None, "assistant", None, None]
    assert token_roles(spans, [(0, 1), (1, 2), (2, 3)], base=a) == ["user", "user", None]


def test_calls_of_tools_are_found_by_what_they_add():
    template = PLAIN.replace(
        "{{ m['content'] | trim }}", "{{ m['content'] or m['tool_calls'][0]['function']['name'] }}"
    )
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {}}}]}
    conversation = Conversation(({"role": "user", "content": "1 + 2"}, call, {"role": "tool", "content": "3"}))
    found = rendered(tokenizer_of(template), conversation)
    assert [(s.role, found.text[s.start : s.stop]) for s in found.spans] == [
        ("user", "1 + 2"), ("assistant", "add</s>\n"), ("tool", "3")
    ]  # fmt: skip


def test_templates_that_cannot_render_a_conversation_say_so():
    with pytest.raises(EPError, match="has no chat template"):
        rendered(TOKENIZER, TALK)
    with pytest.raises(EPError, match=r"refuses a conversation of user, user: roles must alternate"):
        rendered(tokenizer_of(ALTERNATING), turns(("user", "a"), ("user", "b")))
    with pytest.raises(EPError, match=r"leaves out turn 1 \(assistant\) of a conversation of 2"):
        rendered(tokenizer_of(FIRST_ONLY), turns(("user", "a"), ("assistant", "b")))


def test_the_date_of_a_template_is_the_one_it_is_told():
    dated, plain = tokenizer_of(DATED), tokenizer_of(PLAIN)
    today = template_date(dated)
    assert today is not None and abs(datetime.date.fromisoformat(today) - datetime.date.today()).days <= 1
    assert template_date(plain) is None
    assert in_template(plain, "Why?", "2026-11-27") == in_template(plain, "Why?")
    assert in_template(dated, "Why?", today) == in_template(dated, "Why?")
    for day, words in [("2026-11-27", "27 Nov 2026"), ("2024-02-03", "03 Feb 2024")]:
        assert in_template(dated, "Why?", day) == f"<s>Today: {words}\n<|user|>\nWhy?</s>\n<|assistant|>\n"
        assert f"Today: {words}\n" in rendered(dated, TALK, day).text
    with pytest.raises(DataError, match="expected one such as 2026-11-27"):
        in_template(dated, "Why?", "27 Nov")


@given(
    day=st.dates(min_value=datetime.date(1970, 1, 2), max_value=datetime.date(2100, 1, 1)),
    words=st.lists(st.sampled_from(["%d", "%B", "%Y", "%-d", "%A", "%H:%M", "%F", "%j", " at ", "T"]), max_size=5),
)
@settings(max_examples=15, deadline=None)
def test_dates_are_written_as_the_library_writes_them(day, words):
    form = "".join(words)
    tokenizer = tokenizer_of("{% if strftime_now is defined %}{{ strftime_now('" + form + "') }}{% endif %}!")
    assert in_template(tokenizer, "Why?", day.isoformat()) == day.strftime(form) + "!"


def test_windows_of_a_conversation_are_those_of_its_template():
    tokenizer = tokenizer_of(PLAIN)
    (document,) = read_documents([{"prompt": "The dog?", "response": "The fox."}])
    text = tokenizer.apply_chat_template(list(document.turns), tokenize=False)
    for chat in (True, False):
        config = {"prepend_bos": False, "chat": chat, "shuffle_buffer": 0}
        found = windows([document], tokenizer, Windowing(**config), bos_id=-1, special_ids=frozenset())
        if chat:
            (window,) = found
            assert window.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            with pytest.raises(EPError, match=r"document 0 is a conversation; pass chat=True"):
                list(found)


@pytest.mark.parametrize("template", [PLAIN, GENERATION], ids=["plain", "generation"])
def test_only_what_the_roles_say_counts(template):
    """And how a conversation is cut into windows does not change which tokens those are."""
    tokenizer = tokenizer_of(template)
    rows = [{"messages": [{"role": "user", "content": "The dog?"}, {"role": "assistant", "content": "The fox sings."}]}]
    documents = list(read_documents(rows))
    special = frozenset(tokenizer.all_special_ids)

    def counted(size: int, **how) -> list[int]:
        config = Windowing(context_size=size, chat=True, shuffle_buffer=0, **how)
        cut = windows(documents, tokenizer, config, bos_id=-1, special_ids=special)
        return [int(i) for window in cut for i in window.ids[window.counts]]

    expected = tokenizer("The fox sings.", add_special_tokens=False)["input_ids"]
    for size in (1, 3, 128):
        assert counted(size, roles=("assistant",)) == expected
    assert counted(128, roles=("assistant",), positions="first") == expected[:1]
    with pytest.raises(EPError, match="have assistant, user"):
        counted(128, roles=("critic",))
    with pytest.raises(EPError, match="chat=True"):
        Windowing(roles=("user",))
