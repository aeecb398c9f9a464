#!/usr/bin/env python3
"""The server as its clients see it: formats, streams, errors, limits, disconnects. Prints TAP. Uses only 127.0.0.1.

    test_server.py HYPURA SOURCE_FOLDER
"""
import concurrent.futures
import hashlib
import http.server
import json
import math
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import gguf_file
from harness import (ANSWER, FILE, GREEDY, HYPURA, MODEL, PATIENCE, QUESTION, SOURCE, WEATHER, WORK, Server, chat,
                     smallest_budget)
from tap import run_tests, tests_of

TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
SERVER = None


def check_fields(value, fields):
    for name, kind in fields.items():
        assert name in value, (name, value)
        assert isinstance(value[name], kind) and not (kind is int and isinstance(value[name], bool)), (name, value[name])


def check_details(details):
    check_fields(details, {"parent_model": str, "format": str, "family": str, "families": list, "parameter_size": str,
                           "quantization_level": str})
    assert details["family"] == "qwen3moe" and details["quantization_level"] == "Q4_K_M", details


FIGURES = {"total_duration": int, "load_duration": int, "prompt_eval_count": int, "prompt_eval_duration": int,
           "eval_count": int, "eval_duration": int}


# ---- Ollama ---------------------------------------------------------------------------------------------------------

def it_reports_that_it_runs():
    status, headers, text = SERVER.request("GET", "/")
    assert status == 200 and text == b"Ollama is running" and len(headers["x-request-id"]) == 16
    status, _, text = SERVER.request("HEAD", "/")
    assert status == 200 and text == b""
    assert re.match(r"\d+\.\d+\.\d+", SERVER.json("GET", "/api/version")["version"])


def models_are_listed_and_shown():
    entry = next(m for m in SERVER.json("GET", "/api/tags")["models"] if m["name"] == MODEL + ":latest")
    check_fields(entry, {"name": str, "model": str, "modified_at": str, "size": int, "digest": str, "details": dict})
    assert TIME.match(entry["modified_at"]) and re.match(r"^[0-9a-f]{64}$", entry["digest"])
    assert entry["size"] == os.path.getsize(FILE)
    check_details(entry["details"])
    show = SERVER.post("/api/show", {"model": MODEL})
    check_fields(show, {"modelfile": str, "parameters": str, "template": str, "details": dict, "model_info": dict,
                        "capabilities": list, "modified_at": str})
    assert show["model_info"]["general.architecture"] == "qwen3moe" and "completion" in show["capabilities"]
    assert show["model_info"]["tokenizer.ggml.tokens"] is None and "<|im_start|>" in show["template"]
    verbose = SERVER.post("/api/show", {"name": MODEL, "verbose": True})
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 6144 and verbose["tensors"][0]["shape"]


def an_answer_comes_whole():
    answer = SERVER.post("/api/generate", {"model": MODEL, "prompt": QUESTION, "stream": False, "options": GREEDY})
    check_fields(answer, {"model": str, "created_at": str, "response": str, "done": bool, "done_reason": str,
                          "context": list, **FIGURES})
    assert answer["response"].startswith(ANSWER) and answer["done"] is True and answer["done_reason"] == "length"
    assert answer["eval_count"] == 24 and TIME.match(answer["created_at"]) and answer["model"] == MODEL
    assert len(answer["context"]) == answer["prompt_eval_count"] + 24
    whole = SERVER.post("/api/chat", chat(stream=False))
    check_fields(whole, {"model": str, "created_at": str, "message": dict, "done": bool, "done_reason": str, **FIGURES})
    assert whole["message"] == {"role": "assistant", "content": answer["response"]}, whole


def an_answer_comes_in_pieces():
    for path, body in (("/api/generate", {"model": MODEL, "prompt": QUESTION, "options": GREEDY}), ("/api/chat", chat())):
        lines = SERVER.lines(path, body)
        assert len(lines) > 10
        texts = []
        for line in lines[:-1]:
            assert line["done"] is False and TIME.match(line["created_at"]) and "done_reason" not in line
            texts.append(line["message"]["content"] if path == "/api/chat" else line["response"])
        assert "".join(texts).startswith(ANSWER), texts
        check_fields(lines[-1], {"done": bool, "done_reason": str, **FIGURES})
        assert lines[-1]["done"] is True


def the_same_seed_gives_the_same_answer():
    options = {"temperature": 4, "top_k": 0, "top_p": 1, "seed": 7, "num_predict": 20}
    texts = {SERVER.post("/api/chat", chat(stream=False, options=options))["message"]["content"] for _ in range(3)}
    assert len(texts) == 1
    others = {SERVER.post("/api/chat", chat(stream=False, options={**options, "seed": s}))["message"]["content"]
              for s in range(4)}
    assert len(others) > 1


def context_continues():
    first = SERVER.post("/api/generate", {"model": MODEL, "prompt": QUESTION, "stream": False, "options": GREEDY})
    second = SERVER.post("/api/generate", {"model": MODEL, "prompt": "And rm?", "context": first["context"],
                                           "stream": False, "options": GREEDY})
    assert second["prompt_eval_count"] > first["prompt_eval_count"] + 24


def raw_prompts_have_no_template():
    answer = SERVER.post("/api/generate", {"model": MODEL, "prompt": "ls - list", "raw": True, "stream": False,
                                           "options": GREEDY})
    assert answer["prompt_eval_count"] <= 4 and "context" not in answer, answer
    SERVER.post("/api/generate", {"model": MODEL, "prompt": "x", "raw": True, "system": "y"}, 400)


def roles_may_be_in_capitals():
    body = chat(stream=False)
    body["messages"][0]["role"] = "User"
    assert SERVER.post("/api/chat", body)["message"]["content"].startswith(ANSWER)


def stop_texts_end_an_answer():
    answer = SERVER.post("/api/chat", chat(stream=False, options={**GREEDY, "stop": ["directory"]}))
    assert answer["message"]["content"] == "ls - list " and answer["done_reason"] == "stop", answer


def logprobs_are_reported():
    answer = SERVER.post("/api/chat", chat(stream=False, logprobs=True, top_logprobs=3))
    assert len(answer["logprobs"]) == 24
    for entry in answer["logprobs"]:
        assert entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 3 and entry["token"] == entry["top_logprobs"][0]["token"]
    assert "".join(e["token"] for e in answer["logprobs"]) == answer["message"]["content"]
    SERVER.post("/api/chat", chat(logprobs=True, top_logprobs=21), 400)


def a_format_binds():
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "many": {"type": "boolean"}},
              "required": ["name", "many"]}
    for seed in range(3):
        answer = SERVER.post("/api/chat", chat(stream=False, format=schema, options={"seed": seed}))
        value = json.loads(answer["message"]["content"])
        assert isinstance(value["many"], bool) and len(value["name"]) <= 8, value
    assert "error" in SERVER.post("/api/chat", chat(format=7), 400)


def models_load_and_unload_on_request():
    loaded = SERVER.post("/api/generate", {"model": MODEL, "keep_alive": "10m"})
    assert loaded["done_reason"] == "load" and loaded["response"] == "" and loaded["done"] is True
    running = SERVER.json("GET", "/api/ps")["models"]
    assert len(running) == 1
    check_fields(running[0], {"name": str, "model": str, "size": int, "digest": str, "details": dict, "expires_at": str,
                              "size_vram": int, "context_length": int})
    assert SERVER.post("/api/chat", {"model": MODEL, "messages": [], "keep_alive": 0})["done_reason"] == "unload"
    assert SERVER.json("GET", "/api/ps")["models"] == []
    SERVER.post("/api/generate", {"model": MODEL, "prompt": "x", "keep_alive": "soon"}, 400)
    SERVER.post("/api/chat", chat(stream=False, keep_alive=0.2))
    time.sleep(0.6)
    assert SERVER.json("GET", "/api/ps")["models"] == []


def embeddings_have_length_one():
    answer = SERVER.post("/api/embed", {"model": MODEL, "input": ["list files", "remove files", "list files"]})
    check_fields(answer, {"model": str, "embeddings": list, "total_duration": int, "load_duration": int,
                          "prompt_eval_count": int})
    a, b, c = answer["embeddings"]
    assert a == c and a != b and len(a) == 256 and abs(math.sqrt(sum(x * x for x in a)) - 1) < 1e-5
    old = SERVER.post("/api/embeddings", {"model": MODEL, "prompt": "list files"})["embedding"]
    assert max(abs(x - y) for x, y in zip(a, old)) < 1e-6
    assert SERVER.post("/api/embed", {"model": MODEL, "input": []})["embeddings"] == []
    SERVER.post("/api/embed", {"model": MODEL, "input": 5}, 400)
    SERVER.post("/api/embed", {"model": MODEL, "input": "x " * 2000, "truncate": False}, 400)


def models_are_made_copied_and_deleted():
    SERVER.lines("/api/create", {"model": "brief", "from": MODEL, "system": "Be brief.",
                                 "parameters": {"temperature": 0, "num_predict": 3, "stop": ["zzz"]}})
    assert SERVER.post("/api/chat", {**chat(stream=False), "model": "brief", "options": {}})["eval_count"] == 3
    shown = SERVER.post("/api/show", {"model": "brief"})
    assert shown["system"] == "Be brief." and "num_predict 3" in re.sub(" +", " ", shown["parameters"])
    assert SERVER.request("POST", "/api/copy", {"source": "brief", "destination": "team/brief:v2"})[0] == 200
    assert SERVER.request("DELETE", "/api/delete", {"model": "brief"})[0] == 200
    SERVER.post("/api/show", {"model": "brief"}, 404)
    names = {m["name"] for m in SERVER.json("GET", "/api/tags")["models"]}
    assert "team/brief:v2" in names and "brief:latest" not in names
    assert SERVER.post("/api/chat", {**chat(stream=False), "model": "team/brief:v2", "options": {}})["eval_count"] == 3
    SERVER.lines("/api/create", {"model": "spoken", "from": MODEL, "messages": [{"role": "user", "content": "Hi"}]})
    assert SERVER.post("/api/show", {"model": "spoken"})["messages"] == [{"role": "user", "content": "Hi"}]
    assert SERVER.request("DELETE", "/api/delete", {"model": "spoken"})[0] == 200
    made = SERVER.post("/api/create", {"model": "file", "stream": False, "modelfile":
                                       f'FROM {MODEL}\nSYSTEM """One\nTwo"""\nPARAMETER temperature 0\nPARAMETER stop "\\n"\n'})
    assert made == {"status": "success"} and SERVER.post("/api/show", {"model": "file"})["system"] == "One\nTwo"
    for name in ("team/brief:v2", "file"):
        assert SERVER.request("DELETE", "/api/delete", {"model": name})[0] == 200
    for body in ({"from": MODEL, "template": "{{ if .System }}x{{ end }}"}, {"from": MODEL, "adapters": {"a": "b"}},
                 {"from": MODEL, "adapter": "../x.gguf"}, {"from": MODEL, "adapter": "missing.gguf"},
                 {"from": MODEL, "modelfile": "WHATEVER x"}, {}):
        SERVER.post("/api/create", {"model": "bad", **body}, 400)
    SERVER.post("/api/copy", {"source": "nothing", "destination": "x"}, 404)
    SERVER.json("DELETE", "/api/delete", {"model": MODEL}, 400)
    assert os.path.exists(FILE)


def models_take_an_adapter():
    """An adapter that changes a matrix strongly changes the answers of its model, and of no other."""
    folder = os.path.join(SERVER.folder, "adapters")
    os.makedirs(folder, exist_ok=True)
    values = [gguf_file.string_value("general.architecture", "qwen3moe"), gguf_file.string_value("general.type", "adapter"),
              gguf_file.string_value("adapter.type", "lora"), gguf_file.value("adapter.lora.alpha", 6, "f", 64.0)]
    numbers = lambda count: struct.pack(f"<{count}f", *(math.sin(i * 1.7) for i in range(count)))
    gguf_file.write(os.path.join(folder, "odd.gguf"), values, [
        ("blk.0.attn_output.weight.lora_a", (512, 1), 0, numbers(512)),
        ("blk.0.attn_output.weight.lora_b", (1, 256), 0, numbers(256))])
    made = SERVER.post("/api/create", {"model": "odd", "stream": False, "modelfile": f"FROM {MODEL}\nADAPTER odd.gguf\n"})
    assert made == {"status": "success"} and "ADAPTER odd.gguf" in SERVER.post("/api/show", {"model": "odd"})["modelfile"]
    ask = lambda name: SERVER.post("/api/chat", {**chat(stream=False), "model": name})["message"]["content"]
    assert ask(MODEL).startswith(ANSWER)
    other = ask("odd")
    assert not other.startswith(ANSWER), other
    assert ask(MODEL).startswith(ANSWER) and ask("odd") == other
    assert SERVER.request("DELETE", "/api/delete", {"model": "odd"})[0] == 200
    shutil.rmtree(folder)


def a_digest_names_a_version():
    """Other weights with the same metadata have another digest. A copy has the same one."""
    os.makedirs(SERVER.folder, exist_ok=True)
    path = os.path.join(SERVER.folder, "twin.gguf")
    digest = lambda name: next(m["digest"] for m in SERVER.json("GET", "/api/tags")["models"] if m["name"] == name + ":latest")
    shutil.copy(FILE, path)
    assert digest("twin") == digest(MODEL)
    values, tensors = gguf_file.read(FILE)
    name, dimensions, kind, data = tensors[40]
    tensors[40] = (name, dimensions, kind, bytes(byte ^ 1 for byte in data))
    gguf_file.write(path, values, tensors)
    assert os.path.getsize(path) == os.path.getsize(FILE)
    os.utime(path, (5, 5))
    assert digest("twin") != digest(MODEL)
    os.remove(path)


# ---- OpenAI and Anthropic --------------------------------------------------------------------------------------------

def open_chat(**more):
    return {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 16, **more}


def openai_models():
    listed = SERVER.json("GET", "/v1/models")
    assert listed["object"] == "list" and any(m["id"] == MODEL for m in listed["data"]), listed
    one = SERVER.json("GET", "/v1/models/" + MODEL)
    assert one["id"] == MODEL and one["object"] == "model" and isinstance(one["created"], int) and one["owned_by"]
    error = SERVER.json("GET", "/v1/models/nothing", status=404)["error"]
    check_fields(error, {"message": str, "type": str})
    assert "param" in error and "code" in error


def openai_chat():
    whole = SERVER.post("/v1/chat/completions", open_chat())
    check_fields(whole, {"id": str, "object": str, "created": int, "model": str, "system_fingerprint": str, "choices": list,
                         "usage": dict})
    assert whole["object"] == "chat.completion" and whole["id"].startswith("chatcmpl-")
    choice = whole["choices"][0]
    assert choice["index"] == 0 and choice["finish_reason"] == "length" and choice["logprobs"] is None
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"].startswith(ANSWER)
    usage = whole["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] and usage["completion_tokens"] == 16
    two = SERVER.post("/v1/chat/completions", open_chat(n=2, temperature=2, seed=1, logprobs=True, top_logprobs=2))
    assert [c["index"] for c in two["choices"]] == [0, 1] and len(two["choices"][1]["logprobs"]["content"]) == 16
    parts = SERVER.post("/v1/chat/completions", open_chat(messages=[
        {"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": QUESTION}]}]))
    assert parts["choices"][0]["message"]["content"]


def openai_chat_streams():
    events = SERVER.events("/v1/chat/completions", open_chat(stream=True, stream_options={"include_usage": True}))
    assert events[-1] == (None, "[DONE]")
    chunks = [data for _, data in events[:-1]]
    assert len({c["id"] for c in chunks}) == 1 and {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[0]["usage"] is None and chunks[0]["choices"][0]["finish_reason"] is None
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert text.startswith(ANSWER), text
    assert chunks[-2]["choices"][0]["delta"] == {} and chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 16
    assert all("usage" not in data for _, data in SERVER.events("/v1/chat/completions", open_chat(stream=True))[:-1])


def openai_tools_are_called_when_they_must():
    body = open_chat(tools=[{"type": "function", "function": WEATHER}], max_tokens=100,
                     tool_choice={"type": "function", "function": {"name": "get_weather"}})
    choice = SERVER.post("/v1/chat/completions", body)["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    assert call["type"] == "function" and call["function"]["name"] == "get_weather" and call["id"].startswith("call_")
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)
    deltas = [d["choices"][0]["delta"] for _, d in SERVER.events("/v1/chat/completions", {**body, "stream": True})[:-1]]
    assert any("tool_calls" in d and d["tool_calls"][0]["index"] == 0 for d in deltas), deltas
    after = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": None, "tool_calls": [call]},
             {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}]
    assert SERVER.post("/v1/chat/completions", open_chat(messages=after))["choices"]
    SERVER.post("/v1/chat/completions", open_chat(tools=body["tools"], tool_choice={"function": {"name": "other"}}), 400)


def openai_formats_bind():
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    made = SERVER.post("/v1/chat/completions", open_chat(max_tokens=60, response_format={
        "type": "json_schema", "json_schema": {"name": "x", "schema": schema}}))
    assert isinstance(json.loads(made["choices"][0]["message"]["content"])["ok"], bool)


def openai_completions():
    made = SERVER.post("/v1/completions", {"model": MODEL, "prompt": "ls - list", "max_tokens": 6, "temperature": 0, "echo": True,
                                           "logprobs": 2})
    assert made["object"] == "text_completion" and made["choices"][0]["text"].startswith("ls - list")
    assert len(made["choices"][0]["logprobs"]["tokens"]) == 6 and made["usage"]["completion_tokens"] == 6
    events = SERVER.events("/v1/completions", {"model": MODEL, "prompt": [[100, 200]], "max_tokens": 4, "stream": True})
    assert events[-1] == (None, "[DONE]") and events[-2][1]["choices"][0]["finish_reason"] == "length"


def openai_embeddings():
    made = SERVER.post("/v1/embeddings", {"model": MODEL, "input": ["a", "b"]})
    assert made["object"] == "list" and [d["index"] for d in made["data"]] == [0, 1] and made["usage"]["total_tokens"] > 0
    import base64
    packed = SERVER.post("/v1/embeddings", {"model": MODEL, "input": "a", "encoding_format": "base64"})["data"][0]["embedding"]
    floats = struct.unpack("<256f", base64.b64decode(packed))
    assert max(abs(x - y) for x, y in zip(floats, made["data"][0]["embedding"])) < 1e-6


def documents_are_ranked():
    """Scores are close to those of llama.cpp 0.7.0, which takes GELU from a table."""
    server = Server(os.path.join(SOURCE, "tests", "data", "embed", "modern-bert-rank.gguf"))
    model, documents = "modern-bert-rank", ["hello world", "a tiny document", "the model runs on disk"]
    ask = {"model": model, "query": "the big model", "documents": documents}
    made = server.post("/v1/rerank", ask)
    check_fields(made, {"model": str, "object": str, "usage": dict, "results": list})
    assert made["object"] == "list" and made["usage"] == {"prompt_tokens": 25, "total_tokens": 25}, made
    expected = [(0, 1.8585546), (1, 1.8190143), (2, -0.7593191)]
    assert [r["index"] for r in made["results"]] == [i for i, _ in expected], made
    for result, (_, score) in zip(made["results"], expected):
        assert set(result) == {"index", "relevance_score"} and abs(result["relevance_score"] - score) < 5e-3, made
    objects = [{"text": d} for d in reversed(documents)]
    best = server.post("/rerank", {**ask, "documents": objects, "top_n": 1, "return_documents": True})["results"]
    assert best == [{"index": 2, "relevance_score": made["results"][0]["relevance_score"], "document": {"text": documents[0]}}], best
    assert server.post("/api/show", {"model": model})["capabilities"] == ["rerank"]
    for wrong in ({"query": ""}, {"query": None}, {"query": ["a"]}, {"documents": []}, {"documents": "a"}, {"documents": ["a", 1]},
                  {"documents": [{"title": "a"}]}, {"documents": ["a"] * 2049}, {"documents": None}, {"top_n": 0}, {"top_n": "all"},
                  {"return_documents": "yes"}, {"model": ""}, {"documents": ["the model " * 600]}):
        error = server.post("/v1/rerank", {**ask, **wrong}, 400)["error"]
        assert error["type"] == "invalid_request_error" and error["message"], (wrong, error)
    assert "no embeddings" in server.post("/v1/embeddings", {"model": model, "input": "a"}, 400)["error"]["message"]
    assert server.post("/v1/rerank", {**ask, "model": "nowhere"}, 404)["error"]["code"] == "model_not_found"
    assert server.post("/v1/rerank", ask)["results"] == made["results"]
    assert server.stop() == 0
    error = SERVER.post("/v1/rerank", {**ask, "model": MODEL}, 400)["error"]["message"]
    assert "no classifier" in error, error


def embeddings_are_written_as_they_are_sent():
    """Many embeddings at once are held as numbers instead of text, and are limited."""
    import base64
    server = Server(os.path.join(SOURCE, "tests", "data", "embed", "bert.gguf"), "--context", 64)
    inputs = [chr(97 + i % 26) * (1 + i % 5) for i in range(2048)]
    status, headers, text = server.request("POST", "/v1/embeddings", {"model": "bert", "input": inputs})
    assert status == 200 and headers["content-type"].startswith("application/json") and "content-length" not in headers
    many = json.loads(text)
    assert [d["index"] for d in many["data"]] == list(range(2048)) and {len(d["embedding"]) for d in many["data"]} == {64}
    check_fields(many, {"object": str, "data": list, "model": str, "usage": dict})
    few = server.post("/v1/embeddings", {"model": "bert", "input": inputs[7:10]})
    assert [d["embedding"] for d in few["data"]] == [d["embedding"] for d in many["data"][7:10]]
    packed = server.post("/v1/embeddings", {"model": "bert", "input": inputs, "encoding_format": "base64"})["data"]
    for text, numbers in zip(packed, many["data"]):
        assert struct.unpack("<64f", base64.b64decode(text["embedding"])) == tuple(
            struct.unpack("<f", struct.pack("<f", x))[0] for x in numbers["embedding"])
    cut = server.post("/api/embed", {"model": "bert", "input": inputs, "dimensions": 8})
    assert {len(v) for v in cut["embeddings"]} == {8} and cut["prompt_eval_count"] == many["usage"]["total_tokens"]
    assert abs(sum(x * x for x in cut["embeddings"][5]) - 1) < 1e-5
    for body in ({"encoding_format": "hex"}, {"dimensions": 0}, {"dimensions": "all"}, {"input": ["a"] * 2049}, {"input": ""}, {"input": []}):
        error = server.post("/v1/embeddings", {"model": "bert", "input": "a", **body}, 400)["error"]
        assert error["type"] == "invalid_request_error", error
    # Clients that do not read hold up no one else.
    sockets = []
    for _ in range(4):
        s = socket.create_connection(("127.0.0.1", server.port), timeout=10 * PATIENCE)
        body = json.dumps({"model": "bert", "input": inputs}).encode()
        s.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        sockets.append(s)
    assert server.post("/api/embed", {"model": "bert", "input": "a"})["embeddings"]
    for s in sockets:
        s.close()
    assert server.stop() == 0
    server = Server(os.path.join(SOURCE, "tests", "data", "embed", "bert.gguf"), "--context", 64, "--body-limit", "100K")
    error = server.post("/v1/embeddings", {"model": "bert", "input": inputs}, 400)["error"]["message"]
    assert "2048 vectors of 64 numbers" in error, error
    assert server.post("/v1/embeddings", {"model": "bert", "input": inputs[:300]})["data"]
    assert server.stop() == 0


def openai_responses():
    body = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 16, "instructions": "Be brief."}
    whole = SERVER.post("/v1/responses", body)
    assert whole["object"] == "response" and whole["status"] == "incomplete" and whole["usage"]["output_tokens"] == 16
    text = whole["output"][0]["content"][0]["text"]
    events = SERVER.events("/v1/responses", {**body, "stream": True})
    assert [d["sequence_number"] for _, d in events] == list(range(len(events)))
    assert all(name == d["type"] for name, d in events)
    assert events[0][0] == "response.created" and events[-1][0] == "response.incomplete"
    assert "".join(d["delta"] for n, d in events if n == "response.output_text.delta") == text
    assert events[-1][1]["response"]["output"][0]["content"][0]["text"] == text
    SERVER.post("/v1/responses", {**body, "previous_response_id": "resp_1"}, 400)


def openai_responses_continue_earlier_ones():
    body = {"model": MODEL, "temperature": 0, "max_output_tokens": 16}
    first = SERVER.post("/v1/responses", {**body, "input": QUESTION, "instructions": "Be brief."})
    assert first["store"] is True and first["previous_response_id"] is None
    second = SERVER.post("/v1/responses", {**body, "input": "And rm?", "previous_response_id": first["id"]})
    assert second["previous_response_id"] == first["id"]
    # The answer is the same as for the whole conversation at once. The first response's instructions do not carry over.
    text = first["output"][0]["content"][0]["text"]
    whole = SERVER.post("/v1/responses", {**body, "input": [{"role": "user", "content": QUESTION},
                                                            {"role": "assistant", "content": text},
                                                            {"role": "user", "content": "And rm?"}]})
    assert whole["usage"]["input_tokens"] == second["usage"]["input_tokens"] and \
        whole["output"][0]["content"] == second["output"][0]["content"], (whole, second)
    tool = {"type": "function", **WEATHER}
    called = SERVER.post("/v1/responses", {**body, "max_output_tokens": 100, "input": "Weather?", "tools": [tool],
                                           "tool_choice": "required", "previous_response_id": second["id"]})
    call = called["output"][0]
    assert call["type"] == "function_call", call
    after = SERVER.post("/v1/responses", {**body, "previous_response_id": called["id"], "tools": [tool], "input": [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]})
    assert after["usage"]["input_tokens"] > called["usage"]["input_tokens"]
    assert SERVER.json("GET", "/v1/responses/" + first["id"]) == first
    assert SERVER.json("DELETE", "/v1/responses/" + first["id"])["deleted"] is True
    SERVER.json("GET", "/v1/responses/" + first["id"], status=404)
    SERVER.json("DELETE", "/v1/responses/" + first["id"], status=404)
    assert SERVER.json("GET", "/v1/responses/" + second["id"])["id"] == second["id"]
    unkept = SERVER.post("/v1/responses", {**body, "input": "x", "store": False})
    assert unkept["store"] is False
    SERVER.post("/v1/responses", {**body, "input": "y", "previous_response_id": unkept["id"]}, 400)
    # The least recently used responses are dropped, so the server's memory is limited.
    first = SERVER.post("/v1/responses", {**body, "max_output_tokens": 1, "input": "x"})
    for i in range(40):
        SERVER.post("/v1/responses", {**body, "max_output_tokens": 1, "input": "z", "metadata": {"filler": "f" * 150000}})
    SERVER.json("GET", "/v1/responses/" + first["id"], status=404)


def anthropic_messages():
    body = {"model": MODEL, "max_tokens": 16, "temperature": 0, "system": [{"type": "text", "text": "Be brief."}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]}
    whole = SERVER.post("/v1/messages", body)
    assert whole["type"] == "message" and whole["role"] == "assistant" and whole["stop_reason"] == "max_tokens"
    text = whole["content"][0]["text"]
    events = SERVER.events("/v1/messages", {**body, "stream": True})
    names = [n for n, _ in events]
    assert names[:2] == ["message_start", "content_block_start"] and names[-3:] == ["content_block_stop", "message_delta",
                                                                                     "message_stop"], names
    assert "".join(d["delta"]["text"] for n, d in events if n == "content_block_delta") == text
    assert events[-2][1]["usage"]["output_tokens"] == 16 and all(n == d["type"] for n, d in events)
    tool = {"name": "get_weather", "input_schema": WEATHER["parameters"]}
    called = SERVER.post("/v1/messages", {**body, "max_tokens": 100, "tools": [tool], "tool_choice": {"type": "any"}})
    assert called["stop_reason"] == "tool_use" and isinstance(called["content"][-1]["input"]["city"], str)
    error = SERVER.post("/v1/messages", {"model": MODEL, "messages": body["messages"]}, 400)
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"


def errors_have_the_shape_of_openai():
    for body, status in (({"messages": []}, 400), (open_chat(messages=[]), 400), (open_chat(temperature=9), 400),
                         ({**open_chat(), "model": "nothing"}, 404), (open_chat(n=0), 400),
                         (open_chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 400),
                         (open_chat(messages=[{"role": "user", "content": "word " * 3000}]), 400), (b"{", 400)):
        error = SERVER.json("POST", "/v1/chat/completions", body, status)["error"]
        check_fields(error, {"message": str, "type": str})


# ---- the server's own state -----------------------------------------------------------------------------------------

def metrics_can_be_parsed():
    status, headers, text = SERVER.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    values = {}
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            assert re.match(r'^hypura_[a-z_]+({model="[^"]+"})? -?[0-9.e+-]+$', line), line
            name, value = line.split()
            values[name] = float(value)
    assert values["hypura_generated_tokens_total"] > 0 and values["hypura_models_loaded"] == 1
    assert values['hypura_expert_hits_total{model="%s:latest"}' % MODEL] > 0


def the_budget_changes_while_it_runs():
    before = int(next(line.split()[1] for line in SERVER.request("GET", "/metrics")[2].decode().splitlines()
                      if line.startswith("hypura_budget_bytes ")).split(".")[0])
    for budget in (before + (2 << 20), before):
        changed = SERVER.post("/api/hypura/memory", {"memory": budget})
        assert changed["budget_bytes"] == budget, changed
        assert SERVER.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)
    for body in ({"memory": "lots"}, {}, {"memory": 0}, {"memory": 1000}):
        SERVER.post("/api/hypura/memory", body, 400)
    # SIGUSR1 reads the budget from a file.
    file = os.path.join(WORK.name, "budget")
    with open(file, "w") as out:
        out.write("20M")
    server = Server("--memory-file", file, "--context", "256", "--parallel", "1")
    for budget in (16 << 20, 1000, 20 << 20):
        with open(file, "w") as out:
            out.write(str(budget))
        told = 'msg="memory budget'
        seen = server.logged().count(told)
        server.process.send_signal(signal.SIGUSR1)
        end = time.time() + 30 * PATIENCE
        while server.logged().count(told) == seen and time.time() < end:
            time.sleep(0.02)
        changed = [line for line in server.logged().splitlines() if told in line][-1]
        assert f"bytes={budget}" in changed if budget > 1000 else "not changed" in changed, changed
        assert server.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)
    assert server.stop() == 0
    assert SERVER.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)


def events_show_the_machine():
    connection = SERVER.connection()
    connection.request("GET", "/api/hypura/events")
    response = connection.getresponse()
    assert response.status == 200 and response.getheader("content-type") == "text/event-stream"
    thread = threading.Thread(target=lambda: SERVER.post("/api/chat", chat(stream=False)))
    thread.start()
    seen, name, end = {}, None, time.time() + 30 * PATIENCE
    while time.time() < end and (len(seen) < 2 or not any(s["generated_tokens"] for s in seen["state"])):
        line = response.readline().decode().strip()
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            seen.setdefault(name, []).append(json.loads(line[6:]))
    thread.join()
    connection.close()
    model = next(m for m in seen["model"] if m["model"])
    state = seen["state"][-1]
    assert model["layers"] == len(state["layers"]) == 8 and model["experts"] == 12
    assert all(len(layer["experts"]) == 12 and set(layer["experts"]) <= set("pcfd") for layer in state["layers"]), state
    check_fields(state["rates"], {"tokens_per_second": float, "disk_bytes_per_second": float, "stall_share": float})
    check_fields(state, {"memory_bytes": int, "budget_bytes": int, "lit": list, "running": int, "waiting": int})
    # An answer uses two experts per layer and token, whether they were in memory or not.
    lit = {expert for one in seen["state"] for expert in one["lit"]}
    assert len(lit) >= 16 and {expert // 12 for expert in lit} == set(range(8)), lit


def events_show_what_is_on_a_gpu():
    environment = {"HYPURA_GPU": "0"}
    plan = json.loads(subprocess.run([HYPURA, "inspect", FILE, "--json", "--context", "512"], capture_output=True,
                                     env={**os.environ, **environment}).stdout or "{}").get("plan", {})
    if not plan.get("gpu"):
        return print("# no GPU can be used")
    server = Server(FILE, "--context", 512, environment=environment)
    server.post("/api/generate", {"model": MODEL})  # loads the model
    connection = server.connection()
    connection.request("GET", "/api/hypura/events")
    response = connection.getresponse()
    state = {}
    while "bytes_gpu" not in state:  # an event about the model comes first
        line = response.readline().decode()
        if line.startswith("data: "):
            state = json.loads(line[6:])
    connection.close()
    assert state["bytes_gpu"] > 0 and any("g" in layer["experts"] for layer in state["layers"]), state
    server.stop()


def a_gpu_that_fails_at_once_is_not_used_again():
    # The device is lost with the first batch of the first request, after two trial batches of opening.
    server = Server(FILE, "--context", 512, environment={"HYPURA_GPU": "0", "HYPURA_GPU_FAULT": "submit:5"})
    ask = {"model": MODEL, "prompt": "What does ls do?", "stream": False, "options": {"num_predict": 2}}
    status, _, text = server.request("POST", "/api/generate", ask)
    answer = json.loads(text)
    if status == 200:
        print("# no GPU can be used")
    else:
        assert "GPU" in answer["error"], answer
        assert server.post("/api/generate", ask)["response"]
        assert "failed before it computed anything" in server.logged()
    server.stop()


# ---- downloads ------------------------------------------------------------------------------------------------------

SYSTEM, PARAMETERS = b"Be brief.", b'{"num_predict": 2}'
SYSTEM_DIGEST, PARAMETERS_DIGEST = ("sha256:" + hashlib.sha256(layer).hexdigest() for layer in (SYSTEM, PARAMETERS))


class Files(http.server.BaseHTTPRequestHandler):
    """A hub, a library and a plain file server on loopback. It can break off in the middle of a file."""
    protocol_version = "HTTP/1.1"
    break_after = None
    held = None  # an event for which the parts of a split model wait
    wrong_digest = False
    parameters = PARAMETERS
    parts = []
    asked = []

    def do_GET(self):
        with open(FILE, "rb") as file:
            data = file.read()
        digest = hashlib.sha256(data).hexdigest() if not Files.wrong_digest else "0" * 64
        path = self.path.split("?")[0]
        if path.startswith("/api/models/team/split"):
            return self.text(json.dumps([{"path": "sub/" + os.path.basename(part), "size": os.path.getsize(part)}
                                         for part in Files.parts]).encode())
        part = next((part for part in Files.parts if path.endswith("/" + os.path.basename(part))), None)
        if part:
            if Files.held:
                Files.held.wait(30)
            with open(part, "rb") as file:
                data = file.read()
        if path.startswith("/api/models/team/odd"):
            digest = "a" + "\u00e9" * 31 + "a"  # 64 bytes, but not a digest, and cut in the middle of a character
        if path.startswith("/api/models/"):
            return self.text(json.dumps([{"type": "file", "path": "README.md"}, {"type": "file", "path": "m-Q4_K_M.gguf",
                                         "size": len(data), "lfs": {"oid": digest}}], ensure_ascii=False).encode())
        if "/manifests/" in path:
            return self.text(json.dumps({"layers": [
                {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + digest, "size": len(data)},
                {"mediaType": "application/vnd.ollama.image.system", "digest": SYSTEM_DIGEST},
                {"mediaType": "application/vnd.ollama.image.params", "digest": PARAMETERS_DIGEST}]}).encode())
        if path.endswith(SYSTEM_DIGEST):
            return self.text(SYSTEM)
        if path.endswith(PARAMETERS_DIGEST):
            return self.text(Files.parameters) if Files.parameters else self.send_error(404)
        if path.endswith("/text.gguf"):
            return self.text(b"no model at all " * 100)
        if not path.endswith(".gguf") and "/blobs/" not in path:
            return self.send_error(404)
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-")).group(1))
        Files.asked.append(start)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data) if Files.break_after is None else min(len(data), start + Files.break_after)
        self.wfile.write(data[start:end])
        if end < len(data):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def text(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def models_are_downloaded():
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    files.handle_error = lambda *arguments: None  # clients hang up on purpose
    threading.Thread(target=files.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{files.server_address[1]}"
    server = Server("--context", 512, "--memory", "24M", folder="pulled", environment={"HYPURA_HUB": base, "HYPURA_LIBRARY": base})

    def pull(reference, status=200, **more):
        got, _, text = server.request("POST", "/api/pull", {"model": reference, **more})
        assert got == status, (got, text)
        return [json.loads(line) for line in text.splitlines()]

    # An interruption is reported, and the next try continues from there.
    Files.break_after = 9 << 20
    lines = pull(base + "/files/plain.gguf")
    assert "error" in lines[-1] and lines[0] == {"status": "pulling manifest"}, lines[-1]
    Files.break_after = None
    lines = pull(base + "/files/plain.gguf")
    assert lines[-1] == {"status": "success"}, lines[-1]
    assert Files.asked == [0, 9 << 20], Files.asked
    assert any(line.get("total") == os.path.getsize(FILE) and line["completed"] >= 9 << 20 for line in lines)
    assert any(line.get("hypura", {}).get("predicted_tokens_per_second", 0) > 0 for line in lines), lines
    assert server.post("/api/chat", {**chat(stream=False), "model": "plain"})["message"]["content"].startswith(ANSWER)
    assert pull("hf.co/team/model:Q4_K_M", stream=False) == [{"status": "success"}]
    assert pull("hf.co/team/odd")[-1] == {"status": "success"}
    assert server.request("DELETE", "/api/delete", {"model": "hf.co/team/odd"})[0] == 200
    assert pull("tiny:v1")[-1] == {"status": "success"}
    assert server.post("/api/chat", {**chat(stream=False), "model": "tiny:v1", "options": {}})["eval_count"] == 2
    names = {m["name"] for m in server.json("GET", "/api/tags")["models"]}
    assert {"plain:latest", "hf.co/team/model:Q4_K_M", "tiny:v1"} <= names, names
    assert server.post("/api/show", {"model": "tiny:v1"})["system"] == SYSTEM.decode()
    # A model is not installed without its parameters.
    for Files.parameters, what in ((None, "did not answer as expected"), (PARAMETERS + b" ", "digest mismatch")):
        assert what in pull("part:v1")[-1]["error"]
        server.post("/api/show", {"model": "part:v1"}, 404)
    Files.parameters = PARAMETERS
    Files.wrong_digest = True
    lines = pull("wrong:v1")
    assert "digest mismatch" in lines[-1]["error"], lines[-1]
    Files.wrong_digest = False
    # A split model is downloaded with all of its parts, or not at all.
    os.makedirs(os.path.join(WORK.name, "parts"))
    Files.parts = gguf_file.split(FILE, os.path.join(WORK.name, "parts"), "m-Q8_0", 3)
    for reference, name in (("hf.co/team/split:Q8_0", "hf.co/team/split:Q8_0"), (base + "/files/m-Q8_0-00001-of-00003.gguf", "m-Q8_0")):
        lines = pull(reference)
        assert lines[-1] == {"status": "success"}, lines[-1]
        assert {line["total"] for line in lines if "total" in line} == {os.path.getsize(part) for part in Files.parts}
        assert server.post("/api/chat", {**chat(stream=False), "model": name})["message"]["content"].startswith(ANSWER)
        assert server.request("DELETE", "/api/delete", {"model": name})[0] == 200
    # If two clients want the same model, one downloads it.
    Files.held = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(pull, "hf.co/team/split:Q8_0") for _ in range(2)]
        done, _ = concurrent.futures.wait(both, return_when=concurrent.futures.FIRST_COMPLETED)
        refused = done.pop()
        Files.held.set()
        assert "being downloaded already" in refused.result()[-1]["error"], refused.result()
        assert next(one for one in both if one is not refused).result()[-1] == {"status": "success"}
    Files.held = None
    # The forecast is for the whole budget, whatever is loaded or remembered.
    filler = {"model": MODEL, "max_output_tokens": 1, "input": "x", "metadata": {"filler": "f" * 1000000}}
    for _ in range(3):
        server.post("/v1/responses", filler)
    assert server.request("DELETE", "/api/delete", {"model": "plain"})[0] == 200
    lines = pull(base + "/files/plain.gguf")
    told = next(line["hypura"] for line in lines if "hypura" in line)
    assert told["budget_bytes"] == 24 << 20 > told["smallest_budget_bytes"], told
    assert server.request("DELETE", "/api/delete", {"model": "hf.co/team/split:Q8_0"})[0] == 200
    assert "first part" in pull(base + "/files/m-Q8_0-00002-of-00003.gguf")[-1]["error"]
    lost = Files.parts.pop()
    assert "00003-of-00003" in pull("hf.co/team/split:Q8_0")[-1]["error"]
    Files.parts = []
    for reference in ("../x", base + "/", "hf.co/only"):
        assert "error" in json.loads(server.request("POST", "/api/pull", {"model": reference})[2].splitlines()[-1])
    assert "error" in pull(base + "/files/missing")[-1]
    assert "error" in pull(base + "/files/text.gguf")[-1]
    assert sorted(os.listdir(server.folder)) == ["hf.co+team+model@Q4_K_M.gguf", "plain.gguf", "tiny@v1.json", "weights"], \
        os.listdir(server.folder)
    server.stop()
    # A model that cannot run here is refused before it is downloaded.
    small = Server("--memory", "64M", folder="small")
    small.post("/api/hypura/memory", {"memory": "1M"})  # the current budget counts
    Files.asked.clear()
    lines = [json.loads(line) for line in small.request("POST", "/api/pull", {"model": base + "/files/plain.gguf"})[2].splitlines()]
    assert "cannot run here" in lines[-1]["error"] and "smallest that works" in lines[-1]["error"], lines[-1]
    assert not any(line.get("completed", 0) > 8 << 20 for line in lines) and os.listdir(small.folder) == []
    small.stop()
    files.shutdown()


def the_commands_work_without_and_with_a_server():
    folder = os.path.join(WORK.name, "pulled")
    environment = {**os.environ, "HYPURA_HOST": f"127.0.0.1:{SERVER.port}"}
    run = lambda *arguments: subprocess.run([HYPURA, *arguments], capture_output=True, env=environment, timeout=30 * PATIENCE)
    listed = json.loads(run("list", "--json", "--models", folder).stdout)["models"]
    assert any(m["name"] == "plain:latest" for m in listed) and any(m["name"] == MODEL + ":latest" for m in listed)
    assert b"plain:latest" in run("list", "--models", folder).stdout
    with open(os.path.join(folder, "broken.json"), "w") as file:
        file.write("{")
    some = run("list", "--models", folder)  # the others, and then the error
    assert some.returncode == 1 and b"broken.json cannot be read" in some.stderr and b"plain:latest" in some.stdout, some
    environment["HYPURA_MODELS"] = folder
    assert b"broken.json cannot be read" in run("inspect", "broken").stderr
    del environment["HYPURA_MODELS"]
    assert run("rm", "--models", folder, "broken").returncode == 0
    assert run("rm", "--models", folder, "plain").returncode == 0 and run("rm", "--models", folder, "plain").returncode == 1
    SERVER.post("/api/generate", {"model": MODEL})
    assert MODEL.encode() in run("ps").stdout
    assert json.loads(run("ps", "--json").stdout)["models"][0]["name"] == MODEL + ":latest"
    assert run("stop", MODEL).returncode == 0 and MODEL.encode() not in run("ps").stdout
    environment["HYPURA_HOST"] = "127.0.0.1:1"
    failed = run("ps")
    assert failed.returncode == 1 and b"no server answers" in failed.stderr, failed.stderr


def the_page_is_served():
    status, headers, text = SERVER.request("GET", "/ui")
    assert status == 200 and headers["content-type"].startswith("text/html") and b"</html>" in text
    assert "default-src 'none'" in headers["content-security-policy"] and b"src=" not in text


# ---- errors and hostile input ---------------------------------------------------------------------------------------

def wrong_requests_get_messages():
    for path, body, status in (
            ("/api/chat", {"messages": []}, 400), ("/api/chat", chat(stream="yes"), 400),
            ("/api/chat", {**chat(), "model": "nothing"}, 404), ("/api/chat", {**chat(), "messages": "hi"}, 400),
            ("/api/chat", {**chat(), "messages": [{"role": "robot", "content": "x"}]}, 400),
            ("/api/chat", {**chat(), "messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, 400),
            ("/api/generate", {"model": MODEL, "prompt": "x", "images": ["aGk="]}, 400),
            ("/api/generate", {"model": MODEL, "prompt": "x", "template": "{{ range .Messages }}"}, 400),
            ("/api/generate", {"model": MODEL, "prompt": "x", "options": {"temperature": "hot"}}, 400),
            ("/api/generate", {"model": MODEL, "prompt": "x", "options": {"top_p": 7}}, 400),
            ("/api/generate", {"model": MODEL, "prompt": 5}, 400), ("/api/show", {}, 400)):
        error = SERVER.post(path, body, status)
        assert isinstance(error["error"], str) and error["error"], error
    assert SERVER.request("GET", "/api/nothing")[0] == 404
    status, headers, _ = SERVER.request("GET", "/api/chat")
    assert status == 405 and headers["allow"] == "POST"


def unknown_options_are_only_noted():
    SERVER.post("/api/chat", chat(stream=False, options={**GREEDY, "num_gpu": 1}))
    assert "option=num_gpu" in SERVER.logged()


def bodies_that_are_not_json():
    for body in (b"", b"{", b"[]", b"\xff\xfe", b'{"model": "\xc3\x28"}', b"[" * 100000, b'{"a":' * 5000, b"null", b'"x"',
                 b'{"model": 1e999}'):
        status, _, text = SERVER.request("POST", "/api/chat", body)
        assert status == 400 and json.loads(text)["error"], (body[:20], status, text)


def nesting_is_limited():
    """Valid JSON that is nested too deeply is refused in every place that reads it."""
    def nested(depth, inner, key):
        for _ in range(depth):
            inner = {"type": "object", "properties": {key: inner}, "required": [key]}
        return inner
    sys.setrecursionlimit(10000)
    arrays = value = []
    for _ in range(900):
        value.append([])
        value = value[0]
    for depth in (30, 600):
        schema = nested(depth, {"type": "boolean"}, "a")
        tool = {"type": "function", "function": {"name": "f", "description": "x", "parameters": schema}}
        for path, body in (("/api/chat", chat(stream=False, format=schema)), ("/api/chat", chat(stream=False, tools=[tool])),
                           ("/v1/chat/completions", {**open_chat(tools=[tool], tool_choice="required")}),
                           ("/v1/chat/completions", open_chat(chat_template_kwargs={"x": arrays, "tools": arrays})),
                           ("/v1/responses", {"model": MODEL, "input": "x", "max_output_tokens": 2, "metadata": {"a": schema}}),
                           ("/v1/messages", {"model": MODEL, "max_tokens": 2, "messages": [{"role": "assistant", "content": [
                               {"type": "tool_use", "id": "a", "name": "f", "input": schema}]}, {"role": "user", "content": "x"}]})):
            status, _, text = SERVER.request("POST", path, body)
            assert status in (200, 400) and json.loads(text), (depth, path, status, text[:200])
    status, _, text = SERVER.request("POST", "/api/chat", chat(stream=False, format={"type": "string", "pattern": "(" * 2000 + ")" * 2000}))
    assert status == 400, (status, text[:200])
    status, _, text = SERVER.request("POST", "/api/chat", chat(stream=False, format={"$ref": "#"}))
    assert status == 400 and b"refers to itself without end" in text, (status, text[:200])


def invalid_utf8_is_refused():
    """Bytes that are not UTF-8 are refused in every place where a client can put them."""
    for path in ("/v1/models/%ff%fe", "/v1/responses/%ff%fe", "/api/hypura/events?model=%ff", "/%ff"):
        status, _, text = SERVER.request("GET", path)
        assert status in (400, 404) and json.loads(text)["error"], (path, status, text)
    for body in (b'{"model": "%s", "messages": [{"role": "user", "content": "\xff"}]}' % MODEL.encode(),
                 b'{"model": "%s", "prompt": "\xed\xa0\x80"}' % MODEL.encode(), b'{"model": "\xc0\x80"}',
                 b'{"model": "%s", "prompt": "\\ud800"}' % MODEL.encode()):
        for path in ("/api/chat", "/api/generate", "/v1/chat/completions", "/api/embed"):
            status, _, text = SERVER.request("POST", path, body)
            assert status == 400 and json.loads(text)["error"], (path, body, status, text)
    assert SERVER.request("GET", "/", headers={"X-Odd": b"\xff\xfe".decode("latin-1")})[0] == 200


def names_do_not_reach_files():
    for name in ("../../etc/passwd", "/etc/passwd", "..", "a/../b", "a\\b", "a b", ".hidden", "x" * 300, "a:b:c", "a//b",
                 "%2e%2e/x"):
        for path, body in (("/api/show", {"model": name}), ("/api/chat", {**chat(), "model": name})):
            assert SERVER.request("POST", path, body)[0] in (400, 404), name
        assert SERVER.request("POST", "/api/copy", {"source": MODEL, "destination": name})[0] == 400, name
    assert not os.path.exists(SERVER.folder) or all(f.endswith((".gguf", ".json")) or f == "weights" for f in os.listdir(SERVER.folder))


def large_bodies_are_refused():
    connection = SERVER.connection()
    connection.putrequest("POST", "/api/chat")
    connection.putheader("Content-Length", str(40 << 20))
    connection.endheaders()
    piece = b"x" * (1 << 20)
    for _ in range(40):
        connection.send(piece)
    assert connection.getresponse().status == 413
    connection.close()
    # Without a length, the server notices while reading.
    connection = SERVER.connection()
    connection.request("POST", "/api/chat", iter([piece] * 33), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def long_headers_and_paths_are_refused():
    assert SERVER.request("GET", "/" + "a" * 100000)[0] in (414, 431)
    assert SERVER.request("GET", "/", headers={"X-Long": "a" * 100000})[0] in (413, 431)


def prompts_longer_than_the_context_are_cut():
    SERVER.post("/api/chat", chat("word " * 3000, stream=False, truncate=False), 400)
    answer = SERVER.post("/api/chat", chat("word " * 3000, stream=False))
    assert 0 < answer["prompt_eval_count"] < 512, answer["prompt_eval_count"]
    history = [{"role": "user", "content": "old " * 200}, {"role": "assistant", "content": "yes"}] * 4
    body = {**chat(stream=False), "messages": history + [{"role": "user", "content": QUESTION}]}
    assert SERVER.post("/api/chat", body)["message"]["content"]


def pages_of_other_sites_may_not_call():
    assert SERVER.request("GET", "/api/tags", headers={"Origin": "https://evil.example"})[0] == 403
    assert SERVER.request("GET", "/api/tags", headers={"Host": "evil.example"})[0] == 403
    assert SERVER.request("OPTIONS", "/api/chat", headers={"Origin": "https://evil.example"})[0] == 403
    own = f"http://127.0.0.1:{SERVER.port}"
    assert SERVER.request("GET", "/api/tags", headers={"Origin": own})[0] == 200


def a_client_that_leaves_stops_its_answer():
    for stream in (True, False):
        connection = SERVER.connection()
        body = chat(stream=stream, options={"temperature": 1, "num_predict": 400, "seed": 1, "stop": [], "num_ctx": 512},
                    format={"type": "string", "minLength": 3000})
        connection.request("POST", "/api/chat", json.dumps(body))
        time.sleep(0.3 if not stream else 0)
        if stream:
            connection.getresponse().readline()
        connection.sock.close() if connection.sock else None
        connection.close()
        start = time.time()
        SERVER.post("/api/embed", {"model": MODEL, "input": "x"})  # wait until nothing else runs
        assert time.time() - start < 5 * PATIENCE
    assert "broken_off=true" in SERVER.logged() or "status=499" in SERVER.logged()


def a_file_may_change_or_vanish_while_it_is_served():
    os.makedirs(SERVER.folder, exist_ok=True)
    path = os.path.join(SERVER.folder, "moving.gguf")
    shutil.copy(FILE, path)
    ask = lambda status: SERVER.post("/api/chat", {**chat(stream=False), "model": "moving"}, status)
    loads = lambda: SERVER.logged().count('"model loaded" model=moving:latest')
    assert ask(200)["message"]["content"].startswith(ANSWER) and loads() == 1
    assert ask(200) and loads() == 1
    os.utime(path, (1, 1))
    assert ask(200)["message"]["content"].startswith(ANSWER) and loads() == 2
    with open(path, "r+b") as file:
        file.truncate(1000)
    assert "moving.gguf" in ask(500)["error"]
    os.remove(path)
    assert ask(404)["error"] == "model 'moving' not found"
    assert SERVER.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)


def incomplete_requests_do_no_harm():
    for text in (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", b"GE", b"\0\0\0\0\r\n\r\n",
                 b"GET / HTTP/9.9\r\n\r\n", b"POST /api/chat HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", SERVER.port), timeout=0.3) as s:
            s.sendall(text)
            s.shutdown(socket.SHUT_WR)
            try:
                s.recv(1000)
            except OSError:
                pass
    assert SERVER.request("GET", "/")[0] == 200


def many_clients_get_the_same_answer():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: SERVER.post("/api/chat", chat(stream=False))["message"]["content"], range(16)))
    assert len(set(answers)) == 1 and answers[0].startswith(ANSWER), set(answers)


def requests_that_trickle_are_ended():
    server = Server("--request-time", 1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10 * PATIENCE) as s:
        start, ended = time.time(), False
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 200:
                s.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            ended = True
        assert ended and time.time() - start < 8 * PATIENCE
    server.stop()


def a_full_queue_is_reported():
    server = Server("--queue", 1, "--parallel", 1, "--context", 512)
    server.post("/api/generate", {"model": MODEL})
    body = chat(stream=False, options={"num_predict": 60, "seed": 1}, format={"type": "string", "minLength": 2000})
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: server.request("POST", "/api/chat", body), range(6)))
    statuses = [r[0] for r in results]
    assert 200 in statuses and 503 in statuses, statuses
    refused = next(json.loads(r[2]) for r in results if r[0] == 503)
    assert refused == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert server.stop() == 0


def keys_and_origins_give_access():
    server = Server("--cors", "https://page.example", environment={"HYPURA_API_KEY": "secret"})
    assert server.request("GET", "/")[0] == 200
    for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer secrets"}, {"x-api-key": ""}):
        status, got, text = server.request("GET", "/api/tags", headers=headers)
        assert status == 401 and "error" in json.loads(text) and got["www-authenticate"] == "Bearer", status
    for headers in ({"Authorization": "Bearer secret"}, {"x-api-key": "secret"}):
        assert server.request("GET", "/api/tags", headers=headers)[0] == 200
    page = {"Origin": "https://page.example"}
    status, headers, _ = server.request("OPTIONS", "/api/chat", headers={**page, "Access-Control-Request-Method": "POST"})
    assert status == 204 and headers["access-control-allow-origin"] == "https://page.example"
    assert server.request("GET", "/api/tags", headers={"Origin": "https://other.example"})[0] in (401, 403)
    server.stop()


def other_hosts_need_a_key():
    result = subprocess.run([HYPURA, "serve", "--host", "0.0.0.0", "--port", "0"], capture_output=True, timeout=20 * PATIENCE,
                            env={**os.environ, "HYPURA_API_KEY": ""})
    assert result.returncode == 2 and b"--api-key" in result.stderr, result.stderr


def it_stops_after_the_running_answers():
    server = Server("--context", 512)
    results = []
    body = chat(stream=False, options={"num_predict": 40, "seed": 1}, format={"type": "string", "minLength": 2000})
    server.post("/api/generate", {"model": MODEL})
    thread = threading.Thread(target=lambda: results.append(server.request("POST", "/api/chat", body)))
    thread.start()
    time.sleep(0.2)
    assert server.stop() == 0
    thread.join()
    assert results[0][0] == 200, results


def prompts_stay_out_of_the_log():
    SERVER.post("/api/chat", chat("unmistakable-words", stream=False))
    assert "unmistakable-words" not in SERVER.logged()


def bail_out_without_server():
    if SERVER.process.poll() is not None:
        print(f"Bail out! the server ended: {SERVER.logged()[-2000:]}")
        sys.exit(1)


if __name__ == "__main__":
    budget = max(os.path.getsize(FILE) // 2, smallest_budget() + (6 << 20))
    SERVER = Server("--memory", budget, "--context", 512, "--parallel", 2)
    tests = tests_of(globals(), [check_fields, check_details, open_chat, bail_out_without_server])
    failed = run_tests(tests, bail_out_without_server)
    if SERVER.stop() != 0:
        failed += 1
        print("# the server ended with an error")
    WORK.cleanup()
    sys.exit(1 if failed else 0)
