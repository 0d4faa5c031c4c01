"""The first section of a comparison's page: the answer in words, what to do next, a real prompt of each fallen task."""

import html
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from ivlens.cli.parser import build_parser
from ivlens.cli.verbs import VERBS
from ivlens.views.checkpoints.answer import answer_parts

PROMPTS = tuple(
    {"task": "present-past", "prompt": number, "instruction": "Say it in the past.", "text": f"Input: {word}\nOutput:",
     "bare": f"bare {word}", "answer": f"{word} <b>"}
    for number, word in enumerate(("go", "sit", "run"))
)  # fmt: skip


def reply(checkpoint: str, number: int, text: str, correct: bool, steered: str, brought_back: bool) -> dict[str, Any]:
    return {"checkpoint": checkpoint, "task": "present-past", "prompt": number, "reply": text, "correct": correct,
            "steered": steered, "steered_correct": brought_back}  # fmt: skip


REPLIES = (
    *(reply("base", number, text, True, text, True) for number, text in enumerate(("went", "sat", "ran"))),
    reply("after", 0, "going", False, "goes", False),
    reply("after", 1, "sitting", False, "sat, with the vector", True),
    reply("after", 2, "ran", True, "ran", True),
)


def answered(comparison: Any, **of_row: Any) -> str:
    """The answer about one task on one checkpoint."""
    record = comparison(["base", "after"], ["present-past"], learned=("word-topic",), prompts=PROMPTS, replies=REPLIES)
    rows = tuple(row | (of_row if row["checkpoint"] == "after" else {}) for row in record.rows)
    return text_of(comparison(["base", "after"], ["present-past"], learned=("word-topic",), prompts=PROMPTS,
                              replies=REPLIES, rows=rows))  # fmt: skip


def test_it_says_what_fell_what_is_still_there_and_what_to_run(comparison: Any) -> None:
    text = answered(comparison, verdict="activation drowned, recoverable")
    assert "smollm2 was compared with 1 checkpoint of it on 1 task, each with 30 test prompts" in text
    assert "after (trained on word-topic): 1 task fell: present-past from 90% to 70%, by 20 points (-10 to 30)." in text
    assert "Still there: present-past (the base&#x27;s vector brings back 70% (40% to 110%)" in text
    assert "ivlens repair smollm2 after --keep present-past --learned word-topic --out repaired" in text


def test_it_shows_a_lost_prompt_that_the_vector_brings_back(comparison: Any) -> None:
    text = answered(comparison, verdict="activation drowned, recoverable")
    for shown in ("Input: sit\nOutput:", "bare sit", "sit &lt;b&gt;", ">sat<", ">sitting<", "sat, with the vector"):
        assert shown in text, shown
    assert "going" not in text
    assert "One of 2 prompts that the base answers rightly and after does not" in text
    assert "it answers 1 of these" in text
    assert "sitting" not in answered(comparison, verdict="kept")


def test_what_is_open_says_how_many_prompts_would_decide_and_whether_the_split_holds_them(comparison: Any) -> None:
    """Of what may have fallen, and of what fell and may come back."""
    for verdict in ("not shown to have fallen", "fallen, recovery undecided"):
        text = answered(comparison, verdict=verdict, prompts_to_decide=1250.0, n_available=71)
        assert "about 1,250 prompts would decide, of 71 in its test split: give it more examples." in text
        assert "ivlens compare smollm2 after --tasks present-past --n-test 71 --out more-prompts" in text
        assert ("present-past from 90% to 70%" in text) == (verdict != "not shown to have fallen")


def test_what_it_was_trained_on_is_asked_for_where_it_is_not_known(comparison: Any) -> None:
    record = comparison(["base", "after"], ["antonym"], learned=())
    assert "NEW-TASK stands for what after was trained on." in text_of(all_with("function changed", record))
    assert "NEW-TASK" not in text_of(all_with("kept", record))


def test_where_no_number_would_decide_the_command_asks_the_whole_split(comparison: Any) -> None:
    text = answered(comparison, verdict="not shown to have fallen", n_available=71)
    assert "ivlens compare smollm2 after --tasks present-past --n-test 71 --out more-prompts" in text


def test_what_was_saved_before_answers_were_kept_is_told_without_them(comparison: Any) -> None:
    text = "\n".join(map(str, answer_parts(comparison())))
    assert "after-3:" in text
    assert "right answer" not in text
    assert answer_parts(comparison(["base"])) == ["<p>No checkpoint was measured.</p>"]


def text_of(record: Any) -> str:
    """Without the marks of words that keep a command's lines from breaking at hyphens."""
    return re.sub("</?span>", "", "\n".join(map(str, answer_parts(record))).replace("\u00a0", " "))


def all_with(verdict: str, record: Any) -> Any:
    """The comparison with one verdict on every task of its checkpoints."""
    rows = tuple(row if row["verdict"] == "base" else row | {"verdict": verdict} for row in record.rows)
    return replace(record, rows=rows)


def general(fall: float, low: float = 0.5) -> tuple[dict[str, Any], ...]:
    """Reading, which fell by this much on the checkpoint, and arithmetic, which did not."""
    falls = {("after", "reading"): fall}
    return tuple(
        {"checkpoint": checkpoint, "task": task, "n": 20, "accuracy": 0.8 - falls.get((checkpoint, task), 0.0),
         "low": low, "high": 0.9, "chance": 0.25, "forgetting": falls.get((checkpoint, task), 0.0),
         "forgetting_low": falls.get((checkpoint, task), 0.0) - 0.1, "forgetting_high": 0.6}
        for checkpoint in ("base", "after") for task in ("reading", "arithmetic")
    )  # fmt: skip


def test_where_nothing_fell_it_says_so_and_nothing_is_to_be_done(comparison: Any) -> None:
    text = text_of(all_with("kept", comparison(["base", "after"], ["capitalize", "antonym"], general=general(0.05))))
    assert "after (trained on capitalize, from 90% to 70%): no task is shown to have fallen. Kept: antonym." in text
    assert "General abilities: none of 2 is shown to have fallen." in text
    assert "Nothing is to be done." in text
    assert "<pre>" not in text


def test_general_abilities_that_the_base_may_have_guessed_are_not_said_to_fall(comparison: Any) -> None:
    guessed = comparison(["base", "after"], ["antonym"], general=general(0.4, low=0.2), learned=())
    assert "General abilities" not in text_of(all_with("kept", guessed))


def test_general_abilities_that_fell_are_said_with_the_command_that_judges_them(comparison: Any) -> None:
    text = text_of(all_with("kept", comparison(["base", "after"], ["antonym"], general=general(0.4), learned=())))
    assert "after: no task is shown to have fallen. Kept: antonym. General abilities: 1 of 2 fell: reading" in text
    assert "reading from 80% to 40%, by 40 points (30 to 60)" in text
    assert "<strong>general abilities that fell</strong>: reading (after)." in text
    assert "<pre>ivlens compare smollm2 after --tasks reading --out general-compared</pre>" in text


def test_what_the_base_could_not_do_cannot_have_fallen(comparison: Any) -> None:
    never = "not an ability of the base"
    text = text_of(all_with(never, comparison(["base", "after"], ["antonym", "synonym"], learned=())))
    assert "after: the base could hardly do any of the tasks, so none could fall." in text
    assert "<pre>ivlens compare smollm2 after --tasks antonym synonym --shots 5 --out more-shots</pre>" in text
    assert "right answer" not in text


def test_a_split_that_holds_no_more_prompts_gets_no_command_that_asks_more(comparison: Any) -> None:
    text = answered(comparison, verdict="not shown to have fallen", prompts_to_decide=1250.0, n_available=30)
    assert "about 1,250 prompts would decide, of 30 in its test split: give it more examples." in text
    assert "<pre>" not in text


OWN = {
    "model": {"source": "smollm2"}, "checkpoints": {"after": "runs/new words/model"},
    "tasks": {"verbs": "own/verbs.csv", "antonym": "ivlens", "rows": "the given rows"},
    "options": {"loading": "--dtype float64", "task files": "--fields word past",
                "cloze": "--cloze 'The past of {input} is'", "measures": "--k 5",
                "test prompts": "--n-test 9"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "tasks", "command"),
    [
        ("activation drowned, recoverable", ["verbs"],
         "repair smollm2 'runs/new words/model' --keep own/verbs.csv --learned antonym --dtype float64 "
         "--fields word past --cloze 'The past of {input} is' --out repaired"),
        ("knowledge lost", ["verbs", "rows"],
         "train smollm2 --task antonym --keep own/verbs.csv rows --dtype float64 --fields word past --out kept"),
        ("not shown to have fallen", ["verbs"],
         "compare smollm2 'after=runs/new words/model' --tasks own/verbs.csv --dtype float64 --fields word past "
         "--cloze 'The past of {input} is' --k 5 --n-test MORE --out more-prompts"),
        ("not an ability of the base", ["verbs"],
         "compare smollm2 'after=runs/new words/model' --tasks own/verbs.csv --dtype float64 --fields word past "
         "--cloze 'The past of {input} is' --k 5 --shots 5 --n-test 9 --out more-shots"),
        ("function changed", ["synonym"],
         "repair smollm2 'runs/new words/model' --keep synonym --learned antonym --dtype float64 --out repaired"),
    ],
)  # fmt: skip
def test_commands_name_what_was_loaded_and_ask_alike(
    comparison: Any, verdict: str, tasks: list[str], command: str
) -> None:
    """Files where the tasks are from files, with their options; options that a verb lacks are left out."""
    record = all_with(verdict, comparison(["base", "after"], tasks, learned=("antonym",), provenance=OWN))
    assert f"<pre>ivlens {command}</pre>" in html.unescape(text_of(record))
    words = shlex.split(command.replace("MORE", "90"))
    assert build_parser(words).parse_args(words).verb is VERBS[words[0]]


def test_a_task_s_own_instruction_is_not_given_again(comparison: Any) -> None:
    """The command line refuses an instruction where every task has its own."""
    asked = [{"task": task, "prompt": 0, "instruction": said, "text": "", "bare": "", "answer": ""}
             for task, said in (("verbs", "Give its past."), ("others", "Its own."))]  # fmt: skip
    files = {task: f"own/{task}.csv" for task in ("verbs", "others")}
    facts = OWN | {"tasks": files, "options": {"instruction": "--instruction 'Give its past.'"}}

    def text(*tasks: str) -> str:
        record = comparison(["base", "after"], tasks, learned=("antonym",), provenance=facts, prompts=tuple(asked))
        return html.unescape(text_of(all_with("knowledge lost", record)))

    given = "--instruction 'Give its past.' --out kept"
    assert f"--keep own/verbs.csv {given}" in text("verbs")
    assert f"--keep own/verbs.csv own/others.csv {given}" in text("verbs", "others")
    assert "--keep own/others.csv --out kept" in text("others")


@pytest.mark.parametrize("verdict", ["activation drowned, recoverable", "knowledge lost"])
def test_a_learned_task_that_fell_is_not_kept_too(comparison: Any, verdict: str) -> None:
    """The command line refuses a task that is both."""
    alone = comparison(["base", "after"], ["capitalize"])
    assert "<pre>" not in text_of(all_with(verdict, alone))
    beside = comparison(["base", "after"], ["capitalize", "antonym"])
    assert "--keep antonym --" in text_of(all_with(verdict, beside))


def test_checkpoints_that_could_not_be_measured_are_named(comparison: Any) -> None:
    record = comparison(["base", "after"], ["antonym"], failures={"broken": "no readable model"})
    assert "with 1 checkpoint of it on 1 task" in text_of(record)
    assert "Not measured: broken." in text_of(record)


def test_of_a_checkpoint_that_was_asked_its_learned_task_alone_no_forgetting_is_said(comparison: Any) -> None:
    text = text_of(all_with("kept", comparison(["base", "after"], ["capitalize"])))
    assert "after (trained on capitalize, from 90% to 70%): no other task was asked, so that nothing is known" in text
    assert "shown to have fallen" not in text
