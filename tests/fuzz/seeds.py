#!/usr/bin/env python3
"""Writes seed inputs for the fuzz targets, made from the tests' data: one folder per target.

    seeds.py SOURCE_FOLDER OUT_FOLDER
"""
import glob
import hashlib
import json
import os
import sys

SOURCE, OUT = sys.argv[1:3]
DATA = os.path.join(SOURCE, "tests", "data")
sys.path.append(os.path.join(SOURCE, "tests", "server"))
import gguf_file

OUTPUTS = ["<think>why</think>\nText<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
           "{\"name\": \"f\", \"parameters\": {\"b\": \"x\"}}", "<function=f>{\"a\": 2}</function> tail"]
GRAMMARS = ['root ::= "a" [b-z]{1,3} ( x | "\\u00e9" )*\nx ::= [^0-9\\n]+ "." # end\n', '{"type": "object", "properties": {"a": {"type": '
            '"integer", "minimum": -3, "maximum": 12}, "b": {"enum": ["x", 1, null]}}, "required": ["a"], "additionalProperties": false}',
            '{"$defs": {"n": {"anyOf": [{"type": "string", "pattern": "^(a|b)+[^c]{2,}$"}, {"type": "array", "items": {"$ref": '
            '"#/$defs/n"}, "maxItems": 2}]}}, "$ref": "#/$defs/n"}', '{"type": ["number", "string"], "format": "date-time"}']

MODELFILES = ['FROM x\nSYSTEM """a\nb"""\nPARAMETER stop "\\n"\nPARAMETER temperature 0.5\nMESSAGE user "hi"\nLICENSE x\n# end',
              'from x\nsystem "a\nb"\nTEMPLATE {{ .Prompt }}\nADAPTER a.gguf\nRENDERER y\nMESSAGE assistant """c"""\n']
CHAT = {"model": "qwen2", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}], "max_tokens": 4}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
CALLED = [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "assistant", "content": None, "tool_calls": [
    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}, {"role": "tool", "tool_call_id": "c", "content": "1"}]
OPTIONS = {"num_predict": 4, "temperature": 0.5, "top_k": 4, "stop": ["x"], "seed": 1, "num_ctx": 32, "repeat_last_n": -1, "mirostat": 2}
REQUESTS = [
    ("/api/chat", {**CHAT, "options": OPTIONS, "tools": [TOOL], "keep_alive": "5m", "think": "low", "logprobs": True, "top_logprobs": 2}),
    ("/api/chat", {**CHAT, "messages": CALLED, "stream": False, "format": {"type": "object", "properties": {"a": {"type": "null"}}}}),
    ("/api/generate", {"model": "qwen2", "prompt": "hi", "options": OPTIONS, "system": "s", "context": [1, 2], "format": "json"}),
    ("/api/generate", {"model": "qwen2", "prompt": "hi", "suffix": "x", "raw": True, "options": OPTIONS, "template": "{{ .Prompt }}"}),
    ("/api/embed", {"model": "qwen2", "input": ["a", "b"], "dimensions": 4, "truncate": False}),
    ("/api/embeddings", {"model": "qwen2", "prompt": "a"}), ("/api/show", {"name": "qwen2", "verbose": True}),
    ("/api/create", {"model": "y", "modelfile": MODELFILES[0].replace("FROM x", "FROM qwen2"), "parameters": {"top_p": 1}}),
    ("/api/copy", {"source": "qwen2", "destination": "y"}), ("/api/pull", {"model": "hf.co/a/b:Q4"}), ("/api/hypura/memory", {"memory": "200M"}),
    ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "n": 2, "logit_bias": {"5": -100},
                              "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}}),
    ("/v1/chat/completions", {**CHAT, "messages": CALLED, "tools": [TOOL], "tool_choice": "required", "reasoning_effort": "low"}),
    ("/v1/completions", {"model": "qwen2", "prompt": [1, 2], "max_tokens": 4, "logprobs": 2, "stop": "x"}),
    ("/v1/embeddings", {"model": "qwen2", "input": [[1], [2, 3]], "encoding_format": "base64"}),
    ("/v1/responses", {"model": "qwen2", "input": [{"role": "user", "content": "x"}, {"type": "function_call", "call_id": "c", "name": "f",
                       "arguments": "{}"}, {"type": "function_call_output", "call_id": "c", "output": "1"}], "max_output_tokens": 4,
                       "instructions": "i", "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}], "truncation": "auto"}),
    ("/v1/messages", {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "assistant", "content": [
        {"type": "tool_use", "id": "t", "name": "f", "input": {}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
                      "content": "1"}]}], "system": [{"type": "text", "text": "s"}], "tools": [{"name": "f", "input_schema": {}}],
                      "thinking": {"type": "enabled"}, "stream": True}),
    ("/v1/messages/count_tokens", {**CHAT, "tools": [{"name": "f", "input_schema": {"type": "object"}}]})]
LISTING = [{"path": "m-Q4-00001-of-00002.gguf", "size": 10, "lfs": {"oid": "0" * 64}}, {"path": "m-Q4-00002-of-00002.gguf", "size": 10},
           {"path": "m-Q8_0.gguf", "size": 9}]
IMAGE = {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "0" * 64},
                    {"mediaType": "application/vnd.ollama.image.params", "digest": "sha256:" + "1" * 64}]}


def write(target, number, data):
    folder = os.path.join(OUT, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, str(number)), "wb") as file:
        file.write(data)


def main():
    for number, path in enumerate(sorted(glob.glob(DATA + "/oracle/models/*.gguf") + glob.glob(DATA + "/embed/*.gguf"))):
        _, tensors = gguf_file.read(path)
        with open(path, "rb") as file:
            head = file.read(os.path.getsize(path) - sum((len(data) + 31) // 32 * 32 for *_, data in tensors))
        write("fuzz_model", number, head)
        write("fuzz_gguf", number, head + bytes(64))
    for number, path in enumerate(sorted(glob.glob(DATA + "/oracle/tokenizer/models/*.gguf") + glob.glob(DATA + "/tokenizer/*.gguf"))):
        with open(path, "rb") as file:
            write("fuzz_vocabulary", number, file.read())
    for number, (a, b) in enumerate((("blk.0.attn_q.weight", (96, 128)), ("blk.1.ffn_down.weight", (160, 96)))):
        path = os.path.join(OUT, "adapter")
        gguf_file.write(path, [gguf_file.string_value("general.type", "adapter"),
                               gguf_file.string_value("general.architecture", "llama"),
                               gguf_file.string_value("adapter.type", "lora"), gguf_file.value("adapter.lora.alpha", 6, "f", 8.0)],
                        [(a + ".lora_a", (b[0], 4), 0, bytes(b[0] * 16)), (a + ".lora_b", (4, b[1]), 0, bytes(b[1] * 16))])
        with open(path, "rb") as file:
            write("fuzz_adapter", number, file.read())
        os.remove(path)
    templates = []
    for path in sorted(glob.glob(DATA + "/oracle/templates/*.jinja")):
        with open(path, "rb") as file:
            templates.append(file.read())
    with open(DATA + "/jinja.jsonl") as lines:
        small = [json.loads(line).get("source", "") for line in lines]
    for number, text in enumerate(templates + [text.encode() for text in small if text]):
        write("fuzz_template", number, text)
    for number, (text, output) in enumerate((text, output) for text in templates for output in OUTPUTS):
        write("fuzz_chat_output", number, text + b"\0" + output.encode())
    for number, text in enumerate(GRAMMARS):
        write("fuzz_grammar", number, text.encode() + b"\0" + b'{"a": 3, "b": "x"}')
    for number, text in enumerate(MODELFILES):
        write("fuzz_modelfile", number, text.encode())
    for number, (path, body) in enumerate(REQUESTS):
        write("fuzz_requests", number, f"POST {path}\nHost: localhost\nOrigin: http://known.example\n\n{json.dumps(body)}".encode())
    post = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\n"
    for number, rest in enumerate((b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nA: b\r\n\r\n",
                                   b"Content-Length : 2\r\n\r\n{}", b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n")):
        write("fuzz_wire", number, post + rest + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    write("fuzz_requests", 200, b"POST /api/blobs/sha256:" + hashlib.sha256(b"x").hexdigest().encode() + b"\nHost: localhost\n\nx")
    for number, path in enumerate(("/", "/api/tags/", "/v1/models/qwen2", "/metrics", "/ui", "/api/hypura/events?model=qwen2", "/v1/responses/x")):
        write("fuzz_requests", 100 + number, f"GET {path}\nHost: localhost\n\n".encode())
    with open(DATA + "/oracle/models/qwen2.gguf", "rb") as file:
        gguf = file.read(60000)
    for number, (reference, answers) in enumerate((
            ("hf.co/a/b:Q4", [LISTING]), ("x:latest", [IMAGE, {"stop": ["a"]}]), ("http://x/m.gguf", []), ("http://x/m-00001-of-00002.gguf", []))):
        parts = [json.dumps(answer).encode() for answer in answers] + [gguf, gguf]
        write("fuzz_pull", number, reference.encode() + b"\n" + b"".join(
            b"\x98" + len(part).to_bytes(2, "little") + part for part in parts))


main()
