"""What a repair gives away is the repaired model: to transformers, to PEFT, to mergekit."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import ivlens as iv
from ivlens.checkpoints import mergekit_names
from ivlens.errors import ArgumentError, UnsupportedError
from ivlens.models import PACKAGED, model_facts, package_versions
from ivlens.models.low_rank import change_factors
from planted_repairs import CONFIG, answers, changed, scramble_mlp, task, untouched

pytestmark = [
    pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft"),
]  # fmt: skip
TOKENS = torch.arange(10, 40)[None]
ATTENTION, MLP, REST = (0.25, 0.75), (1.0, 0.5), 0.125  # of two layers
FAMILIES = ("llama", "qwen3", "gpt2", "gpt_neox", "opt", "phi3", "gemma2", "bloom", "gptj")


@pytest.fixture
def folder(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    """``folder(name, model_type, seed)``: that of a tiny model."""

    def made(name: str, model_type: str, seed: int = 0) -> str:
        tiny_hf(model_type, seed=seed).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return made


def recorded(base: Any, tuned: Any, rest: float = REST) -> iv.Repair:
    """A repair of these models that chose the fractions above."""
    return iv.Repair(
        torch.tensor(ATTENTION, dtype=torch.float64), torch.tensor(MLP, dtype=torch.float64), rest,
        torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1), ("base", "tuned", "repaired"), ("a",), ("keep",), (),
        "greedy", 0.02, 0.5,
        provenance={
            "model": model_facts(tuned), "settings": {"base": model_facts(base)}, "versions": package_versions(),
        },
    )  # fmt: skip


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found = model(TOKENS)
    return found if isinstance(found, torch.Tensor) else found.logits


def plain(where: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(where, dtype="auto").eval()


def test_the_exported_folder_gives_the_tables_accuracies_in_plain_transformers(tmp_path: Path) -> None:
    base, tuned = untouched(), changed(scramble_mlp)
    keep = task("fox", [answers(base, "fox")], [answers(tuned, "fox")])
    learned = task("dog", [answers(tuned, "dog")], [])
    record = iv.repair(base, tuned, [keep], [learned], others=[], tolerance=1.0, config=CONFIG)
    where = iv.export_hf(iv.repaired_model(base, tuned, record), tmp_path / "repaired")
    model, tokenizer = plain(where), AutoTokenizer.from_pretrained(where)
    correct, logs = [], []
    for each in (keep, learned):
        for prompt in CONFIG.prompts(each, "test", tokenizer):
            ids, answer = tokenizer(prompt.text)["input_ids"], tokenizer(prompt.answers[0])["input_ids"]
            with torch.no_grad():
                last = model(torch.tensor([ids])).logits[0, -1].double()
            assert len(answer) == 1
            correct.append(int(last.argmax()) == answer[0])
            logs.append(last.log_softmax(-1)[answer[0]])
    assert record.correct[2].tolist() == correct
    assert torch.allclose(record.log_probability[2], torch.stack(logs), atol=1e-9)


def test_an_exported_smollm2_answers_in_plain_transformers_as_it_was_evaluated(smollm2: Any, tmp_path: Path) -> None:
    tuned = copy.deepcopy(smollm2)
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in tuned.blocks[10:20]:
            block.mlp.W_out.mul_(1 + torch.randn(block.mlp.W_out.shape, generator=made))
    depth = torch.linspace(0, 1, smollm2.cfg.n_layers, dtype=torch.float64)
    record = replace(recorded(smollm2, tuned), attention=depth, mlp=depth)
    repaired = iv.repaired_model(smollm2, tuned, record)
    prompts = iv.load_task("present-past").prompts(6, split="test")
    evaluation = iv.evaluate(repaired, prompts)
    model = plain(where := iv.export_hf(repaired, tmp_path / "repaired"))
    tokenizer = AutoTokenizer.from_pretrained(where)
    correct, probability = [], []
    for prompt in prompts:
        n = len(tokenizer(prompt.text)["input_ids"])
        ids = torch.tensor(tokenizer(prompt.text + prompt.answers[0])["input_ids"])
        with torch.no_grad():
            logs = model(ids[None]).logits[0, n - 1 : -1].double().log_softmax(-1)
        correct.append(bool((logs.argmax(-1) == ids[n:]).all()))
        probability.append(logs.gather(-1, ids[n:, None]).sum().exp())
    assert evaluation.correct.tolist() == correct
    assert torch.allclose(evaluation.probabilities, torch.stack(probability), atol=1e-4)
    assert not torch.allclose(evaluation.probabilities, iv.evaluate(smollm2, prompts).probabilities, atol=1e-2)


@pytest.mark.parametrize("engine", ["hooked", "bridge"])
def test_provenance_says_what_was_put_back_and_from_where(engine: Any, folder: Any, tmp_path: Path) -> None:
    paths = folder("base", "llama"), folder("tuned", "llama", seed=1)
    base, tuned = (iv.load_model(path, engine=engine) for path in paths)
    record = recorded(base, tuned)
    for given in (paths[1], tuned):
        model = iv.repaired_model(paths[0], given, record, engine=engine)
        facts = model_facts(model)["repair"]
        assert (facts["attention"], facts["mlp"], facts["rest"]) == ([*ATTENTION], [*MLP], REST)
        assert [facts[role]["source"] for role in ("base", "tuned")] == [*paths]
        assert facts["tuned"]["weights_sha256"] == model_facts(tuned)["weights_sha256"]
        assert model_facts(model)["weights_sha256"] != model_facts(tuned)["weights_sha256"]
        where = iv.export_hf(model, tmp_path / "repaired")
        assert json.loads((where / "ivlens.json").read_text())["model"]["repair"] == facts
        with torch.no_grad():
            next(model.parameters()).add_(1)
        assert model_facts(model)["repair"] == facts
    assert "repair" not in model_facts(tuned)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "granite", "mixtral"])
def test_a_bridge_is_exported_as_it_is(model_type: str, folder: Any, tmp_path: Path) -> None:
    bridge = iv.load_model(folder("base", model_type), engine="bridge")
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.mul_(1.01)
    for _ in range(2):  # an earlier export is replaced
        where = iv.export_hf(bridge, tmp_path / "exported")
    assert torch.equal(logits(plain(where)), logits(bridge))
    again = iv.load_model(where, engine="bridge")
    assert model_facts(again)["weights_sha256"] == model_facts(bridge)["weights_sha256"]
    assert model_facts(again)["tokenizer_sha256"] == model_facts(bridge)["tokenizer_sha256"]


def test_a_bridge_with_adapters_on_it_is_not_exported(folder: Any, tmp_path: Path) -> None:
    where = folder("base", "llama")
    model = peft.get_peft_model(plain(where), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ArgumentError, match=r"one with PEFT's; merge_and_unload\(\)"):
        iv.export_hf(iv.load_model(model, tokenizer=where, engine="bridge"), tmp_path / "exported")


def adapter(base: str, modules: list[str]) -> str:
    """The folder of a random adapter of rank 3."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=modules, init_lora_weights=False)
        peft.get_peft_model(plain(base), config).save_pretrained(f"{base}-adapter")
    return f"{base}-adapter"


MODULES = {
    "llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"], "gpt_neox": ["query_key_value", "dense_h_to_4h"],
    "granite": ["v_proj", "up_proj"],
}  # fmt: skip


@pytest.mark.parametrize(("model_type", "engine"), [("llama", "bridge"), *((each, "auto") for each in MODULES)])
def test_a_repaired_adapter_has_the_adapters_rank_and_gives_the_repaired_logits(
    model_type: str, engine: Any, folder: Any, tmp_path: Path
) -> None:
    base = folder("base", model_type)
    tuned = adapter(base, MODULES[model_type])
    record = recorded(iv.load_model(base, engine=engine), iv.load_model(base, adapter=tuned, engine=engine))
    where = iv.export_repaired_adapter(base, tuned, record, tmp_path / "out", engine=engine)
    assert json.loads((where / "adapter_config.json").read_text())["r"] == 3
    theirs = logits(peft.PeftModel.from_pretrained(plain(base), where).eval())
    repaired = logits(iv.repaired_model(base, tuned, record, engine=engine))
    assert torch.allclose(theirs, repaired, atol=2e-5)
    assert not torch.allclose(logits(plain(base)), repaired, atol=0.1)
    again = iv.load_model(base, adapter=where, engine=engine)  # without a warning of another base
    assert torch.allclose(logits(again), repaired, atol=2e-5)
    facts = json.loads((where / "ivlens.json").read_text())
    assert facts["settings"]["repair"]["mlp"] == [*MLP]


def test_a_layer_that_is_put_back_whole_has_no_factors(folder: Any, tmp_path: Path) -> None:
    base = folder("base", "llama")
    tuned = adapter(base, MODULES["llama"])
    record = recorded(iv.load_model(base), iv.load_model(base, adapter=tuned))
    object.__setattr__(record, "attention", torch.zeros(2, dtype=torch.float64))
    where = iv.export_repaired_adapter(base, tuned, record, tmp_path / "out")
    modules = json.loads((where / "adapter_config.json").read_text())["target_modules"]
    assert modules == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]


def test_a_change_of_full_rank_or_outside_linear_layers_is_refused_by_name(folder: Any, tmp_path: Path) -> None:
    base, tuned = folder("base", "llama"), folder("tuned", "llama", seed=1)
    record = recorded(iv.load_model(base), iv.load_model(tuned))
    for rest, name in ((REST, "model.embed_tokens.weight"), (0.0, "self_attn.q_proj.weight")):
        object.__setattr__(record, "rest", rest)
        with pytest.raises(UnsupportedError, match=f"rank 8 or less.*{name}.*write the whole model"):
            iv.export_repaired_adapter(base, tuned, record, tmp_path / "out", rank=8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_are_exact_up_to_rounding(dtype: torch.dtype) -> None:
    made = torch.Generator().manual_seed(0)
    one, left, right = (torch.randn(*shape, generator=made, dtype=dtype) for shape in ((40, 30), (40, 3), (3, 30)))
    found = change_factors(one, one + 0.01 * left @ right, 3)
    assert found is not None
    inner, outer = found
    assert (inner.shape, outer.shape) == ((3, 30), (40, 3))
    assert torch.allclose(outer @ inner, 0.01 * left @ right, atol=1e3 * torch.finfo(dtype).eps)
    assert change_factors(one, one + 0.01 * left @ right, 2) is None
    assert change_factors(one, one * (1 + 2 * torch.finfo(dtype).eps), 30) is None  # nothing but rounding


def merged(config: str, states: dict[str, dict[str, torch.Tensor]], n_layers: int) -> dict[str, torch.Tensor]:
    """What mergekit's task_arithmetic makes of a config: base + weight * (model - base), in the config's dtype.

    A weight's value is that of the first filter that is part of the tensor's name; a list is a gradient over layers.
    """
    read = yaml.safe_load(config)
    assert (read["merge_method"], read["parameters"]) == ("task_arithmetic", {"normalize": False})
    (model,) = read["models"]
    base, tuned = states[read["base_model"]], states[model["model"]]
    found = {}
    for name, before in base.items():
        conditions = model["parameters"]["weight"]
        value = next(each["value"] for each in conditions if each.get("filter", "") in name)
        if isinstance(value, list):
            (layer,) = (int(part) for part in name.split(".") if part.isdigit())
            at = layer / (n_layers - 1) * (len(value) - 1)
            low = int(at)
            value = (1 - (at - low)) * value[low] + (at - low) * value[min(len(value) - 1, low + 1)]
        wide = getattr(torch, read["dtype"])
        found[name] = (before.to(wide) + value * (tuned[name].to(wide) - before.to(wide))).to(
            getattr(torch, read["out_dtype"])
        )
    return found


@pytest.mark.parametrize("model_type", [*FAMILIES, "granite"])
def test_mergekits_config_gives_the_repaired_weights(model_type: str, folder: Any, tmp_path: Path) -> None:
    base, tuned = folder("base", model_type), folder("tuned", model_type, seed=1)
    record = recorded(iv.load_model(base), iv.load_model(tuned))
    model = iv.repaired_model(base, tuned, record)
    config = iv.mergekit_config(model, record, base, tuned)
    repaired = plain(iv.export_hf(model, tmp_path / "repaired")).state_dict()
    made = merged(config, {path: plain(path).state_dict() for path in (base, tuned)}, 2)
    assert made.keys() == repaired.keys()
    if model_type == "opt":  # rows that no token uses stay the tuned model's
        positions = "model.decoder.embed_positions.weight"
        made[positions], repaired[positions] = made[positions][2:], repaired[positions][2:]
    for name, weight in made.items():
        assert torch.allclose(weight, repaired[name], rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "gpt_oss", "llama4_text"])
def test_mergekits_filters_fit_the_names_in_the_files(model_type: str, folder: Any, tmp_path: Path) -> None:
    base, tuned = folder("base", model_type), folder("tuned", model_type, seed=1)
    record = recorded(iv.load_model(base), iv.load_model(tuned))
    read = yaml.safe_load(iv.mergekit_config(iv.repaired_model(base, tuned, record), record, base, tuned))
    weights = read["models"][0]["parameters"]["weight"]
    with safe_open(Path(base, "model.safetensors"), "pt") as file:
        names = [*file.keys()]
    for name in names:
        value = next(each["value"] for each in weights if each.get("filter", "") in name)
        home = next((part for part in (".self_attn.", "norm", "mlp", "moe", "feed_forward") if part in name), "")
        assert value == {".self_attn.": list(ATTENTION), "norm": REST, "": REST}.get(home, list(MLP)), name


@pytest.mark.parametrize("name", ["a: b", 'it\'s "q"', "😀 é", "a\nb#c", "\x7f\u2028", "1e-05", "{x}"])
def test_mergekits_config_has_any_name(name: str, folder: Any) -> None:
    base, tuned = folder("base", "llama"), folder("tuned", "llama", seed=1)
    record = recorded(iv.load_model(base), iv.load_model(tuned), rest=1e-05)
    read = yaml.safe_load(iv.mergekit_config(iv.repaired_model(base, tuned, record), record, name, f"{name}2"))
    assert (read["base_model"], read["models"][0]["model"]) == (name, f"{name}2")
    assert read["models"][0]["parameters"]["weight"][-1] == {"value": 1e-05}


def test_mergekit_is_told_of_an_adapter_with_its_base(tmp_path: Path) -> None:
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (tmp_path / "run" / "adapter" / "adapter_config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert mergekit_names("base", str(tmp_path / "run")) == ("base", f"base+{tmp_path / 'run' / 'adapter'}")
    shutil.copytree(tmp_path / "run" / "adapter", tmp_path / "second")
    with pytest.raises(UnsupportedError, match="got adapters one on the other"):
        mergekit_names("base", f"{tmp_path / 'run' / 'adapter'}+{tmp_path / 'second'}")
    assert mergekit_names("org/base", "org/tuned@v1") == ("org/base", "org/tuned@v1")
    assert mergekit_names("smollm2", "org/tuned")[0] == str(PACKAGED["smollm2"].folder)
