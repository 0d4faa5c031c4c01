"""Vectors leave to other tools and come in from theirs: the same stream by plain hooks, and by the tools themselves."""

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from torch import Tensor, nn

import ivlens as iv
from ivlens.integrations.vector_formats import FORMATS
from ivlens.models.engines import has_hooked
from tiny_models import ONLY_BRIDGED, TINY

FILES = [name for name in FORMATS if name != "hf"]
LAYERS, SCALE = 3, 1.7
PROMPTS = [iv.Prompt("the quick", " brown"), iv.Prompt("the fox", " jumps"), iv.Prompt("over the", " lazy")]
ENGINES = ["bridge", *(["hooked"] if has_hooked() else [])]
DEEP = {name: {field: LAYERS} for name, field in (("llama", "num_hidden_layers"), ("gpt2", "n_layer"))}
DEEP |= {"gpt_neox": {"num_hidden_layers": LAYERS}, "opt": {"num_hidden_layers": LAYERS}}
CLOSE = {"rtol": 0, "atol": 1e-4}  # TransformerLens computes rotary tables otherwise


def made_up(width: int = 32, seed: int = 0) -> iv.InstructionVector:
    values = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return iv.InstructionVector(values, torch.zeros(0, width), (), "made up")


@pytest.fixture(params=[(family, engine) for family in DEEP for engine in ENGINES], ids="-".join)
def pair(request: Any, tiny_hf: Any, tiny_tokenizer: Any) -> tuple[nn.Module, Any]:
    """A tiny Hugging Face model of three layers, and what ivlens makes of it."""
    family, engine = request.param
    source = tiny_hf(family, **DEEP[family])
    return source, iv.load_model(source, tokenizer=tiny_tokenizer(), engine=engine)


@pytest.fixture
def model(tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    return iv.load_model(tiny_hf("llama", **DEEP["llama"]), tokenizer=tiny_tokenizer())


@contextmanager
def output_plus(module: nn.Module, added: Tensor) -> Iterator[None]:
    """Within this context plain torch adds the vector to the module's output, at all positions."""

    def add(module: Any, args: Any, output: Any) -> Any:
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def some_tokens(model: Any) -> Tensor:
    return torch.tensor([model.tokenizer("the quick brown fox jumps over the lazy dog")["input_ids"]])


def steered_logits(model: Any, vector: iv.InstructionVector, layer: int, site: Any) -> Tensor:
    with torch.no_grad(), iv.steer(model, vector, layer, SCALE, "all", site):
        return model(some_tokens(model)).detach()


def in_the_file(source: nn.Module, path: Path, format: str) -> tuple[nn.Module, Tensor]:
    """The module that the format's own tool hooks, and what it adds there, read without ivlens."""
    layers = next(each for each in source.modules() if isinstance(each, nn.ModuleList) and len(each) == LAYERS)
    if format in ("gguf", "easysteer"):
        (tensor,) = GGUFReader(path).tensors
        return layers[int(tensor.name.removeprefix("direction."))], torch.tensor(tensor.data)
    if format == "lm-eval":
        ((name, entry),) = torch.load(path, weights_only=True).items()
        assert entry["action"] == "add"
        modules = dict(source.base_model.named_modules())  # type: ignore[operator, union-attr]
        return modules[name], entry["steering_coefficient"] * entry["steering_vector"]
    fields = json.loads(path.read_text())
    at = fields["layerNumber"] - (fields["hookType"] == "hook_resid_pre")
    return layers[at], fields["vectorDefaultSteerStrength"] * torch.tensor(fields["vector"])


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize(("layer", "site"), [(2, "resid_pre"), (1, "resid_post"), (LAYERS - 1, "resid_post")])
def test_a_hook_on_what_the_file_says_gives_the_logits_of_steer(
    pair: tuple[Any, Any], tmp_path: Path, format: Any, layer: int, site: Any
) -> None:
    source, model = pair
    vector, path = made_up(), tmp_path / "vector"
    iv.export_vector(model, vector, path, layer, SCALE, "all", site, format=format)
    expected, plain = steered_logits(model, vector, layer, site), model(some_tokens(model)).detach()
    module, added = in_the_file(source, path, format)
    with torch.no_grad(), output_plus(module, added):
        found = source(some_tokens(model), use_cache=False).logits
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (expected - plain).abs().max() > 0.1
    with torch.no_grad(), iv.import_vector(path).steer(model):
        assert model(some_tokens(model)).equal(expected)


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("position", ["last", "all", [0, -1]])
def test_a_round_trip_is_identity(model: Any, tmp_path: Path, format: Any, position: Any) -> None:
    vector, path = made_up(), tmp_path / "vector"
    made = iv.export_vector(model, vector, path, 2, SCALE, position, format=format, validation=PROMPTS)
    again = iv.import_vector(made.path)
    assert (again.scale * again.vector.values).equal(SCALE * vector.values)
    assert (again.layer, again.site) in ((2, "resid_pre"), (1, "resid_post"))
    assert again.vector.task == "made up"
    if format == "neuronpedia":  # whose fields say no position
        assert (again.position, again.assumed) == ("all", ("position",))
        again = iv.import_vector(made.path, position=position)
    assert (again.position, again.assumed) == (position, ())
    twice = tmp_path / "twice"
    iv.export_vector(
        model, again.vector, twice, again.layer, again.scale, position, again.site, format=format, validation=PROMPTS
    )
    third = iv.import_vector(twice)
    assert (third.scale * third.vector.values).equal(SCALE * vector.values)
    assert (third.layer, third.site) == (again.layer, again.site)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_lost_at_all_positions_is_measured_first(model: Any, tmp_path: Path, format: Any) -> None:
    vector = made_up()
    path = tmp_path / "vector"
    if FORMATS[format].everywhere:
        with pytest.raises(iv.ArgumentError, match="validation=prompts"):
            iv.export_vector(model, vector, path, 2, 3.0, format=format)
        assert not path.exists()
    made = iv.export_vector(model, vector, path, 2, 3.0, format=format, validation=PROMPTS)
    comparison, lost = made.comparison, made.lost
    assert comparison is not None
    assert lost is not None
    for name, position in (("as steered", "last"), ("at all positions", "all")):
        with iv.steer(model, vector, 2, 3.0, position):
            expected = iv.evaluate(model, PROMPTS)
        torch.testing.assert_close(comparison.probabilities[comparison.conditions.index(name)], expected.probabilities)
    assert lost.value == comparison.accuracy("as steered") - comparison.accuracy("at all positions")
    assert "3 validation prompts" in str(made)
    if format in ("gguf", "easysteer"):
        facts = json.loads(GGUFReader(path).fields["ivlens.vector"].contents())
        assert facts["measured"] == {name: comparison.accuracy(name) for name in comparison.conditions} | {"n": 3}
        assert facts["provenance"] == {}
    if format == "hf":
        settings = json.loads((path / "ivlens.json").read_text())["settings"]["steered"]
        assert (settings["layer"], settings["position"], settings["measured"]["n"]) == (2, "last", 3)


def test_control_vectors_have_the_fields_that_llama_cpp_repeng_and_easysteer_read(model: Any, tmp_path: Path) -> None:
    for format in ("gguf", "easysteer"):
        iv.export_vector(model, made_up(), tmp_path / format, 2, SCALE, "all", format=format)
        reader = GGUFReader(tmp_path / format)
        fields = {name: each.contents() for name, each in reader.fields.items()}
        assert fields["general.architecture"] == "controlvector"
        assert (fields["controlvector.model_hint"], fields["controlvector.layer_count"]) == ("llama", 1)
        (tensor,) = reader.tensors
        assert (tensor.name, tensor.tensor_type.name, tensor.data.shape) == ("direction.1", "F32", (32,))
    assert fields["controlvector.method"] == "made up"
    assert json.loads(fields["controlvector.easysteer"])["component"] == "hidden_states"


@pytest.mark.parametrize(
    ("format", "layer", "site", "match"),
    [
        ("gguf", 0, "resid_post", "llama.cpp begins.*layer=1"),
        ("gguf", 1, "resid_pre", "llama.cpp begins.*layer=2"),
        ("easysteer", 0, "resid_pre", "EasySteer begins"),
        ("lm-eval", 0, "resid_pre", "layer 0 or later"),
        ("hf", 0, "resid_pre", "the input of layer 0"),
        ("gguf", 1, "attn_out", "residual stream"),
        ("lm-eval", 1, "attn_out", "residual stream"),
        ("neuronpedia", 1, "attn_out", "resid_pre or resid_post"),
    ],
)
def test_what_a_format_cannot_say_is_refused(
    model: Any, tmp_path: Path, format: Any, layer: int, site: Any, match: str
) -> None:
    with pytest.raises(iv.UnsupportedError, match=match):
        iv.export_vector(model, made_up(), tmp_path / "v", layer, position="all", site=site, format=format)
    assert not (tmp_path / "v").exists()


def test_arguments_are_refused_as_steer_refuses_them(model: Any, tmp_path: Path) -> None:
    for change in ({"layer": 9}, {"position": "first"}, {"scale": float("nan")}, {"format": "onnx"}):
        arguments: dict[str, Any] = {"layer": 1, "position": "all", "format": "easysteer"} | change
        with pytest.raises(iv.ArgumentError):
            iv.export_vector(model, made_up(), tmp_path / "v", **arguments)
    with pytest.raises(iv.MismatchError):
        iv.export_vector(model, made_up(16), tmp_path / "v", 1, position="all", format="easysteer")
    assert [*tmp_path.iterdir()] == []


def test_layer_0_and_what_no_tool_says_where_formats_have_it(model: Any, tmp_path: Path) -> None:
    iv.export_vector(model, made_up(), tmp_path / "n", 0, 2.0, "all", format="neuronpedia")
    assert (iv.import_vector(tmp_path / "n").layer, iv.import_vector(tmp_path / "n").site) == (0, "resid_pre")
    iv.export_vector(model, made_up(), tmp_path / "e", 0, 2.0, "all", "resid_post", format="easysteer")
    assert iv.import_vector(tmp_path / "e").layer == 0
    doubled = replace(made_up(), values=made_up().values.double() + 1e-12)
    made = iv.export_vector(model, doubled, tmp_path / "f", 2, position="all", format="gguf")
    assert made.remarks == ("values are rounded to float32",)


def control_vector(path: Path, layers: dict[int, Tensor], texts: dict[str, str] | None = None) -> Path:
    """As repeng writes it."""
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(layers))
    for name, text in (texts or {}).items():
        writer.add_string(name, text)
    for layer, values in layers.items():
        writer.add_tensor(f"direction.{layer}", values.numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def test_one_of_several_layers_is_named(tmp_path: Path) -> None:
    layers = {layer: made_up(seed=layer).values for layer in (0, 2, 1)}
    path = control_vector(tmp_path / "happy.gguf", layers)
    with pytest.raises(iv.ArgumentError, match=r"0, 1, 2.*contexts of steer add up"):
        iv.import_vector(path)
    with pytest.raises(iv.ArgumentError, match="0, 1, 2; got 7"):
        iv.import_vector(path, layer=7)
    for layer, values in layers.items():
        found = iv.import_vector(path, layer=layer)
        assert found.vector.values.equal(values)
        assert (found.layer, found.site, found.scale, found.position) == (layer, "resid_post", 1.0, "all")
        assert found.assumed == ("scale", "position")
        assert found.vector.task == "happy"
    given = iv.import_vector(path, layer=1, scale=0.5, position="last", site="resid_pre")
    assert (given.scale, given.position, given.site, given.assumed) == (0.5, "last", "resid_pre", ())


def test_directions_of_other_parts_are_refused(tmp_path: Path) -> None:
    layers = {1: made_up().values}
    heads = json.dumps({"version": 1, "component": "attention_heads", "metadata": None})
    for at, texts in enumerate(({"controlvector.easysteer": heads}, {"controlvector.easysteer": "{"})):
        path = control_vector(tmp_path / f"{at}.gguf", layers, texts)
        with pytest.raises((iv.UnsupportedError, iv.RecordError), match=r"hidden_states|JSON in"):
            iv.import_vector(path)
    half = control_vector(tmp_path / "half.gguf", {1: made_up().values.half()})
    assert iv.import_vector(half).vector.values.equal(made_up().values.half())
    with pytest.raises(iv.RecordError, match=r"direction\.N"):
        iv.import_vector(renamed(tmp_path / "odd.gguf"))
    for position in ('"first"', "1.5", "[]", "[true]"):
        facts = {"ivlens.vector": f'{{"position": {position}}}'}
        with pytest.raises(iv.RecordError, match="facts"):
            iv.import_vector(control_vector(tmp_path / "f.gguf", layers, facts))


def renamed(path: Path) -> Path:
    writer = GGUFWriter(path, "controlvector")
    writer.add_tensor("direction.x", made_up().values.numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


NEURONPEDIA = {"modelId": "gpt2-small", "vector": [0.5, -1.0], "vectorDefaultSteerStrength": 10, "vectorLabel": "a"}


@pytest.mark.parametrize(
    ("fields", "layer", "site"),
    [
        ({"layerNumber": 6, "hookType": "hook_resid_pre"}, 6, "resid_pre"),
        ({"layer": "6-x", "hookName": "blocks.6.hook_resid_post"}, 6, "resid_post"),
    ],
)
def test_both_forms_of_neuronpedias_fields(tmp_path: Path, fields: dict[str, Any], layer: int, site: str) -> None:
    path = tmp_path / "v.json"
    for held in (NEURONPEDIA | fields, {"vector": NEURONPEDIA | fields}):
        path.write_text(json.dumps(held))
        found = iv.import_vector(path)
        assert (found.layer, found.site, found.scale, found.vector.task) == (layer, site, 10.0, "a")
        assert found.vector.values.tolist() == [0.5, -1.0]
    path.write_text(json.dumps(NEURONPEDIA | fields | {"vectorDefaultSteerStrength": None}))
    assert iv.import_vector(path).assumed == ("scale", "position")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hookType": "hook_mlp_out"}, "residual stream"),
        ({"hookType": ["hook_resid_post"]}, "residual stream"),
        ({"layerNumber": "six"}, "layerNumber"),
        ({"layerNumber": -1}, "layerNumber"),
        ({"vector": "0.5"}, "'vector' among"),
        ({"vector": [0.5, float("nan")]}, "finite"),
        ({"vector": [[0.5], [1.0]]}, r"\[d_model\]"),
        ({"vector": ["a"]}, "numbers"),
        ({"vector": []}, r"\[d_model\]"),
        ({"vectorDefaultSteerStrength": "10"}, "number as"),
    ],
)
def test_malformed_fields_are_named(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(json.dumps(NEURONPEDIA | {"layerNumber": 1, "hookType": "hook_resid_pre"} | change))
    with pytest.raises(iv.IvlensError, match=match):
        iv.import_vector(path)


@pytest.mark.parametrize("number", ["NaN", "1e999", "1" + "0" * 400, "true", '"1"'])
def test_a_scale_that_is_no_finite_number_is_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "scaled"
    where = '"layerNumber": 1, "hookType": "hook_resid_post", "vector": [1, 2]'
    path.write_text(f'{{{where}, "vectorDefaultSteerStrength": {number}}}')
    with pytest.raises(iv.RecordError, match="finite number as vectorDefaultSteerStrength"):
        iv.import_vector(path)
    entry = {"action": "add", "steering_vector": torch.ones(4), "steering_coefficient": json.loads(number)}
    torch.save({"layers.1": entry}, path)
    with pytest.raises(iv.RecordError, match="finite number as steering_coefficient"):
        iv.import_vector(path)


@pytest.mark.parametrize("kind", [0, 7])
def test_a_gguf_file_whose_counts_go_past_its_end_is_refused_at_once(tmp_path: Path, kind: int) -> None:
    entry = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, kind, 2**22)  # a list of so many entries
    (tmp_path / "v.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry + b"\0" * 100)
    with pytest.raises(iv.RecordError, match="too early"):
        iv.import_vector(tmp_path / "v.gguf")


def test_what_float32_does_not_hold_is_not_written_as_infinite(
    tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any
) -> None:
    model = iv.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer(), dtype=torch.float64)
    vector = replace(made_up(), values=made_up().values.double())
    for format in ("gguf", "easysteer"):
        with pytest.raises(iv.UnsupportedError, match="float32 holds"):
            iv.export_vector(model, vector, tmp_path / "v", 1, 1e39, "all", "resid_post", format=format)


def test_files_of_other_kinds_are_named_with_what_to_do(tmp_path: Path, model: Any) -> None:
    made_up().save(tmp_path / "own.safetensors")
    (tmp_path / "pickled").write_bytes(b"\x80\x04N.")
    (tmp_path / "text").write_text("nothing")
    (tmp_path / "empty").touch()
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04abc")
    (tmp_path / "cut.json").write_text("{")
    expected = {
        "own.safetensors": "load_vector", "pickled": r"never opened.*torch\.save", "text": "begins with b'nothing",
        "empty": "begins with", "cut.gguf": "readable GGUF", "cut.zip": r"torch\.save", "cut.json": "JSON",
        "none": "file",
    }  # fmt: skip
    for name, match in expected.items():
        with pytest.raises(iv.RecordError, match=match):
            iv.import_vector(tmp_path / name)
    with pytest.raises(iv.RecordError, match="load_model"):
        iv.import_vector(tmp_path)


def test_lm_evals_own_model_gives_the_logits_of_steer(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    steered_model = pytest.importorskip("lm_eval.models.hf_steered", reason="the extra lm-eval is not installed")
    source = tiny_hf("llama", **DEEP["llama"])
    model, vector, path = iv.load_model(source, tokenizer=tiny_tokenizer()), made_up(), tmp_path / "v.pt"
    iv.export_vector(model, vector, path, 2, SCALE, "all", format="lm-eval")
    theirs = steered_model.SteeredModel(
        pretrained=source, steer_path=str(path), tokenizer=tiny_tokenizer(), device="cpu"
    )
    found = theirs._model_call(some_tokens(model))
    torch.testing.assert_close(found, steered_logits(model, vector, 2, "resid_pre"), **CLOSE)


BAKED = {
    "llama": True, "gpt2": True, "gpt_neox": True, "opt": True, "phi": True, "bloom": True, "gptj": True,
    "starcoder2": True, "smollm3": True, "mistral": False, "qwen2": False, "gemma3_text": False, "granite": False,
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", BAKED)
def test_a_baked_model_gives_the_logits_of_steer_in_plain_transformers(
    tiny_hf: Any, tiny_tokenizer: Callable[..., Any], tmp_path: Path, family: str, engine: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if engine == "hooked" and family in ONLY_BRIDGED:
        pytest.skip("a family that only a bridge takes")
    assert family in TINY | ONLY_BRIDGED
    model = iv.load_model(tiny_hf(family), tokenizer=tiny_tokenizer(), engine=engine)
    vector, folder, before = made_up(), tmp_path / "baked", some_tokens(model)
    plain = model(before).detach()
    if not BAKED[family]:
        with pytest.raises(iv.UnsupportedError, match="export the vector itself"):
            iv.export_vector(model, vector, folder, 1, SCALE, "all", format="hf")
        assert not folder.exists()
        return
    iv.export_vector(model, vector, folder, 1, SCALE, "all", format="hf")
    baked = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert AutoTokenizer.from_pretrained(folder)("the fox")["input_ids"] == model.tokenizer("the fox")["input_ids"]
    expected = steered_logits(model, vector, 1, "resid_pre")
    with torch.no_grad():
        torch.testing.assert_close(baked(before).logits, expected, rtol=0, atol=1e-4)
        assert (model(before) - plain).abs().max() == 0  # the model itself is as it was
    assert (expected - plain).abs().max() > 0.1
    again = iv.load_model(str(folder))
    torch.testing.assert_close(again(before).detach(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_what_attention_writes_is_baked_where_no_norm_follows(
    tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path, family: str
) -> None:
    from transformers import AutoModelForCausalLM

    model = iv.load_model(tiny_hf(family), tokenizer=tiny_tokenizer())
    folder = tmp_path / "baked"
    if family == "gemma3_text":
        with pytest.raises(iv.UnsupportedError, match="logits that differ"):
            iv.export_vector(model, made_up(), folder, 1, SCALE, "all", "attn_out", format="hf")
        assert not folder.exists()
        return
    iv.export_vector(model, made_up(), folder, 1, SCALE, "all", "attn_out", format="hf")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(folder)(some_tokens(model)).logits
    torch.testing.assert_close(found, steered_logits(model, made_up(), 1, "attn_out"), rtol=0, atol=1e-4)


def test_a_baked_folder_replaces_only_an_export(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "baked"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(iv.RecordError, match=r"mine\.txt"):
        iv.export_vector(model, made_up(), folder, 1, SCALE, "all", format="hf")
    (folder / "mine.txt").unlink()
    for _ in range(2):
        iv.export_vector(model, made_up(), folder, 1, SCALE, "all", format="hf")
