#!/usr/bin/env python3
"""Requests as clients of Ollama, OpenAI and Anthropic send them, down to the bytes of HTTP. Prints TAP.

    test_requests.py HYPURA SOURCE_FOLDER
"""
import base64
import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

import gguf_file
from harness import ANSWER, FILE, GREEDY, HYPURA, MODEL, PATIENCE, QUESTION, WEATHER, WORK, Server, chat
from tap import run_tests, tests_of

SERVER = None
BODY = json.dumps({"model": MODEL, "prompt": "hi", "stream": False, "options": {"num_predict": 2}}).encode()


def talk(*pieces, wait=0.1):
    """Sends bytes. Returns all that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", SERVER.port), timeout=20 * PATIENCE) as connection:
        for i, piece in enumerate(pieces):
            time.sleep(wait if i else 0)
            connection.sendall(piece)
        said = b""
        while piece := connection.recv(65536):
            said += piece
    return said


def is_one_answer(said):
    """Whether nothing follows the body, which may itself contain "HTTP/1.1"."""
    head, _, body = said.partition(b"\r\n\r\n")
    return len(body) == int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)[1])


def until(what, seconds=10):
    end = time.monotonic() + seconds * PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


# ---- HTTP -----------------------------------------------------------------------------------------------------------

def http_comes_in_all_its_forms():
    version = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n"
    close = b"Connection: close\r\n\r\n"
    assert talk(version + b"\r\n" + version + b"\r\n" + version + close).count(b"HTTP/1.1 200 OK") == 3  # pipelined
    post = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\n"
    chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (9, BODY[:9], len(BODY) - 9, BODY[9:])
    whole = b"Content-Length: %d\r\n" % len(BODY)
    for said in (talk(post + b"Transfer-Encoding: chunked\r\n" + close + chunks),
                 talk(post + b"Expect: 100-continue\r\n" + whole + close, BODY),
                 talk(b"POST /api/generate HTTP/1.1\r\nhOST: localhost\r\ncONTENT-lENGTH: %d\r\nCONNECTION: Close\r\n\r\n" % len(BODY) + BODY),
                 talk(b"POST /api/generate HTTP/1.0\r\n" + whole + b"\r\n" + BODY),
                 talk(post + whole + close, BODY[:20], BODY[20:])):
        assert b"200 OK" in said and json.loads(said[said.rindex(b"\r\n\r\n"):])["done_reason"] == "length", said
    # Extensions of a chunk's size are ignored, or refused, as by libmicrohttpd 1.
    said = talk(post + b"Transfer-Encoding: chunked\r\n" + close + b"%x;why=not\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert re.match(rb"HTTP/1.1 (200|400) ", said), said
    assert talk(post + b"Expect: 100-continue\r\n" + whole + close, BODY).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The client need not send a body that the server refuses.
    started = time.monotonic()
    said = talk(post + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ") and time.monotonic() - started < 5 * PATIENCE, said
    for broken in (b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                   b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -4\r\n\r\n", b"GET / HTTP/1.1\r\n" + close):
        assert talk(broken).startswith(b"HTTP/1.1 400 "), broken


def the_end_of_a_body_is_unambiguous():
    post = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\n"
    hidden = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    body = b"0\r\n\r\n" + hidden
    for ends in (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                 b"Content-Length: 5\r\nContent-Length: %d\r\n" % len(body), b"Content-Length: %d\r\ncontent-length: 5\r\n" % len(body)):
        said = talk(post + ends + b"\r\n" + body)
        assert said.startswith(b"HTTP/1.1 400 ") and is_one_answer(said), said


def paths_may_be_written_in_other_ways():
    for path in ("/api/tags/", "/api/tags?x=1", "/api%2Ftags", f"http://localhost:{SERVER.port}/api/tags", "http://localhost/api/tags/"):
        assert SERVER.json("GET", path)["models"], path
    assert SERVER.json("GET", "/v1/models/")["data"]
    for name in (MODEL.replace("-", "%2D"), MODEL + "%3Alatest", MODEL + ":latest", "library%2F" + MODEL):
        assert SERVER.json("GET", "/v1/models/" + name)["id"] == MODEL
    assert "a/b:c" in SERVER.json("GET", "/v1/models/a%2Fb%3Ac", status=404)["error"]["message"]
    assert SERVER.request("GET", "/ui/")[0] == SERVER.request("GET", "http://localhost")[0] == 200
    assert SERVER.post("/api/generate/", {"model": MODEL})["done_reason"] == "load"


def missing_paths_are_reported_in_the_clients_format():
    assert SERVER.json("GET", "/api/nothing", status=404) == {"error": "404 page not found"}
    assert SERVER.json("GET", "/v1/nothing", status=404)["error"]["type"] == "invalid_request_error"
    assert SERVER.json("GET", "/v1/messages/batches", status=404)["error"]["type"] == "not_found_error"
    assert SERVER.request("OPTIONS", "/api/chat")[0] == 204
    status, headers, _ = SERVER.request("OPTIONS", "/api/chat", headers={"Origin": "http://elsewhere.example"})
    assert status == 403 and "access-control-allow-origin" not in headers


def hosts_that_no_site_can_have_are_local():
    ask = lambda host: SERVER.request("GET", "/api/version", headers={"Host": host})[0]
    for host in ("localhost", "host.docker.internal:11434", "me.localhost:1", "127.0.0.1:9", "[::1]:9", "192.168.0.2",
                 socket.gethostname() + ":11434", socket.gethostname() + ".local"):
        assert ask(host) == 200, host
    for host in ("evil.example", "localhost.evil.example", "evilinternal", "internal.example", "local", "another.local"):
        assert ask(host) == 403 or host == socket.gethostname(), host


def a_proxy_may_pass_its_own_name_on():
    told = SERVER.json("GET", "/api/version", headers={"Host": "llm.example.org"}, status=403)["error"]
    assert "--allow-host" in told and "--api-key" in told, told
    behind = Server("--allow-host", "llm.example.org", folder="behind a proxy")
    ask = lambda **headers: behind.request("GET", "/api/version", headers=headers)[0]
    for host in ("llm.example.org", "LLM.example.org:443", "localhost"):
        assert ask(Host=host) == 200, host
    for host in ("example.org", "llm.example.org.evil.example", "llm.example.orgy", "evil.example"):
        assert ask(Host=host) == 403, host
    assert ask(Host="llm.example.org", Origin="https://llm.example.org") == 200  # the server's own page
    assert ask(Host="llm.example.org", Origin="https://evil.example") == 403
    behind.stop()
    for name in ("", "https://llm.example.org", "a b"):
        done = subprocess.run([HYPURA, "serve", "--allow-host", name], capture_output=True, timeout=60)
        assert done.returncode == 2 and b"--allow-host" in done.stderr, done


# ---- Ollama ---------------------------------------------------------------------------------------------------------

def empty_inputs_load_the_model():
    for body in ({}, {"input": None}, {"input": ""}, {"input": []}):
        SERVER.post("/api/generate", {"model": MODEL, "keep_alive": 0})
        assert SERVER.post("/api/embed", {"model": MODEL, **body})["embeddings"] == []
        assert SERVER.json("GET", "/api/ps")["models"]
    assert SERVER.post("/api/embeddings", {"model": MODEL}) == SERVER.post("/api/embeddings", {"model": MODEL, "prompt": ""}) == {"embedding": []}
    for body in ({}, {"prompt": ""}, {"prompt": None}):
        assert SERVER.post("/api/generate", {"model": MODEL, **body})["done_reason"] == "load"
    assert SERVER.post("/api/chat", {"model": MODEL, "messages": None})["done_reason"] == "load"


def models_have_several_names():
    for body in ({"model": MODEL}, {"name": MODEL}, {"model": "", "name": MODEL}, {"model": MODEL.upper()}, {"model": "library/" + MODEL},
                 {"model": "registry.ollama.ai/library/" + MODEL + ":latest"}):
        assert SERVER.post("/api/show", body)["details"]["format"] == "gguf"
    assert "tensors" in SERVER.post("/api/show", {"model": MODEL, "verbose": True})
    SERVER.post("/api/show", {"model": "", "name": ""}, 400)
    assert SERVER.request("POST", "/api/copy", {"source": MODEL, "destination": "library/second"})[0] == 200
    assert "second:latest" in {m["name"] for m in SERVER.json("GET", "/api/tags")["models"]}
    assert SERVER.request("DELETE", "/api/delete", {"name": "second"})[0] == 200
    for name in ("bad name", "a//b", "", "../x"):
        assert SERVER.post("/api/pull", {"model": name}, 400)["error"] == "invalid model name"


def options_may_be_without_a_limit():
    ask = lambda **options: SERVER.post("/api/generate", {"model": MODEL, "prompt": "ls", "stream": False, "options": {**GREEDY, **options}})
    plain = ask()["response"]
    assert ask(top_k=-1, num_ctx=-1, num_keep=-1, repeat_last_n=-1, seed=-1)["response"] == plain
    assert ask(top_k=None, num_ctx=None, stop=None, top_p=None, mirostat=0, num_thread=8, use_mmap=True)["response"] == plain
    assert ask(num_predict=-1)["done_reason"] == ask(num_predict=-2)["done_reason"] == "stop"
    long = SERVER.post("/api/generate", {"model": MODEL, "prompt": "word " * 3000, "stream": False, "raw": True, "options": {
        "num_keep": -1, "num_predict": 1}})
    assert long["prompt_eval_count"] < 512


def keep_alive_is_accepted_in_all_forms():
    def left(keep):
        SERVER.post("/api/generate", {"model": MODEL, "keep_alive": keep})
        running = SERVER.json("GET", "/api/ps")["models"]
        return running and int(running[0]["expires_at"][:4])
    year = time.gmtime().tm_year
    for keep in ("5m", 300, "300", "1h30m", 300.5, "90000ms"):
        assert left(keep) in (year, year + 1), keep
    for keep in (-1, "-1", "-1m", -5.5):
        assert left(keep) > year + 90, keep
    for keep in (0, "0", "0s", "0m"):
        assert left(keep) == [], keep
    for keep in ("soon", "5x", "", True, [1]):
        SERVER.post("/api/generate", {"model": MODEL, "keep_alive": keep}, 400)


def tools_and_their_results_go_both_ways():
    messages = [{"role": "user", "content": "Weather in Rome?"},
                {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [
                    {"function": {"index": 0, "name": "get_weather", "arguments": {"city": "Rome"}}}]},
                {"role": "tool", "tool_name": "get_weather", "content": "sunny"}, {"role": "user", "content": "And tomorrow?"}]
    tools = [{"type": "function", "function": WEATHER}]
    for more in ({}, {"think": False}, {"think": "low"}, {"tools": tools}, {"tools": []}, {"format": "json"}, {"format": ""}):
        assert SERVER.post("/api/chat", {"model": MODEL, "messages": messages, "stream": False, "options": GREEDY, **more})["done"]
    SERVER.post("/api/chat", {"model": MODEL, "messages": messages, "think": "much"}, 400)
    images = [{"role": "user", "content": "x", "images": ["aGk="]}]
    assert "text only" in SERVER.post("/api/chat", {"model": MODEL, "messages": images}, 400)["error"]


def modelfiles_are_read_as_ollama_writes_them():
    text = f'''# Modelfile generated by "ollama show"
# FROM {MODEL}

from library/{MODEL}
SYSTEM "One
Two said "three" here"
TEMPLATE {{{{ .Prompt }}}}
RENDERER qwen3
PARSER qwen3
PARAMETER temperature 0
PARAMETER num_predict 4
PARAMETER stop "<|im_end|>"
PARAMETER stop "a\\nb"
PARAMETER stop plain words
PARAMETER stop """in "three" """
PARAMETER stop "odd"one"
PARAMETER stop 5
PARAMETER top_p "0.5"
LICENSE """First"""
license "Second"
MESSAGE user """Hi
there"""
MESSAGE assistant Hello, "friend".
'''
    assert SERVER.lines("/api/create", {"model": "file", "modelfile": text})[-1] == {"status": "success"}
    shown = SERVER.post("/api/show", {"model": "file"})
    assert shown["system"] == 'One\nTwo said "three" here' and shown["license"] == "First\nSecond", shown
    assert shown["messages"] == [{"role": "user", "content": "Hi\nthere"}, {"role": "assistant", "content": 'Hello, "friend".'}]
    stops = [line.split(None, 1)[1] for line in shown["parameters"].splitlines() if line.startswith("stop")]
    assert [json.loads(stop) for stop in stops] == ["<|im_end|>", "a\nb", "plain words", 'in "three" ', 'odd"one', "5"], stops
    assert "top_p" in shown["parameters"] and '"0.5"' not in shown["parameters"]
    assert SERVER.post("/api/chat", {"model": "file", "messages": [{"role": "user", "content": "ls?"}], "stream": False})["eval_count"] == 4
    for broken, reason in (('SYSTEM """open', "not closed"), ("WHAT x", "unknown instruction"), ("MESSAGE user \"\"\"x", "not closed")):
        assert reason in SERVER.post("/api/create", {"model": "bad", "modelfile": f"FROM {MODEL}\n{broken}\n"}, 400)["error"]
    for wrong in ({"system": 5}, {"license": [5]}, {"parameters": "x"}, {"messages": [5]}, {"messages": [{"role": "user"}]},
                  {"template": {}}, {"messages": {}}, {"files": "x"}, {"files": ["x"]}, {"adapters": "x"}, {"modelfile": 5}):
        assert next(iter(wrong)) in SERVER.post("/api/create", {"model": "bad", "from": MODEL, **wrong}, 400)["error"]
    # Settings that would fail in every request are refused at once. null counts as absent.
    bad = f"FROM {MODEL}\nPARAMETER temperature warm\n"
    assert "temperature" in SERVER.post("/api/create", {"model": "bad", "modelfile": bad}, 400)["error"]
    assert SERVER.request("POST", "/api/show", {"model": "bad"})[0] == 404
    empty = {"model": "file", "modelfile": text, "from": None, "adapter": "", "stream": False}
    assert SERVER.post("/api/create", empty) == {"status": "success"}
    assert SERVER.post("/api/generate", {"model": "file", "prompt": "ls", "stream": False})["eval_count"] == 4
    assert SERVER.request("DELETE", "/api/delete", {"model": "file"})[0] == 200


def a_model_is_quantized_when_it_is_created():
    """Quantising shows progress, stays within the budget and leaves nothing behind. It ends if the client leaves."""
    source = os.path.join(WORK.name, "f32.gguf")
    subprocess.run([HYPURA, "synth", "--preset", "tiny-dense", "--type", "F32", "--no-check", source], check=True, capture_output=True)
    expected = os.path.join(WORK.name, "q8")
    subprocess.run([HYPURA, "quantize", source, expected, "--type", "Q8_0"], check=True, capture_output=True)
    os.makedirs(os.path.join(WORK.name, "quantizing"), exist_ok=True)
    shutil.copy(source, os.path.join(WORK.name, "quantizing", "plain.gguf"))
    server = Server(folder="quantizing")
    lines = server.lines("/api/create", {"model": "small", "from": "plain", "quantize": "q8_0"})
    told = [line for line in lines if "completed" in line]
    assert told[0]["status"] == "quantizing F32 model to Q8_0" and told[-1]["completed"] == told[-1]["total"] > 0, lines
    assert lines[-1] == {"status": "success"}
    weights = os.listdir(os.path.join(server.folder, "weights"))
    with open(os.path.join(server.folder, "weights", weights[0]), "rb") as made, open(expected, "rb") as file:
        assert len(weights) == 1 and made.read() == file.read()
    assert os.listdir(os.path.join(server.folder, "blobs")) == []
    assert server.post("/api/show", {"model": "small"})["details"]["quantization_level"] == "Q8_0"
    create = lambda status, **more: server.post("/api/create", {"model": "other", "from": "plain", "stream": False, **more}, status)
    assert create(200, quantize="Q4_0") == {"status": "success"}
    assert "unsupported quantization type" in create(400, quantize="Q9")["error"]
    assert "useless without an importance matrix" in create(400, quantize="IQ2_XXS")["error"]
    assert "quantised already" in create(400, quantize="Q4_0", **{"from": "small"})["error"]
    assert "quantize" in create(400, quantize=8)["error"]
    # A client leaves. IQ3_S takes long enough for that.
    subprocess.run([HYPURA, "synth", "--preset", "tiny-dense", "--layers", "24", "--type", "F16", "--no-check",
                    os.path.join(server.folder, "large.gguf")], check=True, capture_output=True)
    body = json.dumps({"model": "left", "from": "large", "quantize": "IQ3_S"}).encode()
    partial = lambda: [name for name in os.listdir(os.path.join(server.folder, "blobs")) if name.endswith(".partial")]
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /api/create HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until(partial)
        assert server.json("GET", "/api/version")
    with open(os.path.join(server.folder, "blobs", partial()[0])) as file:
        def is_let_go():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        until(is_let_go, 60)
    names = {m["name"] for m in server.json("GET", "/api/tags")["models"]}
    assert {"small:latest", "other:latest"} < names and "left:latest" not in names, names
    server.stop()


def uploaded_files_become_models():
    """Files may be of any size, and are sent as by "ollama create" and its libraries."""
    server = Server("--body-limit", "1M", "--context", 512, folder="sent")
    blobs = os.path.join(server.folder, "blobs")
    with open(FILE, "rb") as file:
        data = whole = file.read()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    path = "/api/blobs/" + digest
    assert server.request("HEAD", path)[0] == 404
    assert "mismatch" in server.json("POST", path, data[:-1], 400)["error"] and os.listdir(blobs) == []
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        half.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:5000000])
        until(lambda: os.listdir(blobs))
    until(lambda: not os.listdir(blobs))  # nothing of an incomplete file stays
    assert server.request("POST", path, data)[0] == 201 and server.request("HEAD", path)[0] == 200
    assert server.request("POST", path, data)[0] == 200 and os.listdir(blobs) == [digest.replace(":", "-")]
    create = lambda status=200, **more: server.post("/api/create", {"model": "sent", "stream": False, **more}, status)
    assert create(files={"any.gguf": digest}, system="Be brief.", parameters={"num_predict": 4}) == {"status": "success"}
    assert os.listdir(blobs) == [] and sorted(os.listdir(server.folder)) == ["blobs", "sent.json", "weights"]
    answer = server.post("/api/chat", {"model": "sent", "messages": [{"role": "user", "content": "ls?"}], "stream": False})
    assert answer["eval_count"] == 4 and server.post("/api/show", {"model": "sent"})["system"] == "Be brief."
    # An adapter.
    adapter, odd = os.path.join(WORK.name, "odd.gguf"), bytes(4 * 512)
    gguf_file.write(adapter, [gguf_file.string_value("general.architecture", "qwen3moe"), gguf_file.string_value("general.type", "adapter"),
                              gguf_file.string_value("adapter.type", "lora"), gguf_file.value("adapter.lora.alpha", 6, "f", 1.0)],
                    [("blk.0.attn_output.weight.lora_a", (512, 1), 0, odd), ("blk.0.attn_output.weight.lora_b", (1, 256), 0, odd[:1024])])
    with open(adapter, "rb") as file:
        data = file.read()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert server.request("POST", "/api/blobs/" + digest, data)[0] == 201
    assert create(404, **{"from": "none", "model": "adapted", "adapters": {"odd.gguf": digest}})["error"]
    assert "adapter" in create(400, files={"odd.gguf": digest})["error"] and server.request("HEAD", "/api/blobs/" + digest)[0] == 200
    assert server.request("POST", path, whole)[0] == 201
    assert "not an adapter" in create(400, **{"from": "sent", "adapters": {"x": path[len("/api/blobs/"):]}})["error"]
    assert create(model="again", files={"x": path[len("/api/blobs/"):]}) and server.request("DELETE", "/api/delete", {"model": "again"})[0] == 200
    assert create(**{"from": "sent", "model": "adapted", "adapters": {"odd.gguf": digest}}) == {"status": "success"}
    assert server.post("/api/generate", {"model": "adapted", "prompt": "ls", "stream": False})["done"]
    # A file that is not an adapter.
    text = "sha256:" + hashlib.sha256(b"text").hexdigest()
    assert server.request("POST", "/api/blobs/" + text, b"text")[0] == 201
    assert "GGUF" in create(400, files={"x": text})["error"]
    for wrong in (digest, "sha256:" + "0" * 64, "sha256:../../x", "sha256:" + "A" * 64, "", 5):
        assert create(400, files={"x": wrong})["error"]
    for wrong in ("sha256:" + "0" * 63, "..%2F..%2Fx", "md5:" + "0" * 64, "sha256:..%2F" + "0" * 61):
        assert server.request("POST", "/api/blobs/" + wrong, b"text")[0] == server.request("HEAD", "/api/blobs/" + wrong)[0] == 400
    assert create(400, files={"x": text, "y": digest})["error"]
    assert sorted(os.listdir(server.folder)) == ["adapted.json", "adapters", "blobs", "sent.json", "weights"]
    # The adapter stays as long as a model names it.
    adapters = os.path.join(server.folder, "adapters")
    assert server.request("POST", "/api/copy", {"source": "adapted", "destination": "copied"})[0] == 200
    assert server.request("DELETE", "/api/delete", {"model": "adapted"})[0] == 200 and len(os.listdir(adapters)) == 1
    assert create(**{"from": "copied", "model": "copied", "adapter": ""}) and os.listdir(adapters) == []
    # A full drive.
    small = Server("--body-limit", "1M", folder="small", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20)))
    with open(FILE, "rb") as file:
        assert "cannot write" in small.json("POST", path, file.read(), 500)["error"]
    assert os.listdir(os.path.join(small.folder, "blobs")) == [] and small.stop() == 0
    # An unused file is removed after a day.
    unused = os.path.join(blobs, text.replace(":", "-"))
    os.utime(unused, (1, 1))
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    assert server.request("POST", "/api/blobs/" + other, b"other")[0] == 201 and not os.path.exists(unused)
    os.utime(os.path.join(blobs, other.replace(":", "-")), (1, 1))
    assert server.stop() == 0
    assert Server(folder="sent").stop() == 0 and os.listdir(blobs) == []


# ---- OpenAI, Anthropic ----------------------------------------------------------------------------------------------

def open_chat(**more):
    return {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 3, **more}


def numbers_may_be_absent_or_without_a_limit():
    ask = lambda **more: SERVER.post("/v1/chat/completions", open_chat(**more))
    nothing = dict.fromkeys(("max_completion_tokens", "seed", "top_p", "n", "tools", "tool_choice", "stream", "logprobs", "top_logprobs",
                             "stop", "response_format", "frequency_penalty", "logit_bias", "stream_options", "reasoning_effort"))
    assert ask(**nothing)["usage"]["completion_tokens"] == 3
    assert ask(max_tokens=-1)["choices"][0]["finish_reason"] == "stop"
    assert ask(top_k=-1, user="u", store=False, metadata={}, parallel_tool_calls=True, service_tier="auto")["choices"]
    assert ask(max_tokens=9, max_completion_tokens=2)["usage"]["completion_tokens"] == 2
    old = {"model": MODEL, "prompt": "ls - list", "temperature": 0}
    assert SERVER.post("/v1/completions", {**old, "max_tokens": -1})["usage"]["completion_tokens"] > 16
    assert SERVER.post("/v1/responses", {"model": MODEL, "input": QUESTION, "max_output_tokens": -1})["status"] == "completed"
    called = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "function_call": None},
              {"role": "function", "name": "f", "content": "sun"}]
    assert ask(messages=called)["choices"]
    for more in ({"n": 0}, {"max_tokens": "3"}, {"temperature": 3}, {"logit_bias": {"x": 1}}):
        assert SERVER.post("/v1/chat/completions", open_chat(**more), 400)["error"]["message"]


def unenforceable_parts_of_a_tool_are_left_out_unless_strict():
    # A record as written by zod, a reference within the tool's own schema, and a pattern with look-ahead.
    parameters = {"type": "object", "required": ["headers", "unit"], "additionalProperties": False,
                  "properties": {"headers": {"type": "object", "propertyNames": {"type": "string", "maxLength": 4}, "minProperties": 1,
                                             "maxProperties": 2, "additionalProperties": {"type": "integer"}},
                                 "unit": {"$ref": "#/$defs/unit"}, "city": {"type": "string", "pattern": "^(?=x)x$"}},
                  "$defs": {"unit": {"enum": ["C", "F"]}}}

    def ask(tool, status=200):
        body = open_chat(tools=[{"type": "function", "function": tool}], tool_choice="required", max_tokens=200)
        return SERVER.post("/v1/chat/completions", body, status)

    tool = {"name": "call", "parameters": parameters}
    before = len(SERVER.logged())
    call = ask(tool)["choices"][0]["message"].get("tool_calls")
    if call:  # the call is complete
        arguments = json.loads(call[0]["function"]["arguments"])
        assert 1 <= len(arguments["headers"]) <= 2 and all(len(name) <= 4 for name in arguments["headers"]), arguments
        assert arguments["unit"] in ("C", "F"), arguments
    noted = SERVER.logged()[before:]
    assert "look-around" in noted and "is ignored" in noted, noted
    error = ask({**tool, "strict": True}, 400)["error"]["message"]
    assert "look-around" in error, error
    body = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": QUESTION}], "tool_choice": {"type": "any"},
            "tools": [{"name": "call", "input_schema": parameters}]}
    assert SERVER.post("/v1/messages", body)["content"] is not None
    # For an answer's format, nothing is left out.
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": parameters}}
    assert "look-around" in SERVER.post("/v1/chat/completions", open_chat(response_format=form), 400)["error"]["message"]


def tools_of_the_service_are_left_out_or_refused():
    mine, search = {"type": "function", "function": WEATHER}, {"type": "web_search"}
    assert SERVER.post("/v1/chat/completions", open_chat(tools=[search, mine]))["choices"][0]["finish_reason"] == "length"
    assert SERVER.post("/v1/chat/completions", open_chat(tools=[search]))["choices"]
    called = SERVER.post("/v1/chat/completions", open_chat(tools=[search, mine], tool_choice="required", max_tokens=100))
    assert called["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    # A tool that must be called cannot be left out.
    for choice in ({"type": "web_search"}, {"type": "custom", "custom": {"name": "x"}}):
        error = SERVER.post("/v1/chat/completions", open_chat(tools=[search, mine], tool_choice=choice), 400)["error"]["message"]
        assert choice["type"] in error, error
    flat = {"type": "function", **WEATHER}
    body = {"model": MODEL, "input": QUESTION, "max_output_tokens": 100, "tools": [search, flat]}
    for choice in ({"type": "web_search"}, {"type": "file_search"}, {"type": "mcp", "server_label": "x"}):
        assert choice["type"] in SERVER.post("/v1/responses", {**body, "tool_choice": choice}, 400)["error"]["message"]
    made = SERVER.post("/v1/responses", {**body, "tool_choice": {"type": "function", "name": "get_weather"}})
    assert made["output"][0]["name"] == "get_weather"
    anthropic = {"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": "x"}], "tools": [
        {"type": "web_search_20250305", "name": "web_search"}]}
    assert SERVER.post("/v1/messages", anthropic)["content"]
    for choice in ({"type": "tool", "name": "web_search"}, {"type": "any"}):
        assert SERVER.post("/v1/messages", {**anthropic, "tool_choice": choice}, 400)["error"]["message"]


def embeddings_take_tokens_and_give_base64():
    ask = lambda **more: SERVER.post("/v1/embeddings", {"model": MODEL, **more})["data"]
    plain = ask(input=[[1, 2, 3], [4, 5]])
    packed = ask(input=[[1, 2, 3], [4, 5]], encoding_format="base64")
    for one, other in zip(plain, packed):
        numbers = struct.unpack("<256f", base64.b64decode(other["embedding"]))
        assert max(abs(a - b) for a, b in zip(one["embedding"], numbers)) < 1e-7
    assert ask(input=[1, 2, 3])[0]["embedding"] == plain[0]["embedding"]
    short = ask(input=[1, 2, 3], dimensions=4)[0]["embedding"]
    assert len(short) == 4 and abs(sum(x * x for x in short) - 1) < 1e-6
    for wrong in ({"input": []}, {"input": ""}, {"input": [1, "x"]}, {"input": "x", "encoding_format": "hex"}, {"input": "x", "dimensions": 0},
                  {"input": [-1]}, {}):
        assert SERVER.post("/v1/embeddings", {"model": MODEL, **wrong}, 400)["error"]["message"]


def a_prompt_that_is_too_long_gives_the_known_message():
    """Clients recognise these words and shorten their chat."""
    messages = [{"role": "user", "content": "word " * 3000}]
    error = SERVER.post("/v1/messages", {"model": MODEL, "max_tokens": 3, "messages": messages}, 400)["error"]
    assert error["type"] == "invalid_request_error" and error["message"].startswith("prompt is too long: "), error
    error = SERVER.post("/v1/chat/completions", open_chat(messages=messages), 400)["error"]
    assert error["code"] == "context_length_exceeded" and "maximum context length" in error["message"], error


# ---- events during a request ----------------------------------------------------------------------------------------

def counted(name):
    text = SERVER.request("GET", "/metrics")[2].decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"hypura_{name} ")))


def a_slow_template_is_stopped_when_its_client_leaves():
    values, tensors = gguf_file.read(FILE)
    slow = "{% for i in range(3000) %}{% for k in range(3000) %}{% endfor %}{% endfor %}"
    values = [one for one in values if b"tokenizer.chat_template" not in one[:40]]
    path = os.path.join(SERVER.folder, "slow.gguf")
    gguf_file.write(path, values + [gguf_file.string_value("tokenizer.chat_template", slow)], tensors)
    SERVER.post("/api/generate", {"model": "slow"})
    for route, body in (("/api/chat", {**chat(), "model": "slow"}), ("/v1/messages/count_tokens", {
            "model": "slow", "messages": [{"role": "user", "content": "x"}]})):
        before = counted("answers_cancelled_total")
        connection = SERVER.connection()
        connection.request("POST", route, json.dumps(body))
        time.sleep(0.1)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        until(lambda: counted("answers_cancelled_total") == before + 1)
    os.remove(path)


def a_file_replaced_within_a_second_is_noticed():
    path, other = os.path.join(SERVER.folder, "swap.gguf"), os.path.join(WORK.name, "swap.gguf")
    shutil.copy(FILE, path)
    digest = lambda: next(m["digest"] for m in SERVER.json("GET", "/api/tags")["models"] if m["name"] == "swap:latest")
    ask = lambda: SERVER.post("/api/chat", {**chat(stream=False), "model": "swap"})["message"]["content"]
    before = digest()
    assert ask().startswith(ANSWER)
    values, tensors = gguf_file.read(FILE)
    name, dimensions, kind, data = next(one for one in tensors if one[0] == "output_norm.weight")
    tensors = [(name, dimensions, kind, bytes(len(data))) if one[0] == name else one for one in tensors]
    gguf_file.write(other, values, tensors)
    stat = os.stat(path)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns // 1000000000 * 1000000000 + 1))
    assert os.path.getsize(other) == stat.st_size and int(os.stat(other).st_mtime) == int(stat.st_mtime)
    os.rename(other, path)
    assert digest() != before and not ask().startswith(ANSWER)
    os.remove(path)


@contextlib.contextmanager
def another_program():
    """Starts a fake Ollama. Yields its port and the requests that it got."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(f"{self.command} {self.path}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"version": "0.13.0"}')
        do_POST = do_DELETE = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()


def a_model_removed_by_another_program_is_unloaded():
    shutil.copy(FILE, os.path.join(SERVER.folder, "gone.gguf"))
    SERVER.post("/api/generate", {"model": "gone", "keep_alive": -1})
    names = lambda: {m["name"] for m in SERVER.json("GET", "/api/ps")["models"]}
    assert "gone:latest" in names()
    run = lambda *arguments, **more: subprocess.run([HYPURA, *arguments], capture_output=True, timeout=30 * PATIENCE, env={
        **os.environ, "HYPURA_HOST": f"127.0.0.1:{SERVER.port}", "HYPURA_MODELS": os.path.join(WORK.name, "another"), **more})
    assert run("rm", "--models", SERVER.folder, "gone").returncode == 0
    until(lambda: "gone:latest" not in names())
    # A model in a folder that only the server knows.
    shutil.copy(FILE, os.path.join(SERVER.folder, "gone.gguf"))
    SERVER.post("/api/generate", {"model": "gone", "keep_alive": -1})
    assert run("rm", "--models", os.path.join(WORK.name, "another"), "gone").returncode == 1
    assert run("rm", "gone", HYPURA_HOST="127.0.0.1:1").returncode == 1 and "gone:latest" in names()
    with another_program() as (port, asked):
        assert run("rm", "gone", HYPURA_HOST=f"127.0.0.1:{port}").returncode == 1
        assert asked == ["GET /api/version"], asked
    assert run("rm", "gone").stdout == b"deleted 'gone'\n"
    until(lambda: "gone:latest" not in names())
    assert not os.path.exists(os.path.join(SERVER.folder, "gone.gguf"))
    failed = run("rm", "gone")
    assert failed.returncode == 1 and b"not found" in failed.stderr, failed.stderr


if __name__ == "__main__":
    SERVER = Server("--context", 512)
    os.makedirs(SERVER.folder, exist_ok=True)
    failed = run_tests(tests_of(globals(), [talk, until, open_chat, counted, another_program, is_one_answer]))
    failed += SERVER.stop() != 0
    WORK.cleanup()
    sys.exit(1 if failed else 0)
