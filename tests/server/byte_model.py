"""Models whose tokens are bytes: what such a model writes is read again as the tokens that it was written in, as it is with
what a trained model writes; of random weights and larger tokens that is seldom so."""
import gguf_file

KEYS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.chat_template"
NORMAL, CONTROL = 1, 3


def of(source, out, template):
    """A copy of a model with byte-pair tokens, without all that are no bytes, and with this chat template."""
    values, tensors = gguf_file.read(source)
    tokens, types = (next(gguf_file.array(value) for value in values if value.startswith(gguf_file.text(key))) for key in KEYS[:2])
    longer = [kind == NORMAL and len(token) > 1 for token, kind in zip(tokens, types)]
    new = [gguf_file.array_value(KEYS[0], gguf_file.STRING, [f"<|unused {i}|>" if gone else tokens[i] for i, gone in enumerate(longer)]),
           gguf_file.array_value(KEYS[1], 5, [CONTROL if gone else types[i] for i, gone in enumerate(longer)]),
           gguf_file.array_value(KEYS[2], gguf_file.STRING, ["a b"]), gguf_file.string_value(KEYS[3], template)]
    gguf_file.write(out, [value for value in values if not value.startswith(tuple(map(gguf_file.text, KEYS)))] + new, tensors)
