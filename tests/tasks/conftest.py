"""Small real tokenizers, trained here: byte-level with or without BOS, EOS, chat template, and a Llama-2-like one."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers import decoders as token_decoders
from transformers import PreTrainedTokenizerFast

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "The capital of France is Paris. The capital of Peru is Lima. Verb: go Past tense: went Q: A: Input: Output:",
    "Write the past tense of the verb. Answer with the capital of the country. system user assistant",
    "hot cold walk walked talk talked positive negative 0 1 2 3 4 5 6 7 8 9 10",
] * 3

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level(
    template: str | None = None,
    chat_template: str | None = None,
    corpus: list[str] = CORPUS,
    vocab_size: int = 500,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE that keeps digits apart, as SmolLM2 does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = token_decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    if template is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(token, backend.token_to_id(token)) for token in SPECIAL[:2]]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=chat_template,
    )


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return byte_level


@pytest.fixture(scope="session")
def chatml() -> str:
    return CHATML


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


@pytest.fixture(scope="session")
def bos_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level("<s> $A")


@pytest.fixture(scope="session")
def eos_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level("<s> $A </s>")


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level("<s> $A", CHATML)


@pytest.fixture(scope="session")
def llama_like() -> PreTrainedTokenizerFast:
    """A BPE over words that begin with "▁", in which a digit never joins the "▁" before it (Llama-2's id 29871)."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>"], show_progress=False, initial_alphabet=["▁", *"0123456789"]
    )
    backend.train_from_iterator(["The capital of France is Paris", "Answer: Lima"] * 3, trainer)
    backend.decoder = token_decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(scope="session")
def metaspace() -> PreTrainedTokenizerFast:
    """A SentencePiece-like BPE with bytes for what it does not know, which adds BOS."""
    specials = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False)
    )
    backend.decoder = token_decoders.Sequence(
        [
            token_decoders.Replace("▁", " "),
            token_decoders.ByteFallback(),
            token_decoders.Fuse(),
            token_decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(scope="session")
def prefix_space() -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts a space before a text, and BOS before that."""
    one = byte_level("<s> $A")
    one.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return one
