"""A made-up sequence of two learned tasks, whose measures can be computed by hand."""

from typing import Any

import ivlens as iv

FACTS = {"chance": 0.0, "probability_stderr": 0.1, "token_probability": 0.5, "low": 0.1, "high": 0.9}
# scores by role and ability, after 0, 1 and 2 learned tasks
SCORES = {
    ("new", "first"): ((0, 0, 0, 0), (1, 1, 1, 1), (1, 1, 0, 0)),
    ("new", "second"): ((0, 0, 0, 1), (0, 0, 0, 1), (1, 1, 1, 0)),
    ("keep", "old"): ((1, 1, 1, 1), (1, 1, 1, 0), (1, 1, 0, 0)),
    ("knowledge", "old"): ((1, 1, 0, 0), (1, 1, 0, 0), (1, 0, 0, 0)),
    ("zero-shot", "reading"): ((1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0)),
    ("in-context", "reading"): ((1, 1, 0, 0), (1, 1, 1, 0), (1, 1, 1, 1)),
}
AROUND = (-0.05, -0.03, -0.01, 0.01, 0.03, 0.05)  # of a vector's measure, its values by prompt


def made_up_sequence(**provenance: Any) -> iv.ContinualRun:
    """The record; probabilities are half of the scores."""
    rows = []
    for stage in range(3):
        for (role, ability), by_stage in SCORES.items():
            scores = by_stage[stage]
            row: dict[str, Any] = {
                "stage": stage, "role": role, "ability": ability, "accuracy": sum(scores) / 4, "n": 4,
                "correct": "".join(map(str, scores)), "scores": [float(each) for each in scores],
                "probability": sum(scores) / 8, "probabilities": [each / 2 for each in scores], **FACTS,
            }  # fmt: skip
            if role == "keep":
                for name, value in (("cosine", 1 - 0.1 * stage), ("norm_ratio", 1 + 0.1 * stage), ("alignment", 0.5)):
                    row |= {name: value, f"{name}s": [value + each for each in AROUND]}
            rows.append(row)
    return iv.ContinualRun(("first", "second"), tuple(rows), provenance=provenance)
