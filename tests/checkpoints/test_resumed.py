"""A comparison that finds all its measures loads no model, reads no weights, and asks each tokenizer once."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import ivlens
from ivlens import Task
from ivlens.checkpoints import CheckpointConfig, compare_checkpoints, kept_tensors
from ivlens.models.packaged import PACKAGED, Packaged, Wheel
from tiny_models import WORDS

CONFIG = CheckpointConfig(
    n_clean=4, groups=2, n_corrupted=2, k=2, shots=1, n_test=3, n_validation=2, layers=(0,), scales=(1.0,),
    random_seeds=(0,), general=False,
)  # fmt: skip
TASK = Task("next", tuple(zip(WORDS, [*WORDS[1:], WORDS[0]], strict=True)), ("the fox",), ("Q", "A"))
PACKED = Packaged(
    "packed", "a packaged model", "packed.gguf", "0" * 64, (Wheel("packed==1", "packed.whl", "1" * 64, ""),)
)


class Loads(list[str]):
    """The sources that were loaded."""


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    loaded, load_model = Loads(), ivlens.load_model

    def load(source: Any, **options: Any) -> Any:
        loaded.append(Path(source).name)
        return load_model(source, **options)

    monkeypatch.setattr("ivlens.checkpoints.sources.load_model", load)
    for where in ("facts_cache", "kept_tensors"):  # times are trusted at once
        monkeypatch.setattr(f"ivlens.checkpoints.{where}.SETTLED", -1.0)
    return loaded


def note_checksums(folder: Path) -> None:
    """What converting the packaged model's file would note beside it."""
    files = [path for path in folder.iterdir() if path.name != "checksums.json"]
    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in files}
    noted = {"made of": {"gguf": PACKED.sha256, "conversion": 1}, "sha256": found}
    (folder / "checksums.json").write_text(json.dumps(noted))


@pytest.fixture
def sources(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a packaged base; beside it, that of a checkpoint."""
    monkeypatch.setenv("IVLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PACKAGED, "packed", PACKED)
    for seed, folder in enumerate((PACKED.folder, tmp_path / "tuned")):
        tiny_hf("llama", seed=seed, num_hidden_layers=1, tie_word_embeddings=False).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    note_checksums(PACKED.folder)
    return PACKED.folder


def compared(tmp_path: Path, base: str | Path = "packed") -> str:
    found = compare_checkpoints(base, {"tuned": tmp_path / "tuned"}, [TASK], CONFIG, out=tmp_path / "out")
    assert found.failures == {}
    return found.to_frame().to_csv()


def other_weights(folder: Path) -> None:
    """Other bytes of the same size and time."""
    path = folder / "model.safetensors"
    before, weights = path.stat(), load_file(path)
    weights["lm_head.weight"] = weights["lm_head.weight"].flip(0).contiguous()
    save_file(weights, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("packaged", [True, False])
def test_what_is_unchanged_is_not_loaded_and_what_changed_is(
    sources: Path, tmp_path: Path, loads: Loads, packaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = "packed" if packaged else shutil.copytree(sources, tmp_path / "base")
    first = compared(tmp_path, base)
    assert loads == ["packed" if packaged else "base", "tuned"]
    loads.clear()
    assert compared(tmp_path, base) == first
    assert loads == []

    with monkeypatch.context() as context:  # the base's tensors, found whole then, are not read either
        context.setattr(kept_tensors, "stream_tensors", lambda path: pytest.fail(f"{path.name} was read"))
        context.setattr("ivlens.checkpoints.facts_cache.file_digest", lambda *_: pytest.fail("hashed again"))
        assert compared(tmp_path, base) == first

    other_weights(tmp_path / "tuned")
    tuned = compared(tmp_path, base)
    assert (loads, tuned != first) == (["tuned"], True)
    loads.clear()
    other_weights(sources if packaged else tmp_path / "base")
    note_checksums(sources)
    assert compared(tmp_path, base) != tuned
    assert loads == ["packed" if packaged else "base", "tuned"]  # what is compared with the base depends on both


def test_a_packaged_models_weights_are_not_hashed_for_its_tokenizer(
    sources: Path, tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(tmp_path)
    hashed: list[str] = []

    def digest(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("ivlens.models.packaged._sha256", digest)
    compared(tmp_path)
    assert hashed
    assert "model.safetensors" not in hashed
    ivlens.load_model("packed")
    assert "model.safetensors" in hashed


def test_a_tokenizer_is_opened_once_for_all_general_abilities(
    sources: Path, tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ivlens.checkpoints import sources as checkpoint_sources

    compared(tmp_path)
    opened, open_tokenizer = [], checkpoint_sources.open_tokenizer
    monkeypatch.setattr(
        checkpoint_sources, "open_tokenizer", lambda *of: (opened.append(of[0]), open_tokenizer(*of))[1]
    )
    under_test = checkpoint_sources.CheckpointUnderTest(
        checkpoint_sources.CheckpointSource("base", "packed"), {}, tmp_path / "out" / "facts"
    )
    assert under_test.tokenizer() is under_test.tokenizer()
    assert opened == ["packed"]
