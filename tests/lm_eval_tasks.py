"""Small tasks of lm-evaluation-harness, as the texts of their YAML files, and their rows."""

import json
from pathlib import Path
from typing import Any

CHOICE = """
task: words
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
output_type: multiple_choice
description: "the quick brown fox and the lazy dog.\\n\\n"
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_choice: options
doc_to_target: "{{{{options.index(answer)}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
GENERATE = """
task: ends
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
output_type: generate_until
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: {until}, max_gen_toks: 12, do_sample: false, temperature: 0.0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
ROLLING = """
task: texts
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: word_perplexity}}
"""
ROWS = [
    {"question": "the capital of France is", "options": ["Paris", "the lazy dog", "fox"], "answer": "Paris"},
    {"question": "the quick brown", "options": ["fox", "dog jumps over", "France"], "answer": "fox"},
    {"question": "the quick brown fox jumps over the lazy", "options": ["France", "dog"], "answer": "dog"},
    {"question": "1 + 2 =", "options": ["3", "1", "2", "12"], "answer": "3"},
    {"question": "the fox jumps and the dog is", "options": ["lazy", "quick", "brown and quick"], "answer": "lazy"},
]
TEXTS = [{"text": "the capital of France is Paris and " * 12}, {"text": "the lazy dog"}]


def write_task(folder: Path, template: str, rows: list[dict[str, Any]] = ROWS, **fields: Any) -> Path:
    """The YAML file of a task, with its rows and the cache of the package datasets beside it."""
    name = template.split("task: ")[1].split("\n")[0]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / f"{name}.yaml" if name.isalpha() else folder / "task.yaml"
    path.write_text(template.format(data=data, cache=folder / "cache", **fields), encoding="utf-8")
    return path
