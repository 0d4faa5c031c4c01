"""Weights lie in memory so that no forward pass copies one; what they are stays the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from ivlens import export_hf, load_model
from ivlens.models.families import FAMILIES
from ivlens.models.sources import _in_dtype
from ivlens.models.weight_memory import store_transposed


class Copies(TorchDispatchMode):
    """Collects the parameters of a model that are copied while it is on."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.names = {p.untyped_storage().data_ptr(): name for name, p in model.named_parameters() if ".W_" in name}
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.clone, torch.ops.aten._to_copy, torch.ops.aten.copy_):
            self.found |= {self.names.get(arg.untyped_storage().data_ptr(), "") for arg in args if torch.is_tensor(arg)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_forward_pass_copies_no_weight(tiny_hooked: Any, model_type: str) -> None:
    model = tiny_hooked(model_type)
    with torch.inference_mode(), Copies(model) as copies:
        model(torch.arange(10, 40)[None])
    assert copies.found <= {"", "pos_embed.W_pos"}  # positions are read out, not multiplied by


def test_the_transposes_are_views(tiny_hooked: Any) -> None:
    model = tiny_hooked("llama")
    block = model.blocks[1]
    for weight in (block.mlp.W_in, block.mlp.W_gate, block.mlp.W_out, model.unembed.W_U):
        assert weight.T.contiguous().data_ptr() == weight.data_ptr()
    for weight in (block.attn.W_Q, block.attn._W_K, block.attn._W_V):
        assert rearrange(weight, "h m d -> (h d) m").contiguous().data_ptr() == weight.data_ptr()
    assert rearrange(block.attn.W_O, "h d m -> m (h d)").contiguous().data_ptr() == block.attn.W_O.data_ptr()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_shapes_and_values_stay(tiny_hooked: Any, model_type: str) -> None:
    model = tiny_hooked(model_type)
    before = {name: value.clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()}
    store_transposed(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_layout_survives_a_cast(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    model = load_model(tiny_hf("llama"), dtype=torch.bfloat16, tokenizer=tiny_tokenizer())
    assert model.unembed.W_U.T.is_contiguous()
    assert model.float().unembed.W_U.T.is_contiguous()


def test_tied_embeddings_do_not_share_memory(tiny_hf: Any, tiny_tokenizer: Any) -> None:
    theirs = tiny_hf("llama", tie_word_embeddings=True)
    assert theirs.lm_head.weight is theirs.model.embed_tokens.weight
    model = load_model(theirs, tokenizer=tiny_tokenizer())
    assert torch.equal(model.unembed.W_U.T, model.embed.W_E)
    with torch.no_grad():
        model.embed.W_E.zero_()
    assert model.unembed.W_U.abs().max() > 0


def test_no_two_parameters_share_memory(tiny_hooked: Any) -> None:
    for model_type in FAMILIES:
        addresses = [parameter.data_ptr() for parameter in tiny_hooked(model_type).parameters()]
        assert len(set(addresses)) == len(addresses), model_type


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "opt", "phi3"])
def test_a_checkpoint_that_is_overwritten_or_cut_leaves_the_loaded_model_as_it_was(
    tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path, model_type: str
) -> None:
    tiny_hf(model_type).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    model, tokens = load_model(tmp_path / "model"), torch.arange(10, 40)[None]
    before, file = model(tokens), tmp_path / "model" / "model.safetensors"
    size, exported = file.stat().st_size, load_file(export_hf(model, tmp_path / "before") / file.name)
    with file.open("r+b") as held:
        held.seek(size // 2)
        held.write(b"\x40" * (size - size // 2))
    assert torch.equal(model(tokens), before)
    file.write_bytes(b"")
    assert torch.equal(model(tokens), before)
    again = load_file(export_hf(model, tmp_path / "after") / file.name)
    assert all(torch.equal(again[name], weight) for name, weight in exported.items())


@pytest.mark.parametrize(
    ("stored", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float64")]
)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_cast_weight_by_weight_is_the_model_that_transformers_loads(
    tiny_hf: Any, tmp_path: Path, model_type: str, stored: str, asked: str
) -> None:
    dtype = getattr(torch, asked)
    tiny_hf(model_type).to(getattr(torch, stored)).save_pretrained(tmp_path)
    ours, theirs = _in_dtype(tmp_path, "tiny", dtype), AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert ours.dtype == ours.config.dtype == dtype
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    for kind in ("named_parameters", "named_buffers"):
        found, expected = dict(getattr(ours, kind)()), dict(getattr(theirs, kind)())
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


LOADING = """
import json, sys, torch
from pathlib import Path
from ivlens.models import load_model
from transformers.models.llama import modeling_llama

def resident(name):
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024

folder, small, dtypes = sys.argv[1], sys.argv[2], sys.argv[3:]
load_model(small)  # what is imported and kept
found = {}
for dtype in dtypes:
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    model = load_model(folder, dtype=getattr(torch, dtype))
    weights = sum(weight.nbytes for weight in model.parameters())
    found[dtype] = (resident("VmHWM") - before) / weights
    del model
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is known on Linux alone")
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_loading_holds_the_weights_once_in_any_dtype(
    tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path, stored: str
) -> None:
    large = tiny_hf("llama", hidden_size=768, intermediate_size=2048, num_hidden_layers=12)
    for name, model in (("large", large.to(getattr(torch, stored))), ("small", tiny_hf("llama"))):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    command = [sys.executable, "-c", LOADING, str(tmp_path / "large"), str(tmp_path / "small"), "float32", "bfloat16"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    ratios = json.loads(ran.stdout.splitlines()[-1])
    assert max(ratios.values()) < 1.35, ratios
