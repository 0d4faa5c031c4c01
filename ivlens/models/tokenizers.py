"""Tokenizers: read from a folder's files within limits of time and memory, and refused where they cannot fit."""

import json
import os
import subprocess
import sys
import warnings
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..errors import SourceError, SourceWarning
from .model_folder import check_config
from .outside_errors import library_errors

# Each of these sets of files holds a whole vocabulary; without any, transformers would make one up.
VOCABULARIES = (
    {"tokenizer.json"},
    {"tokenizer.model"},
    {"vocab.json", "merges.txt"},
    {"tekken.json"},
    {"spiece.model"},
    {"vocab.txt"},
)
PASS_ONE = "pass tokenizer= (--tokenizer): the model's tokenizer, or the folder or hub name that has it"
CHECK_TEXT = "The quick brown fox jumps over the lazy dog. Paris is the capital of"
PATIENCE = 30  # seconds allowed for trying a tokenizer and its template


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a vocabulary."""
    return any(all((folder / file).is_file() for file in files) for files in VOCABULARIES)


def read_tokenizer(folder: Path, name: str, *, trusted: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; unless ``trusted``, its patterns and template are first tried in another process.

    Raises:
        SourceError: there is none, it cannot be read without running its code, or it does not terminate.
    """
    if not has_tokenizer(folder):
        raise SourceError(f"a readable model at {name} with a tokenizer", "no tokenizer there", PASS_ONE)
    check_config(folder, name)
    with library_errors(f"a readable tokenizer at {name}", PASS_ONE):
        tokenizer = _guarded(AutoTokenizer.from_pretrained, folder, trust_remote_code=False)
        if not trusted:
            _check_ends(tokenizer, folder, name)
    return tokenizer


def check_tokenizer(tokenizer: Any, d_vocab: int) -> None:
    """Raise unless a tokenizer can be that of a model with ``d_vocab`` embeddings.

    Added tokens beyond the embeddings are allowed, as some models have them; a prompt that contains one is refused.

    Raises:
        SourceError: it is not a Hugging Face tokenizer, or its vocabulary is missing, tiny, or larger than the
            embeddings.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        remedy = "wrap one of the tokenizers library: PreTrainedTokenizerFast(tokenizer_object=...)"
        raise SourceError("a Hugging Face tokenizer", f"a {type(tokenizer).__name__} as tokenizer=", remedy)
    expected = f"a tokenizer for the model's {d_vocab} embeddings"
    with library_errors(expected, PASS_ONE):
        ids = _guarded(tokenizer, CHECK_TEXT)["input_ids"]
        vocabulary, added = tokenizer.get_vocab(), set(tokenizer.get_added_vocab())
    ordinary = {token: at for token, at in vocabulary.items() if token not in added}
    if not ids or not ordinary or not all(isinstance(each, int) for each in ids):
        raise SourceError(expected, f"one without a vocabulary ({len(vocabulary)} tokens)", PASS_ONE)
    if max(*ordinary.values(), *ids) >= d_vocab:
        raise SourceError(expected, f"one of {max(ordinary.values()) + 1} tokens", PASS_ONE)
    if 2 * len(vocabulary) < d_vocab:
        if 2 * ids.count(tokenizer.unk_token_id) > len(ids):
            raise SourceError(expected, f"one of {len(vocabulary)} tokens, to which a sentence is unknown", PASS_ONE)
        warnings.warn(
            f"the tokenizer has {len(vocabulary)} tokens, the model {d_vocab}: is it the model's own?",
            SourceWarning,
            stacklevel=2,
        )


def _guarded(call: Any, *args: Any, **options: Any) -> Any:
    """The result of a call; a panic of the tokenizers library, which is not an Exception, becomes a ValueError."""
    try:
        return call(*args, **options)
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(f"its regular expressions or files fail: {error!s:.100}") from error
        raise


def _check_ends(tokenizer: PreTrainedTokenizerBase, folder: Path, name: str) -> None:
    """Raise SourceError where the tokenizer's patterns or chat template do not terminate or use too much memory."""
    file = folder / "tokenizer.json"
    patterns = file.is_file() and b'"Regex"' in file.read_bytes()
    templates = tokenizer.chat_template
    template = "\n".join(templates.values()) if isinstance(templates, dict) else templates
    if patterns or template:
        asked = {
            "tokenizer": str(file.resolve()) if patterns else None,
            "template": template or None,
            "tokens": {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)},
        }
        mark = sha256(file.read_bytes()).hexdigest() if patterns else ""
        if complaint := _tried(json.dumps(asked), mark):
            raise SourceError(f"a readable tokenizer at {name}", complaint, PASS_ONE)


@cache
def _tried(asked: str, mark: str) -> str:
    """The output of a trial process for a tokenizer and a template, empty if they work; cached by content."""
    script = Path(__file__).with_name("tokenizer_trial.py")
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-P", str(script)]
    try:
        answer = subprocess.run(
            command, input=asked, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return f"patterns or a chat template that do not end within {PATIENCE} s"
    if answer.returncode and not answer.stdout:
        return f"a tokenizer or template that stops a process: {' '.join(answer.stderr.split())[-100:]}"
    return answer.stdout.strip()
