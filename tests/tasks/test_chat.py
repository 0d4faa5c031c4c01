"""Chat prompts: what a template of any kind writes before an answer, and after it exactly the answer."""

import json
import re
from copy import copy
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens.errors import ArgumentError, PromptError
from ivlens.tasks import Chat, Example, Task, Turns, chat_format
from ivlens.tasks.asking import format_facts, format_of
from ivlens.tasks.chat import PADDED, conversation
from ivlens.tasks.corruptions import without_instruction

# The shapes of templates in the field, in our own words.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
    '{%- set messages = messages[1:] %}{%- else %}{%- set system = "" %}{%- endif %}'
    '{{- "<|system|>\n\n" + "Today: " + date_string + "\n\n" + system + "<|eot|>" }}'
    "{%- for m in messages %}{{- '<|' + m.role + '|>\n\n' + m.content | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\n\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user and assistant') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST]' + (system if loop.last or loop.index0 == messages | length - 2 else '') }}"
    "{{ m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('no system here') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' "
    "+ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QWEN_3 = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' %}{%- set content = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{%- if loop.index0 > ns.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{{- content }}"
    "{%- else %}{{- m.content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{% set content = m.content %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' + content + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
CLOCK = "{{ strftime_now('%Y-%m-%d') }} " + CHATML
KINDS = {
    "chatml": CHATML, "chatml without newline": CHATML.replace("assistant\n", "assistant").replace("}}\n{{", "}}{{"),
    "llama 3": LLAMA_3, "llama 2": LLAMA_2, "mistral": MISTRAL, "gemma": GEMMA, "qwen 3": QWEN_3, "phi": PHI,
    "deepseek": DEEPSEEK, "clock": CLOCK,
}  # fmt: skip
WITHOUT_SYSTEM = {"gemma", "llama 2"}
HISTORY = (("user", "What is 2 + 2?"), ("assistant", "4"))
TASK = Task(
    "sums",
    [Example(f"What is {n} + 1?", (str(n + 1), f"It is {n + 1}."), history=HISTORY) for n in range(10)],
    ("Add the numbers.",),
)
WRITTEN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip).map(str.strip)


@pytest.fixture(scope="module")
def tokenizers(make_tokenizer):
    """A tokenizer with each template, which puts BOS first where a template does not."""
    return {kind: make_tokenizer("<s> $A", template) for kind, template in KINDS.items()}


def same_day(tokenizer, messages, **options):
    """What the template itself writes, on the day that prompts are given."""
    template = tokenizer.chat_template.replace("strftime_now(", "'2024-07-26' or (")
    template = template.replace("'2024-07-26' or (\"%d %b %Y\")", "'26 Jul 2024'")
    return tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template, **options)


def as_dicts(messages, answer):
    said = [{"role": each.speaker, "content": each.text} for each in messages]
    return [*said, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("prefix", ["", "Answer:"])
def test_prompt_and_answer_begin_what_the_template_writes(tokenizers, kind, shots, system, prefix):
    one = tokenizers[kind]
    if system is not None and kind in WITHOUT_SYSTEM:
        with pytest.raises(PromptError, match="pass system=None"):
            TASK.prompts(3, shots=shots, format="chat", tokenizer=one, system=system)
        return
    render = chat_format(one, system, prefix)
    lead = f"{prefix} " if prefix else ""
    prompts = TASK.prompts(3, shots=shots, format="chat", tokenizer=one, system=system, assistant_prefix=prefix)
    for prompt, turns in zip(prompts, drawn(shots), strict=True):
        assert render(turns) == prompt.text
        messages = conversation(turns, system)
        turn = ["user", "assistant"]
        assert [each.speaker for each in messages] == ["system"] * (system is not None) + turn * (2 * shots + 1) + [
            "user"
        ]
        for answer, said in zip(prompt.answers, answers_of(prompt), strict=True):
            assert same_day(one, as_dicts(messages, lead + said)).startswith(prompt.text + answer)
            assert answer.strip() == said
        encoded = prompt.encode(one)
        ids = [*encoded.prompt_ids, *encoded.answer_ids]
        assert ids == one(prompt.text + prompt.answers[0], add_special_tokens=False)["input_ids"]
        assert prompt.text.startswith("<s>") == ("bos_token" in KINDS[kind])
        assert not prompt.text.startswith("<s><s>")


def drawn(shots):
    """The turns of the first prompts of the task."""
    found = []
    TASK.prompts(3, shots=shots, format=lambda turns: found.append(turns) or "x")
    return found


def answers_of(prompt):
    return next(example.answers for example in TASK.examples if example.input == prompt.input)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generation_prompt_is_the_prompt_but_for_thoughts(tokenizers, kind):
    one = tokenizers[kind]
    turns = Turns("Add.", ("a", "b"), (Example("1 + 1", ("2",)),), "2 + 2")
    messages = as_dicts(conversation(turns), "")[:-1]
    generation = same_day(one, messages, add_generation_prompt=True)
    prompt = chat_format(one)(turns)
    match kind:
        case "qwen 3":
            assert prompt == generation + "<think>\n\n</think>\n\n"
            assert same_day(one, messages, add_generation_prompt=True, enable_thinking=False) == prompt
        case "deepseek":
            assert generation == prompt + "<think>\n"
        case _:
            assert generation == prompt


def test_several_turns(make_tokenizer):
    one = make_tokenizer(chat_template=CHATML.replace("<|im_start|>", "[").replace("<|im_end|>\n", "]"))
    shot = Example("3 + 3?", ("6",), ("6", "7"), history=(("user", "Hi"), ("assistant", "Yes?")))
    history = (("system", "Be exact."), ("user", "What is 2 + 2?"), ("assistant", "4"))
    turns = Turns("Add.", ("In", "Out"), (shot,), "And 4 + 4?", ("A. 8", "B. 9"), history, "letters")
    assert chat_format(one)(turns) == (
        "[system\nBe exact.][user\nHi][assistant\nYes?][user\nAdd.\n\n3 + 3?\nA. 6\nB. 7][assistant\nA]"
        "[user\nWhat is 2 + 2?][assistant\n4][user\nAnd 4 + 4?\nA. 8\nB. 9][assistant\n"
    )
    assert chat_format(one)(without_instruction(turns)) == (
        "[system\nBe exact.][user\nWhat is 2 + 2?][assistant\n4][user\nAnd 4 + 4?\nA. 8\nB. 9][assistant\n"
    )


def test_an_instruction_of_each_examples_own(make_tokenizer):
    one = make_tokenizer(chat_template=CHATML)
    shot = Example("dog", ("chien",), instruction="Into French.")
    text = chat_format(one)(Turns("Into Spanish.", ("In", "Out"), (shot,), "cat", shared=False))
    assert re.findall(r"user\n(.*)\n\n(.*)<", text) == [("Into French.", "dog"), ("Into Spanish.", "cat")]


SYSTEM = ("system", "Be exact.")


@pytest.mark.parametrize(
    ("history", "system", "match"),
    [
        ((SYSTEM,), "Be brief.", "one system message; got system='Be brief.' and 'Be exact.' in the history"),
        ((SYSTEM, SYSTEM), None, "one system turn at most, the first; got 'system': 'Be exact.'"),
        ((("user", "a"), SYSTEM), None, "one system turn at most, the first; got 'system': 'Be exact.'"),
        ((("tool", "a"),), None, "a history of user and assistant turns.*got 'tool': 'a'"),
        ((("user", " "),), None, "a history of user and assistant turns.*got 'user': ' '"),
    ],
)
def test_histories_that_are_none(make_tokenizer, history, system, match):
    one = make_tokenizer(chat_template=CHATML)
    with pytest.raises(PromptError, match=match):
        chat_format(one, system)(Turns(None, ("In", "Out"), (), "c", history=history))


def test_one_system_message_for_query_and_demonstrations(make_tokenizer):
    one = make_tokenizer(chat_template=CHATML)
    shot = Example("a", ("b",), history=(SYSTEM,))
    assert chat_format(one)(Turns(None, ("In", "Out"), (shot,), "c", history=(SYSTEM,))).count("Be exact.") == 1
    assert chat_format(one, " Be exact. ")(Turns(None, ("In", "Out"), (shot,), "c")).count("Be exact.") == 1
    with pytest.raises(PromptError, match="the query's system message in all demonstrations; got 'Be exact"):
        chat_format(one)(Turns(None, ("In", "Out"), (shot,), "c"))


@pytest.mark.parametrize("answer", ["<think>so</think>4", "a</think>\nb"])
@pytest.mark.parametrize("kind", ["qwen 3", "deepseek"])
def test_an_answer_that_the_template_changes_is_refused_by_name(tokenizers, kind, answer):
    one = tokenizers[kind]
    with pytest.raises(PromptError, match=re.escape(f"writes the answer {answer!r} as it is")):
        Task("t", [("2 + 2?", ("4", answer))]).prompts(shots=0, instruction=False, format="chat", tokenizer=one)
    options = Task("t", [Example("2 + 2?", ("4",), options=("4", answer))])
    with pytest.raises(PromptError, match=re.escape(f"writes the answer {answer!r} as it is")):
        options.prompts(shots=0, instruction=False, format="chat", tokenizer=one)
    shot = Example("1 + 1?", (answer,))
    with pytest.raises(PromptError, match=r"writes every turn as it is; got .* in place of .*</think"):
        chat_format(one)(Turns(None, ("In", "Out"), (shot,), "2 + 2?"))


def test_a_turn_that_the_template_drops_is_named(make_tokenizer):
    last = CHATML.replace("in messages %}", "in messages[-2:] %}")
    turns = Turns(None, ("In", "Out"), (Example("1 + 1?", ("2",)),), "2 + 2?")
    with pytest.raises(PromptError, match=re.escape("a text without the user's turn '1 + 1?'")):
        chat_format(make_tokenizer(chat_template=last))(turns)


@pytest.mark.parametrize("kind", KINDS)
@given(
    asked=WRITTEN, answers=st.lists(WRITTEN, min_size=1, max_size=3, unique=True), shot=WRITTEN, told=WRITTEN,
    earlier=st.lists(st.tuples(WRITTEN, WRITTEN), max_size=2), system=st.none() | WRITTEN,
    prefix=st.just("") | WRITTEN,
)  # fmt: skip
def test_any_turns_are_what_the_template_writes_or_refused(
    tokenizers, kind, asked, answers, shot, told, earlier, system, prefix
):
    one = tokenizers[kind]
    history = tuple((role, text) for pair in earlier for role, text in zip(("user", "assistant"), pair, strict=True))
    turns = Turns("Say.", ("In", "Out"), (Example(shot, (told,)),), asked, history=history)
    plain = re.compile(r"</?think>")
    try:
        text = chat_format(one, system, prefix)(turns)
        for answer in answers:
            text.check(answer)
    except PromptError:
        changed = kind in {"qwen 3", "deepseek"} and plain.search("".join([told, prefix, *answers, *sum(earlier, ())]))
        assert changed or (system is not None and kind in WITHOUT_SYSTEM)
        return
    lead = f"{prefix} " if prefix else ""
    for answer in answers:
        whole = same_day(one, as_dicts(conversation(turns, system), lead + answer))
        assert whole.startswith(text + text.space + answer)


def test_roles_of_tokens(make_tokenizer):
    one = make_tokenizer("<s> $A", GEMMA)
    prompt = TASK.prompts(1, shots=1, format="chat", tokenizer=one)[0]
    assert "".join(text for _, text in prompt.parts) == prompt.text
    texts = dict(prompt.parts)
    assert texts["instruction"] == "Add the numbers."
    assert texts["query input"] == prompt.input
    assert texts["query output name"] == "<end_of_turn>\n<start_of_turn>model\n"
    roles = prompt.token_roles(one)
    assert len(roles) == len(prompt.token_ids(one))
    assert {"instruction", "demonstration input", "demonstration output", "history", "query input"} <= {*roles}
    assert roles[-1] == "last"


class Tomorrow(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime(2031, 2, 3)


@pytest.mark.parametrize("kind", ["llama 3", "clock"])
def test_prompts_are_the_same_on_every_day(tokenizers, kind, monkeypatch):
    one = tokenizers[kind]
    messages = [{"role": "user", "content": "a"}]
    today = one.apply_chat_template(messages, tokenize=False)
    prompts = TASK.prompts(3, format="chat", tokenizer=one)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    assert one.apply_chat_template(messages, tokenize=False) != today
    assert TASK.prompts(3, format="chat", tokenizer=one) == prompts
    written = {"llama 3": "26 Jul 2024", "clock": "2024-07-26"}[kind]
    assert all(written in prompt.text for prompt in prompts)
    other = TASK.prompts(3, format=Chat(date="2025-01-09"), tokenizer=one)
    assert [prompt.text for prompt in other] == [
        prompt.text.replace("26 Jul 2024", "09 Jan 2025").replace("2024-07-26", "2025-01-09") for prompt in prompts
    ]
    if kind == "llama 3":
        own = TASK.prompts(3, format="chat", tokenizer=one, template_options={"date_string": "today"})
        assert "Today: today\n" in own[0].text


@given(day=st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)))
def test_the_fixed_clock_writes_what_a_clock_writes(tokenizers, day):
    form = "|".join([*(f"%{one}" for one in PADDED), "%-d", "%-m", "%-I", "%-H", "%d. %B '%y"])
    one = copy(tokenizers["chatml"])
    one.chat_template = '  {% if true %}\n{{ strftime_now("' + form + '") }}<{% endif %}' + CHATML
    text = chat_format(one, date=f"{day:%Y-%m-%d}")(Turns(None, ("In", "Out"), (), "a"))
    assert text.split("<")[0] == day.replace(hour=0, minute=0, second=0, microsecond=0).strftime(form)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"date": "26 Jul 2024"}, "date to be a day, YYYY-MM-DD; got '26 Jul 2024'"),
        ({"date": "2024-02-30"}, "date to be a day"),
        ({"template_options": {"tokenize": True}}, "template_options that a chat template reads; got tokenize"),
        ({"template_options": {"x": object()}}, "written as JSON"),
        ({"template_options": ["x"]}, "template_options to be a mapping"),
    ],
)
def test_settings_of_a_chat_are_checked(settings, match):
    with pytest.raises(ArgumentError, match=match):
        Chat(**settings)


def test_an_option_that_the_template_does_not_mention(make_tokenizer):
    one = make_tokenizer(chat_template=QWEN_3)
    with pytest.raises(ArgumentError, match="the model's chat template mentions; got 'enable_thinkin'"):
        TASK.prompts(1, format="chat", tokenizer=one, template_options={"enable_thinkin": False})


def test_a_chat_in_a_record():
    chat = Chat("Be brief.", template_options={"enable_thinking": False})
    assert format_of(json.loads(json.dumps(format_facts(chat)))) == chat
    assert format_facts(Chat()) == format_facts("chat") == {"format": "chat"}
    assert format_of({"format": "qa"}) == "qa"
    assert len({chat, Chat("Be brief.", template_options={"enable_thinking": False}), Chat()}) == 2
