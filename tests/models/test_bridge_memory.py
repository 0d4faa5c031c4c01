"""A user's model is taken without a copy: the trial at loading included, it costs less than 5% of the weights."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from figures.benchmark.memory import RESET

MEASURE = """
import sys
import torch
import transformers
import ivlens as iv
from figures.benchmark.memory import RESET, give_back_at_once, resident

give_back_at_once()
torch.set_num_threads(1)
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
shape = dict(num_attention_heads=8, num_key_value_heads=4, intermediate_size=2048, vocab_size=32000)


def random_model(width, layers):
    config = transformers.SmolLM3Config(
        **shape | dict(hidden_size=width, num_hidden_layers=layers, pad_token_id=0, bos_token_id=0, eos_token_id=0)
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


iv.load_model(random_model(64, 4), tokenizer=tokenizer, engine="bridge")  # what is taken once and kept
model = random_model(1024, 10)
weights = sum(parameter.nbytes for parameter in model.parameters())
RESET.write_text("5")
before = resident("VmRSS")
bridge = iv.load_model(model, tokenizer=tokenizer, engine="bridge")
assert bridge.hugging_face is model and bridge.arrangement
print(weights, resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not RESET.exists(), reason="the kernel keeps no peak that can be reset")
def test_taking_a_users_model_costs_under_5_percent_of_its_weights(tmp_path: Path, tiny_tokenizer: Any) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    weights, extra = map(int, ran.stdout.split())
    print(f"{extra / weights:.1%} of {weights / 1e6:.0f} MB")
    assert weights > 100e6
    assert extra < 0.05 * weights
