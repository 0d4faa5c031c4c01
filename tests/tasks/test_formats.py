import pytest

from ivlens.errors import ArgumentError, PromptError
from ivlens.tasks import Example, Task, Turns, chat_format
from ivlens.tasks.formats import labelled, plain, qa

SHOTS = (Example("go", ("went",)), Example("dream", ("dreamed", "dreamt")))
TURNS = Turns("Write the past tense.", ("Verb", "Past tense"), SHOTS, "sing")
BARE = Turns(None, ("Input", "Output"), (), "sing")
TASK = Task(
    "past",
    [(f"verb{n}", f"past{n}") for n in range(10)],
    instructions=("Write the past tense.",),
    labels=("Verb", "Past tense"),
)


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
    with pytest.raises(ArgumentError, match="one of 'labelled', 'plain', 'qa', 'chat'; got 'lablled'"):
        TASK.prompts(1, format="lablled")
