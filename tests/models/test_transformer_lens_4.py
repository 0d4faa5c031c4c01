"""ivlens without HookedTransformer, which TransformerLens 4 has not; from TransformerLens 3 it is taken away."""

import importlib
import os
import pkgutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens as iv
from ivlens.models.engines import has_hooked
from tiny_models import WORDS

OF_EXTRAS = {"ivlens.integrations.lm_eval_model": "lm_eval"}  # modules that need a package of an extra
COMMAND = """
import sys
import transformer_lens
vars(transformer_lens).pop("HookedTransformer", None)
sys.modules["transformer_lens.HookedTransformer"] = None
from ivlens import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_hf: Any, tiny_tokenizer: Any) -> Path:
    """``model``, of a family that a HookedTransformer represents, and ``next.csv``."""
    folder = tmp_path_factory.mktemp("without")
    tiny_hf("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = "".join(f"{one},{two}\n" for one, two in pairwise(WORDS))
    (folder / "next.csv").write_text("input,output\n" + rows, encoding="utf-8")
    return folder


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(Path(iv.__file__).parents[1])}
    line = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_every_module_and_public_name_is_imported() -> None:
    modules = [each.name for each in pkgutil.walk_packages(iv.__path__, "ivlens.") if "__main__" not in each.name]
    assert len(modules) > 80
    without = [name for name, package in OF_EXTRAS.items() if find_spec(package) is None]
    for name in {*modules} - {*without}:
        importlib.import_module(name)
    assert all(getattr(iv, name) is not None for name in iv.__all__)


def test_hooked_transformer_is_there_up_to_version_3() -> None:
    assert has_hooked() == (int(version("transformer-lens").split(".")[0]) < 4)


@pytest.mark.slow
def test_heads_are_located_by_the_command_line(folder: Path) -> None:
    options = ("--instruction", "the fox jumps", "--n-clean", "3", "--n-corrupted", "3", "--out", "heads")
    run = command(folder, "heads", "model", "next.csv", *options)
    assert run.returncode == 0, run.stderr
    effects = iv.HeadEffects.load(next((folder / "heads").glob("*.safetensors")))
    assert effects.method == "exact"
    task = iv.load_task(folder / "next.csv", instructions="the fox jumps")
    bridge = iv.load_model(folder / "model", engine="bridge")
    expected = iv.locate_heads(bridge, task, n_clean=3, n_corrupted=3)
    torch.testing.assert_close(effects.values, expected.values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "heads model next.csv --n-clean 3 --n-corrupted 3 --engine hooked",
            "got a later version, which has not; load the",
        ),
        ("train model --task next.csv --out trained", "a HookedTransformer for training, which is not yet done on a"),
    ],
)
def test_what_needs_it_says_so(folder: Path, arguments: str, message: str) -> None:
    run = command(folder, *arguments.split(), "--instruction", "the fox jumps")
    assert (run.returncode, message in " ".join(run.stderr.split())) == (1, True), run.stderr
