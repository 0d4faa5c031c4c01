from copy import deepcopy
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens import evaluate
from ivlens.errors import ArgumentError, PromptError
from ivlens.tasks import Example, Task, Turns, chat_format, load_task
from ivlens.tasks.formats import FORMATS, labelled, plain, qa
from ivlens.vocabulary import FormatName

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
SHOTS = (Example("go", ("went",)), Example("dream", ("dreamed", "dreamt")))
TURNS = Turns("Write the past tense.", ("Verb", "Past tense"), SHOTS, "sing")
BARE = Turns(None, ("Input", "Output"), (), "sing")
TASK = Task(
    "past",
    [(f"verb{n}", f"past{n}") for n in range(10)],
    instructions=("Write the past tense.",),
    labels=("Verb", "Past tense"),
)


def test_the_names_of_formats_are_those_of_the_vocabulary():
    assert get_args(FormatName) == (*FORMATS, "chat")


def test_labelled():
    assert labelled(TURNS) == (
        "Write the past tense.\n\nVerb: go\nPast tense: went\n\n"
        "Verb: dream\nPast tense: dreamed\n\nVerb: sing\nPast tense:"
    )
    assert labelled(BARE) == "Input: sing\nOutput:"


def test_plain_and_qa():
    assert plain(TURNS).endswith("Input: dream\nOutput: dreamed\n\nInput: sing\nOutput:")
    assert qa(TURNS).startswith("Write the past tense.\n\nQ: go\nA: went\n\n")
    assert qa(BARE) == "Q: sing\nA:"


def test_chat_turns(chat_tokenizer):
    assert chat_format(chat_tokenizer, system="Be brief.", assistant_prefix="Answer:")(TURNS) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWrite the past tense.\n\ngo<|im_end|>\n<|im_start|>assistant\nwent<|im_end|>\n"
        "<|im_start|>user\ndream<|im_end|>\n<|im_start|>assistant\ndreamed<|im_end|>\n"
        "<|im_start|>user\nsing<|im_end|>\n<|im_start|>assistant\nAnswer:"
    )
    assert chat_format(chat_tokenizer)(BARE) == "<|im_start|>user\nsing<|im_end|>\n<|im_start|>assistant\n"


def test_instruction_stands_before_the_query_without_demonstrations(chat_tokenizer):
    text = chat_format(chat_tokenizer)(Turns("Write the past tense.", ("a", "b"), (), "sing"))
    assert text.startswith("<|im_start|>user\nWrite the past tense.\n\nsing<|im_end|>")


def test_chat_prompts_hold_their_special_tokens_and_the_answers_space(chat_tokenizer):
    prompt = TASK.prompts(1, format="chat", tokenizer=chat_tokenizer)[0]
    assert not prompt.special_tokens
    assert prompt.answers[0].startswith("past")
    assert prompt.token_ids(chat_tokenizer)[0] == chat_tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert prompt.encode(chat_tokenizer).answer_ids
    prefixed = TASK.prompts(1, format="chat", tokenizer=chat_tokenizer, assistant_prefix="Answer:")[0]
    assert prefixed.text == prompt.text + "Answer:"
    assert prefixed.answers[0].startswith(" past")


def test_a_chat_format_can_be_passed_as_it_is(chat_tokenizer):
    by_name = TASK.prompts(3, format="chat", tokenizer=chat_tokenizer, system="Be brief.")
    assert TASK.prompts(3, format=chat_format(chat_tokenizer, "Be brief.")) == by_name


def test_any_callable_is_a_format():
    prompt = TASK.prompts(1, format=lambda turns: f"{turns.query} -> ", shots=0)[0]
    assert prompt.text == f"{prompt.input} -> "
    assert prompt.answers == (prompt.input.replace("verb", "past"),)
    assert prompt.special_tokens


HEADERS = {
    "<|im_start|>assistant:": "",
    "<|im_start|>": "",
    "[/INST] ": " ",
    "ASSISTANT: ": " ",
    "assistant\n\n": "",
    "<|im_start|>assistant\n<think>\n\n</think>\n\n": "",
}


@pytest.mark.parametrize(("header", "space"), HEADERS.items())
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("shots", [0, 3])
def test_prompt_and_answer_are_what_the_template_writes(make_tokenizer, header, space, bos, shots):
    turn = (
        "{% if m.role == 'assistant' %}" + header + "{{ m.content }}<|im_end|>{% else %}[U]{{ m.content }}{% endif %}"
    )
    template = "{% for m in messages %}" + turn + "{% endfor %}"
    one = make_tokenizer("<s> $A", ("{{ bos_token }}" if bos else "") + template)
    for prompt in TASK.prompts(4, shots=shots, instruction=False, format="chat", tokenizer=one):
        whole = "<s>" * bos
        for asked in [*_shown(prompt.text, header), prompt.input]:
            whole += f"[U]{asked}{header}{asked.replace('verb', 'past')}<|im_end|>"
        assert whole == prompt.text + prompt.answers[0] + "<|im_end|>"
        assert whole.count("[U]") == shots + 1
        assert prompt.answers[0] == space + prompt.input.replace("verb", "past")
        encoded = prompt.encode(one)
        ids = [*encoded.prompt_ids, *encoded.answer_ids]
        assert ids == one(prompt.text + prompt.answers[0], add_special_tokens=False)["input_ids"]
        assert ids.count(one.bos_token_id) == bos


def _shown(text, header):
    return [turn.split(header)[0] for turn in text.split("[U]")[1:-1]]


TURNS_OF = {
    "gemma": "<s>{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>{% endfor %}",
    "phi": "{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{{ m.content }}</s>{% endfor %}",
    "llama": "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("template", TURNS_OF.values(), ids=TURNS_OF)
@given(asked=TEXT, answer=TEXT)
def test_any_prompt_and_answer_begin_what_the_template_writes(make_tokenizer, template, asked, answer):
    one = make_tokenizer("<s> $A", template)
    (prompt,) = Task("t", [(asked, answer)]).prompts(shots=0, instruction=False, format="chat", tokenizer=one)
    messages = [{"role": "user", "content": asked.strip()}, {"role": "assistant", "content": answer.strip()}]
    assert one.apply_chat_template(messages, tokenize=False).startswith(prompt.text + prompt.answers[0])
    encoded = prompt.encode(one)
    assert one.decode([*encoded.prompt_ids, *encoded.answer_ids]) == prompt.text + prompt.answers[0]


def test_the_prompt_is_what_stands_before_an_answer_not_what_begins_a_thought(make_tokenizer):
    turns = (
        "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<|im_end|>' }}{{ m.content }}{% endfor %}"
    )
    thinks = turns + "{% if add_generation_prompt %}<|im_end|><think>{% endif %}"
    assert chat_format(make_tokenizer(chat_template=thinks))(BARE) == "<|im_start|>sing<|im_end|>"


def test_options_of_the_template(make_tokenizer, chatml):
    thinks = "{% if not enable_thinking | default(true) %}/no_think{% endif %}"
    one = make_tokenizer(chat_template=thinks + chatml)
    assert chat_format(one, enable_thinking=False)(BARE) == "/no_think" + chat_format(one)(BARE)


def test_the_answers_space_where_the_template_has_none(smollm2):
    """0.00 where a space was put before the answer; the demonstrations have none."""
    one = deepcopy(smollm2.tokenizer)
    one.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}:{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
    )
    task = load_task("present-past")
    task = replace(task, examples=task.examples[:137])  # those that 10 of 12 was measured with
    prompts = task.prompts(12, shots=8, format="chat", tokenizer=one)
    assert prompts[0].text.endswith("<|im_start|>assistant:")
    assert not any(answer[0].isspace() for prompt in prompts for answer in prompt.answers)
    assert evaluate(smollm2, prompts).accuracy == pytest.approx(10 / 12)


@pytest.mark.parametrize(
    "template", ["", "{{ messages[0].content }}", "{% for m in messages %}{{ m.role }}{% endfor %}"]
)
def test_template_that_drops_the_answer(make_tokenizer, template):
    with pytest.raises(PromptError, match="without the assistant's turn; use format='labelled'"):
        chat_format(make_tokenizer(chat_template=template or " "))(BARE)


@pytest.mark.parametrize("given", [None, 3, b"text", ["text"], ""])
def test_a_format_that_gives_no_text(given):
    with pytest.raises(PromptError):
        TASK.prompts(1, format=lambda turns: given)


def test_one_bos_from_a_callable_format(make_tokenizer, chatml):
    one = make_tokenizer("<s> $A", "{{ bos_token }}" + chatml)

    def render(turns):
        messages = [{"role": "user", "content": turns.query}]
        return one.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    ours = TASK.prompts(3, shots=0, instruction=False, format=render)
    named = TASK.prompts(3, shots=0, instruction=False, format="chat", tokenizer=one)
    assert [prompt.encode(one) for prompt in ours] == [prompt.encode(one) for prompt in named]
    assert all(prompt.token_ids(one).count(one.bos_token_id) == 1 for prompt in ours)


def test_tokenizer_without_a_chat_template_names_the_alternatives(tokenizer):
    with pytest.raises(PromptError, match="use format='labelled' or format='plain' or format='qa' instead"):
        chat_format(tokenizer)


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
NO_TURNS = "{% if messages | length > 1 %}{{ raise_exception('One turn only') }}{% endif %}"


def drops_system(template):
    return template.replace("in messages %}", "in messages if message['role'] != 'system' %}")


@pytest.mark.parametrize("spoil", [drops_system, NO_SYSTEM.__add__])
def test_template_that_drops_or_refuses_the_system_message(make_tokenizer, chatml, spoil):
    one = make_tokenizer(chat_template=spoil(chatml))
    with pytest.raises(PromptError, match="pass system=None"):
        chat_format(one, system="Be brief.")(TURNS)
    assert chat_format(one)(TURNS) == chat_format(make_tokenizer(chat_template=chatml))(TURNS)


def test_template_that_refuses_the_turns(make_tokenizer, chatml):
    with pytest.raises(PromptError, match="One turn only; use format='labelled'"):
        chat_format(make_tokenizer(chat_template=NO_TURNS + chatml))(TURNS)


def test_options_that_do_not_go_together(chat_tokenizer):
    with pytest.raises(ArgumentError, match="pass tokenizer="):
        TASK.prompts(1, format="chat")
    with pytest.raises(ArgumentError, match="only with format='chat'"):
        TASK.prompts(1, system="Be brief.")
    with pytest.raises(ArgumentError, match="only with format='chat'"):
        TASK.prompts(1, format="qa", assistant_prefix="x")
    names = "'labelled', 'plain', 'qa', 'chat' or a Chat or a callable"
    with pytest.raises(ArgumentError, match=f"one of {names}; got 'lablled'"):
        TASK.prompts(1, format="lablled")
