"""Run as a program: try a tokenizer and a chat template in this process, which its parent can stop.

Standard input is a JSON object with ``tokenizer``, the path of a tokenizer.json or null, ``template``, a chat template
or null, and ``tokens``, the template's special tokens. Failures are printed.
"""

import json
import sys

MEMORY = 4 << 30  # bytes
PIECES = ("a", "1", " ", "\n", "!", "aB", "é", "字", "'s ", "a1")
TEXTS = ["The quick brown fox, 12:30!", *(piece * 64 + end for piece in PIECES for end in ("", "?", " x"))]


def main() -> None:
    """Run the trial described on standard input."""
    asked = json.load(sys.stdin)
    from tokenizers import Tokenizer
    from transformers.utils.chat_template_utils import render_jinja_template

    limit_memory()
    if asked["tokenizer"]:
        tokenizer = Tokenizer.from_file(asked["tokenizer"])
        try:
            for text in TEXTS:
                tokenizer.encode(text)
        except BaseException as error:  # a panic of the Rust library is not an Exception
            print(f"its regular expressions fail on {text[:20]!r}: {error!s:.80}")
    if asked["template"]:
        turns = [{"role": role, "content": "Say it: 12."} for role in ("user", "assistant") * 8]
        try:
            render_jinja_template([turns[:-1]], chat_template=asked["template"], **asked["tokens"])
        except (MemoryError, OverflowError, RecursionError) as error:
            print(f"its chat template does not end: {type(error).__name__}: {error!s:.80}")
        except Exception:  # a template that refuses these turns is reported when it is used
            return


def limit_memory() -> None:
    """Limit this process's memory to ``MEMORY``, where the platform can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
