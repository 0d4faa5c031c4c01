"""What is logged when a measure begins: plain words for the short names that are in keys and file names."""

IN_WORDS = {
    "answers": "answers",
    "knowledge": "knowledge without instruction",
    "heads": "heads and instruction vector",
    "hidden": "hidden states",
    "sweep": "steering at layers and scales",
    "recovery": "recovery by instruction vectors",
    "weights": "change of the attention weights",
    "replies": "replies as text",
    "replies-steered": "replies with the base's vector",
    "replies-as-new": "replies under the new task's instruction",
    "subtraction-sweep": "the new task's vector subtracted at layers and scales",
    "subtraction": "recovery by subtracting the new task's vector",
    "kl": "KL divergence from the base",
    "kl-text": "KL divergence from the base on a text",
    "spectrum": "singular values of the weights' change",
    "activations": "activations of heads and MLPs",
    "restores": "the base's activations put in",
    "breaks": "the tuned model's activations put in",
}
