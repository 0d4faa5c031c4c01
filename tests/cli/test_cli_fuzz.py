"""Every verb with odd values: one line and a status, never a traceback, and no file that was there is changed."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ivlens import cli
from ivlens.cli.verbs import VERBS as KNOWN

pytestmark = pytest.mark.slow

SECONDS, SEED = 20, 0
ENDLESS = ("--steps", "--n-jobs")  # large numbers are theirs to have
VALUES = (
    "", " ", "-", "--", "-1", "0", "1", "2", "1.7", "nan", "inf", "-inf", "1e400", "1e9", "10" * 20, "x", "1,2", "0-1",
    "5-2", "0-99999999999", "1.7.3", "..", "/dev/null", "/proc/none/x", "no/such/file", "\udcff", "a\nb", "\x1b[31m",
    "x" * 5000, "None", "True", "[]", "{}", "1_0", "٣", "smollm2:x", "=", "a=", "=a", "model@none", "🙂",
)  # fmt: skip
SMALL = "--n-clean 6 --n-corrupted 2"
# for each verb a command that works, and the options to try values for, beside those that are Python's
VERBS = {
    "heads": (f"model task.json {SMALL} --k 2",
              "--k --instruction --out"),
    "vector": (f"model task.json {SMALL} --k 2 --out new/vector.safetensors",
               "--out --instruction"),
    "sweep": ("model vector.safetensors --task task.json --layers 0 --scales 1 --n-validation 2 --n-test 2",
              "--task --layers --scales --n-validation --n-test --seed --out --instruction"),
    "vectors": (".", ""),
    "tasks": ("task.json", "--fields --cloze --instruction"),
    "train": ("model --task task.json --guidance plain --steps 1 --batch-size 2 --warmup 0 --k 2 --out new",
              "--task --keep --guidance --out --lora --vector-layer --vector-scale"),
    "compare": (f"model other --tasks task.json {SMALL} --n-test 2 --k 2 --out new",
                "--tasks --learned --out"),
    "report": ("stable.safetensors --out new/report.html", "--out --title"),
}  # fmt: skip


def commands(rng: random.Random) -> Iterator[list[str]]:
    """Commands with one or two odd values in them, without end: in place of an argument, or for an option."""
    while True:
        verb = rng.choice(list(VERBS))
        words, own = map(str.split, VERBS[verb])
        options = [*own, *(each.flag for group in KNOWN[verb].generated().values() for each in group.values())]
        for _ in range(rng.choice((1, 1, 2))):
            value = rng.choice(VALUES)
            option = rng.choice([*options, ""])
            if option in ENDLESS and value.isdigit() and len(value) > 1:
                continue
            if option:
                words += [f"{option}={value}"] if rng.random() < 0.7 else [option, value]
            else:
                words[rng.randrange(len(words))] = value
        yield [verb, *words]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status of a command, and what it said on stderr."""
    try:
        status = cli.main(words)
    except SystemExit as left:
        status = int(left.code or 0)
    return status, capsys.readouterr().err


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_odd_values_end_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workshop: Path
) -> None:
    monkeypatch.chdir(workshop)
    assert run(["vector", *VERBS["vector"][0].split(), "--out", "vector.safetensors"], capsys)[0] == 0
    before, end, count = contents(workshop), time.monotonic() + SECONDS, 0
    for words in commands(random.Random(SEED)):
        if time.monotonic() > end:
            break
        shutil.rmtree("new", ignore_errors=True)
        status, said = run(words, capsys)
        assert status in (0, 1, 2), words
        assert "Traceback" not in said, words
        if status == 1:
            assert said.splitlines()[-1].startswith("ivlens: "), (words, said)
        count += 1
    after = contents(workshop)
    assert all(after.get(path) == content for path, content in before.items())
    assert count > 50
