"""Odd folders: each is the model that its files mean, or one clear error; nothing in them is run."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ivlens import ArgumentError, load_model
from ivlens.errors import IvlensError, SourceError, SourceWarning
from ivlens.models.sources import open_source

Change = Callable[[Path], object]
TOKENS = torch.arange(10, 40)[None]
CODE = "open(__file__ + '.ran', 'w')\nclass Own: pass\nOwnConfig = OwnModel = OwnTokenizer = Own\n"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def folder(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Path:
    """A Hugging Face folder of a tiny llama with untied embeddings."""
    return saved(tiny_hf("llama", tie_word_embeddings=False), tiny_tokenizer(), tmp_path / "base")


def saved(model: Any, tokenizer: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


def error_of(folder: Path) -> str:
    """What ``load_model`` says of a folder, nothing if it loads; anything but an error of ours ends the test."""
    try:
        load_model(folder)
    except IvlensError as error:
        return str(error)
    return ""


def set_in(file: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def written(file: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """The weights with something changed in them."""

    def made(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return made


def added(*names: str, shape: tuple[int, ...] = (32,)) -> Change:
    return rewritten(lambda weights: weights.update({name: torch.randn(shape) for name in names}))


def poisoned(*names: str, value: float = float("nan")) -> Change:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in names:
            weights[name][0] = value

    return rewritten(change)


def as_pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def with_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")


def sharded(change: Callable[[Path, dict[str, Any]], object]) -> Change:
    """The weights in two files with an index, which ``change`` gets."""

    def made(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(weights)
        parts = {"one.safetensors": names[:9], "two.safetensors": names[9:]}
        for file, held in parts.items():
            save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
        change(folder, index)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return made


def twice(folder: Path, index: dict[str, Any]) -> None:
    weights = load_file(folder / "one.safetensors")
    save_file(
        load_file(folder / "two.safetensors") | {"lm_head.weight": weights["lm_head.weight"]},
        folder / "two.safetensors",
        metadata={"format": "pt"},
    )


LORA = [f"model.layers.0.self_attn.q_proj.lora_{x}.default.weight" for x in "AB"]
REFUSED: dict[str, tuple[Change, str]] = {
    "unmerged LoRA": (added(*LORA), "a parameter for every tensor of .*base; got none for .*lora_A"),
    "a bias": (added("model.layers.0.self_attn.q_proj.bias"), "every tensor of .*got none for .*q_proj.bias"),
    "one more layer": (added("model.layers.2.mlp.up_proj.weight", shape=(48, 32)), r"none for model\.layers\.2\.mlp"),
    "another task's head": (added("score.weight"), "every tensor of .*got none for score.weight"),
    "one layer less in the config": (set_in("config.json", num_hidden_layers=1), r"none for .*layers\.1.* more"),
    "not a number": (poisoned("model.norm.weight"), r"finite weights in .*base; got NaN .* in model\.norm\.weight"),
    "infinity": (poisoned("lm_head.weight", value=float("inf")), r"finite weights in .*in lm_head\.weight"),
    "endless layers": (set_in("config.json", num_hidden_layers=10**9), "num_hidden_layers 1000000000 where .* 21"),
    "a wide vocabulary": (set_in("config.json", vocab_size=10**12), "vocab_size 10+ where"),
    "wide heads": (set_in("config.json", head_dim=10**10), "head_dim 10+ where"),
    "countless heads": (set_in("config.json", num_attention_heads=10**9), "num_attention_heads 10+ where"),
    "endless positions": (set_in("config.json", max_position_embeddings=10**12), "max_position_embeddings 10+ where"),
    "negative layers": (set_in("config.json", num_hidden_layers=-(10**9)), "num_hidden_layers -10+ where"),
    "infinite width": (set_in("config.json", hidden_size=float("inf")), "hidden_size inf where"),
    "no heads": (set_in("config.json", num_attention_heads=0), "a readable model at .*base"),
    "other heads": (
        set_in("config.json", num_attention_heads=8),
        "tensors of its config's shapes; got .*proj.weight of",
    ),
    "no dtype": (set_in("config.json", dtype="float3", torch_dtype="float3"), ""),
    "quantised": (
        set_in("config.json", quantization_config={"quant_method": "gptq"}),
        "weights that are not quantised",
    ),
    "a kernel": (set_in("config.json", attn_implementation="evil/kernel"), "attention of transformers' own"),
    "other weights": (
        set_in("config.json", transformers_weights="x.safetensors"),
        "transformers_weights in the config",
    ),
    "no model type": (set_in("config.json", model_type=None), "config.json with a model_type; got None"),
    "unknown type with code": (
        set_in("config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"}),
        "it needs Python code that lies beside it, which is never run",
    ),
    "a list as config": (written("config.json", "[]"), "an object in its config.json; got a list"),
    "a deep config": (written("config.json", "[" * 100_000), "a readable model at"),
    "a config of other bytes": (written("config.json", b"\xff\xfe{"), "a readable model at"),
    "pickled weights": (
        as_pickle,
        "got pytorch_model.bin, which can run code.*convert to safetensors.*save_pretrained",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "weights as safetensors; got no model.safe"),
    "no bytes": (written("model.safetensors", b""), "a readable model at .*SafetensorError"),
    "other bytes": (written("model.safetensors", b"\xff" * 4096), "a readable model at .*SafetensorError"),
    "no tensors": (rewritten(lambda weights: weights.clear()), "where its files allow at most 0"),
    "distributed": (written("shard-00000-model-00000-of-00002.safetensors", b""), "a distributed checkpoint"),
    "an adapter beside it": (with_adapter, r"model and an adapter in one folder; move .*load_model\(folder, adapter="),
    "a lost shard": (sharded(lambda folder, _: (folder / "two.safetensors").unlink()), "got no two.safetensors"),
    "a tensor listed only": (
        sharded(lambda _, index: index["weight_map"].update({"more": "one.safetensors"})),
        "got no more in one.safetensors",
    ),
    "a shard elsewhere": (
        sharded(lambda _, index: index["weight_map"].update({"more": "../one.safetensors"})),
        "'../one.safetensors' as a file",
    ),
    "a tensor in two shards": (sharded(twice), "every tensor once; got lm_head.weight in two files"),
    "an index of numbers": (
        sharded(lambda _, index: index.update(weight_map=[1, 2])),
        "no files in model.safetensors.index",
    ),
    "tokenizer settings only": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "with a tokenizer; got no tokenizer.*tokenizer=",
    ),
    "a vocabulary without merges": (
        lambda folder: (folder / "tokenizer.json").rename(folder / "vocab.json"),
        "no tokenizer there; pass tokenizer=",
    ),
    "a broken tokenizer": (written("tokenizer.json", "{}"), "a readable tokenizer at .*base.*pass tokenizer="),
    "a tokenizer of its own code": (
        set_in("tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]}),
        "",
    ),
}


@pytest.mark.filterwarnings("ignore::ivlens.SourceWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_files_model_is_refused_in_one_line(folder: Path, name: str) -> None:
    change, text = REFUSED[name]
    change(folder)
    (folder / "own.py").write_text(CODE)
    started = time.monotonic()
    error = error_of(folder)
    assert time.monotonic() - started < 30
    assert re.search(text, error), error
    assert len(error) < 900
    assert "\n" not in error
    assert "trust_remote_code" not in error
    assert not (folder / "own.py.ran").exists()


UNDERSTOOD: dict[str, Change] = {
    "as it is": lambda folder: None,
    "shards": sharded(lambda folder, index: None),
    "old rotary buffers": added("model.layers.0.self_attn.rotary_emb.inv_freq", shape=(4,)),
    "training's own files": lambda folder: [
        (folder / name).write_bytes(pickle.dumps({}))
        for name in ("training_args.bin", "optimizer.pt", "pytorch_model.bin")
    ],
}


@torch.no_grad()
@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_is_understood_is_the_model_of_the_weights(folder: Path, tiny_hf: Any, name: str) -> None:
    UNDERSTOOD[name](folder)
    theirs = tiny_hf("llama", tie_word_embeddings=False)
    torch.testing.assert_close(load_model(folder)(TOKENS), theirs(TOKENS).logits, atol=1e-4, rtol=0)


def test_a_tied_head_that_is_written_once_more_is_no_stray(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> None:
    folder = saved(tiny_hf("llama"), tiny_tokenizer(), tmp_path / "tied")
    rewritten(lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()}))(folder)
    model = load_model(folder)
    assert torch.equal(model.W_E.T, model.W_U)


@pytest.mark.parametrize(
    ("family", "buffer"),
    [
        ("gpt2", "h.0.attn.bias"),
        ("gpt_neox", "layers.0.attention.masked_bias"),
        ("gptj", "h.0.attn.bias"),
        ("gpt_neo", "h.0.attn.attention.bias"),
    ],
)
def test_masks_of_older_checkpoints_are_no_strays(
    tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any, family: str, buffer: str
) -> None:
    folder = saved(tiny_hf(family), tiny_tokenizer(), tmp_path / family)
    without = load_model(folder)
    stem = "gpt_neox" if family == "gpt_neox" else "transformer"
    added(f"{stem}.{buffer}", shape=(1, 1, 8, 8))(folder)
    tokens = TOKENS[:, :8]
    assert torch.equal(load_model(folder)(tokens), without(tokens))


def test_code_that_a_known_model_names_is_told_of_and_never_run(folder: Path) -> None:
    set_in("config.json", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})(folder)
    set_in("tokenizer_config.json", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]})(folder)
    (folder / "own.py").write_text(CODE)
    with pytest.warns(
        SourceWarning, match="names Python code of its own, which is never run; it is read as a plain llama"
    ):
        load_model(folder)
    assert not (folder / "own.py.ran").exists()


@pytest.mark.parametrize("what", ["config", "tokenizer"])
@pytest.mark.slow
def test_nobody_is_asked_on_standard_input_whether_to_run_code(folder: Path, what: str) -> None:
    if what == "config":
        set_in("config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})(folder)
    else:
        values = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
        set_in("tokenizer_config.json", **values)(folder)
    (folder / "own.py").write_text(CODE)
    command = [sys.executable, "-c", f"import ivlens; ivlens.load_model({str(folder)!r})"]
    answer = subprocess.run(command, input="y\n" * 99, capture_output=True, text=True, check=False, timeout=120)
    assert "[y/N]" not in answer.stdout + answer.stderr
    assert not (folder / "own.py.ran").exists()


def test_two_sets_of_weights_are_told_of(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.warns(SourceWarning, match=r"model.safetensors is read, model.safetensors.index.json is not"):
        load_model(folder)


def test_a_folder_goes_before_a_packaged_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("smollm2"))
    monkeypatch.chdir(folder.parent)
    facts = load_model("smollm2").ivlens_facts
    assert (facts["n_layers"], facts["source"]) == (2, os.path.join(".", "smollm2"))


@pytest.mark.parametrize("name", ["", " ", "x" * 5000, "a\0b", "\udcff"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises((ArgumentError, SourceError), match=r"path or a name|readable model at|name or path"):
        load_model(name)


def test_weights_too_large_for_half_precision_are_named(folder: Path) -> None:
    poisoned("lm_head.weight", value=1e30)(folder)
    assert load_model(folder).cfg.dtype == torch.float32
    with pytest.raises(SourceError, match=r"NaN or infinity in lm_head\.weight.*float16"):
        load_model(folder, dtype=torch.float16)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_a_config_gives_a_model_or_one_error(folder: Path, data: st.DataObject) -> None:
    path = folder / "config.json"
    whole = path.read_text()
    config = json.loads(whole)
    values = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({})
    )
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(values)
    path.write_text(json.dumps(config))
    assert len(error_of(folder)) < 900
    path.write_text(whole)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_cut_or_flipped_file_gives_a_model_or_one_error(folder: Path, data: st.DataObject) -> None:
    path = folder / data.draw(
        st.sampled_from(["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
    )
    whole = path.read_bytes()
    at = data.draw(st.integers(0, min(len(whole), 4000) - 1))
    cut = data.draw(st.booleans())
    path.write_bytes(
        whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]
    )
    assert len(error_of(folder)) < 900
    path.write_bytes(whole)


def test_objects_that_are_no_model_say_what_to_give(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(SourceError, match=r"a model source; got a Linear; give .*Hugging Face folder"):
        load_model(torch.nn.Linear(2, 2))
    injected = tiny_hf("llama")
    injected.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(
        SourceError, match=r"without adapters on it.*load_model\(base, adapter=folder\), or give a PeftModel"
    ):
        load_model(injected, tokenizer=tiny_tokenizer())


def test_a_model_object_with_broken_weights_is_refused(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("llama")
    with torch.no_grad():
        theirs.model.norm.weight[0] = float("nan")
    with pytest.raises(
        SourceError, match=r"finite weights in LlamaForCausalLM object; got NaN .* in model\.norm\.weight"
    ):
        load_model(theirs, tokenizer=tiny_tokenizer())


def test_a_revision_is_for_hub_names_only(folder: Path, tiny_hf: Any, tiny_hooked: Any, tiny_tokenizer: Any) -> None:
    for source in (folder, tiny_hf("llama"), tiny_hooked()):
        with pytest.raises(IvlensError, match="a revision only with a hub name") as caught:
            load_model(source, revision="v1", tokenizer=tiny_tokenizer())
        assert len(str(caught.value)) < 300


def test_a_source_is_opened_without_a_tokenizer_of_its_own(folder: Path, tiny_tokenizer: Any) -> None:
    (folder / "tokenizer.json").unlink()
    tokenizer = tiny_tokenizer()
    assert open_source(folder, torch.float32, None, tokenizer).tokenizer is tokenizer


def test_the_folder_of_a_run_is_refused_with_what_to_give_instead(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    folder.rename(run / "model")
    assert error_of(run).endswith(f"which has no config.json; give '{run}/model', where the model of this run is")
    (run / "model").rename(run / "adapter")
    (run / "adapter" / "config.json").rename(run / "adapter" / "adapter_config.json")
    assert f"the adapter '{run}/adapter': load_model(base, adapter=folder)" in error_of(run)
