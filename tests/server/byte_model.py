"""Makes models whose tokens are single bytes. Their output is tokenized again as the tokens that were generated, as with trained
models. With random weights and larger tokens, that is rarely so."""
import gguf_file

KEYS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.chat_template"
NORMAL, CONTROL = 1, 3


def of(source, out, template):
    """Writes a copy of a byte-pair model with only the tokens that are single bytes, and with this chat template."""
    values, tensors = gguf_file.read(source)
    tokens, types = (next(gguf_file.array(value) for value in values if value.startswith(gguf_file.text(key))) for key in KEYS[:2])
    longer = [kind == NORMAL and len(token) > 1 for token, kind in zip(tokens, types)]
    new = [gguf_file.array_value(KEYS[0], gguf_file.STRING, [f"<|unused {i}|>" if gone else tokens[i] for i, gone in enumerate(longer)]),
           gguf_file.array_value(KEYS[1], 5, [CONTROL if gone else types[i] for i, gone in enumerate(longer)]),
           gguf_file.array_value(KEYS[2], gguf_file.STRING, ["a b"]), gguf_file.string_value(KEYS[3], template)]
    gguf_file.write(out, [value for value in values if not value.startswith(tuple(map(gguf_file.text, KEYS)))] + new, tensors)
