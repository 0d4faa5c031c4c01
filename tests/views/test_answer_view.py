"""The first section of a comparison's page: the answer in words, what to do next, a real prompt of each fallen task."""

from typing import Any

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
    parts = answer_parts(comparison(["base", "after"], ["present-past"], learned=("word-topic",), prompts=PROMPTS,
                                    replies=REPLIES, rows=rows))  # fmt: skip
    return "\n".join(map(str, parts)).replace("\u00a0", " ")


def test_it_says_what_fell_what_is_still_there_and_what_to_run(comparison: Any) -> None:
    text = answered(comparison, verdict="activation drowned, recoverable")
    assert "smollm2 was compared with 1 checkpoint of it on 1 task, each with 30 test prompts" in text
    assert "after: 1 task fell: present-past from 90% to 70%, by 20 points (-10 to 30)." in text
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
        assert "ivlens compare smollm2 after --tasks present-past --n-test 1250 --out more-prompts" in text
        assert ("present-past from 90% to 70%" in text) == (verdict != "not shown to have fallen")


def test_what_was_saved_before_answers_were_kept_is_told_without_them(comparison: Any) -> None:
    text = "\n".join(map(str, answer_parts(comparison())))
    assert "after-3:" in text
    assert "right answer" not in text
    assert answer_parts(comparison(["base"])) == ["<p>No checkpoint was measured.</p>"]
