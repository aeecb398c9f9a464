#!/usr/bin/env python3
"""Several models in memory at once, under one budget: which stay, which make room, and which wait. Prints TAP.

    test_several.py HYPURA SOURCE_FOLDER
"""
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

from harness import (ANSWER, FILE, GREEDY, HYPURA, MODEL, PATIENCE, SOURCE, WORK, Server, assert_resident, chat,
                     smallest_budget)
from tap import run_tests

ENCODER = os.path.join(SOURCE, "tests", "data", "embed", "bert.gguf")
MIB = 1 << 20
STREAMING = smallest_budget() + 11 * MIB  # room for the encoder and for the model, which streams


class Several(Server):
    """Starts a server with a separate log, the encoder as "bert", and a second file of the model as "twin"."""

    def __init__(self, *arguments, environment=None):
        folder = os.path.join(WORK.name, "several")
        os.makedirs(folder, exist_ok=True)
        if not os.path.exists(os.path.join(folder, "twin.gguf")):
            shutil.copy(FILE, os.path.join(folder, "twin.gguf"))
        with open(os.path.join(WORK.name, "log"), "w"):
            pass
        super().__init__("--context", 512, "--parallel", 2, *arguments, environment=environment, folder="several")
        shutil.copy(ENCODER, os.path.join(folder, "bert.gguf"))

    def loads(self, name):
        return self.logged().count(f'"model loaded" model={name}:latest ')

    def running(self):
        return {m["name"].split(":")[0]: m for m in self.json("GET", "/api/ps")["models"]}

    def answer(self, model=MODEL, **more):
        text = self.post("/api/chat", {**chat(stream=False, **more), "model": model})["message"]["content"]
        assert text.startswith(ANSWER), text

    def embed(self, **more):
        vectors = self.post("/api/embed", {"model": "bert", "input": ["a b", "c"], **more})["embeddings"]
        assert len(vectors) == 2 and len(vectors[0]) == 64
        return vectors


def long_answer(server, model, seed=1, count=120):
    """Begins a stream that does not end by itself."""
    connection = server.connection()
    connection.request("POST", "/api/chat", json.dumps({**chat(
        format={"type": "string", "minLength": 20000}, options={"num_predict": count, "seed": seed, "temperature": 1}), "model": model}))
    response = connection.getresponse()
    assert json.loads(response.readline())["done"] is False
    return connection, response


def until_waiting(server, count):
    end = time.monotonic() + 10 * PATIENCE
    while f"\nhypura_requests_waiting {count}\n" not in server.request("GET", "/metrics")[2].decode():
        assert time.monotonic() < end, count


def in_background(what):
    results = []
    thread = threading.Thread(target=lambda: results.append(what()))
    thread.start()
    return thread, results


def pool(server):
    text = server.request("GET", "/metrics")[2].decode()
    return int(float(re.search(r'^hypura_pool_bytes{model="%s:latest"} (.*)$' % MODEL, text, re.M).group(1)))


def a_chat_and_an_encoder_take_turns():
    """Each model is loaded once. The pool of the streaming one makes room, and grows again afterwards."""
    server = Several("--memory", STREAMING)
    server.answer()
    before = pool(server)
    assert before > 0
    vectors = server.embed()
    after = pool(server)
    assert after < before, (before, after)
    for _ in range(5):
        server.answer()
        assert server.embed() == vectors
    assert server.loads(MODEL) == server.loads("bert") == 1, server.logged()
    running = server.running()
    assert set(running) == {MODEL, "bert"}
    assert 0 < running["bert"]["size"] < running[MODEL]["size"]
    assert_resident(server, STREAMING)
    assert server.post("/api/generate", {"model": "bert", "keep_alive": 0})["done_reason"] == "unload"
    assert set(server.running()) == {MODEL} and pool(server) > after
    server.answer()
    assert server.loads(MODEL) == 1
    assert server.stop() == 0


def large_models_take_turns():
    """A model that does not fit next to another replaces it."""
    server = Several("--memory", STREAMING)
    for name in (MODEL, "twin", MODEL):
        server.answer(name)
        assert set(server.running()) == {name}, server.running()
    assert server.loads(MODEL) == 2 and server.loads("twin") == 1
    assert server.stop() == 0
    # With room for all models, they stay.
    server = Several("--memory", "200M")
    for name in (MODEL, "twin", "bert") * 2:
        server.embed() if name == "bert" else server.answer(name)
    assert set(server.running()) == {MODEL, "twin", "bert"}
    assert server.loads(MODEL) == server.loads("twin") == server.loads("bert") == 1
    assert server.stop() == 0


def the_most_recently_used_model_stays():
    server = Several("--memory", "200M", "--max-loaded", 2)
    server.answer()
    server.answer("twin")
    server.answer()
    server.embed()
    assert set(server.running()) == {MODEL, "bert"}
    server.answer("twin")
    assert set(server.running()) == {"bert", "twin"}
    assert server.stop() == 0


def a_model_in_use_is_not_unloaded():
    """A request for a model without room waits until the running answer is complete."""
    server = Several("--memory", STREAMING)
    connection, response = long_answer(server, MODEL)
    thread, results = in_background(lambda: server.request("POST", "/api/chat", {**chat(stream=False), "model": "twin"}))
    lines = [json.loads(line) for line in response.read().splitlines()]
    assert lines[-1]["done"] is True and lines[-1]["eval_count"] == 120, lines[-1]
    thread.join(60)
    assert results[0][0] == 200 and json.loads(results[0][2])["message"]["content"].startswith(ANSWER)
    log = server.logged()
    assert log.index(f'"model unloaded" model={MODEL}') < log.index('"model loaded" model=twin')
    assert set(server.running()) == {"twin"}
    # If the client leaves while waiting, the model is not loaded.
    connection, response = long_answer(server, "twin", count=440)
    waiting = server.connection()
    waiting.request("POST", "/api/chat", json.dumps(chat(stream=False)))
    until_waiting(server, 1)
    waiting.close()
    until_waiting(server, 0)
    assert server.loads(MODEL) == 1
    response.read()
    server.answer("twin")
    assert server.loads(MODEL) == 1 and server.loads("twin") == 1
    assert server.stop() == 0


def answers_of_different_models_run_together():
    server = Several("--memory", "300M", "--context", 2048)
    server.answer()
    first, a = long_answer(server, MODEL, count=400)
    second, b = long_answer(server, "twin", count=400)
    # Texts are embedded while both models are writing answers.
    assert int(re.search(r"^hypura_answers_running (\d+)", server.request("GET", "/metrics")[2].decode(), re.M).group(1)) == 2
    server.embed()
    assert server.post("/api/embed", {"model": "bert", "input": ["a b c"] * 20})["prompt_eval_count"] > 60
    texts = []
    for response in (a, b):
        lines = [json.loads(line) for line in response.read().splitlines()]
        assert lines[-1]["eval_count"] == 400, lines[-1]
        texts.append("".join(line["message"]["content"] for line in lines))
    assert texts[0] == texts[1]  # the same weights, seed and prompt
    # More requests for one model than it takes at once do not hold up another model.
    streams = [long_answer(server, MODEL, seed, 400) for seed in (1, 2)]
    thread, results = in_background(lambda: server.request("POST", "/api/chat", chat(stream=False)))
    server.answer("twin")
    server.embed()
    assert not results
    for connection, response in streams:
        response.read()
    thread.join(60)
    assert results[0][0] == 200
    assert server.stop() == 0


def each_model_has_its_own_keep_alive():
    server = Several("--memory", "200M")
    server.answer(keep_alive=-1)
    server.embed(keep_alive=0.3)
    running = server.running()
    assert running["bert"]["expires_at"] < running[MODEL]["expires_at"]
    time.sleep(0.7)
    assert set(server.running()) == {MODEL}
    server.embed(keep_alive="10m")
    server.answer(keep_alive="1ms")
    time.sleep(0.2)
    assert set(server.running()) == {"bert"}
    environment = {**os.environ, "HYPURA_HOST": f"127.0.0.1:{server.port}"}
    run = lambda *arguments: subprocess.run([HYPURA, *arguments], capture_output=True, env=environment, timeout=30 * PATIENCE)
    server.answer()
    listed = run("ps").stdout.decode()
    assert "bert:latest" in listed and MODEL + ":latest" in listed
    assert run("stop", "bert").returncode == 0
    assert set(server.running()) == {MODEL}
    server.post("/api/generate", {"model": "bert", "keep_alive": 0})  # does not load a model that is not loaded
    assert set(server.running()) == {MODEL}
    assert server.stop() == 0


def names_of_one_file_share_a_model():
    server = Several("--memory", "200M")
    server.lines("/api/create", {"model": "brief", "from": "twin", "system": "Be brief.", "parameters": {"num_predict": 3}})
    server.answer("twin")
    path = os.path.join(server.folder, "twin.gguf")
    with open(os.path.join(server.folder, "brief.json"), "r+") as file:
        manifest = {**json.load(file), "file": path}
        del manifest["weights"]
        file.seek(0)
        json.dump(manifest, file)
        file.truncate()
    assert server.post("/api/chat", {**chat(stream=False, options={}), "model": "brief"})["eval_count"] == 3
    assert set(server.running()) == {"twin"}
    assert server.request("DELETE", "/api/delete", {"model": "brief"})[0] == 200 and os.path.exists(path)
    # A name that now stands for another file is listed once.
    server.lines("/api/create", {"model": "brief", "from": MODEL})
    server.answer("brief")
    server.post("/api/generate", {"model": "twin", "keep_alive": 0})
    with open(os.path.join(server.folder, "brief.json"), "w") as file:
        json.dump({"file": path}, file)
    server.answer("brief")
    assert [m["name"] for m in server.json("GET", "/api/ps")["models"]] == ["brief:latest"]
    # A request for a larger context reloads its model, and no other.
    server.embed()
    server.answer("twin", options={**GREEDY, "num_ctx": 1024})
    assert server.running()["twin"]["context_length"] == 1024 and server.loads("twin") == 2 and server.loads("bert") == 1
    assert server.stop() == 0


def models_that_cannot_be_loaded_replace_no_other():
    server = Several("--memory", "200M")
    server.answer()
    server.answer("twin")
    for name in ("twin", MODEL):
        status, _, text = server.request("POST", "/api/chat", {**chat(options={"num_ctx": 1 << 30}), "model": name})
        assert status == 400 and "at most" in json.loads(text)["error"], (status, text)
    assert set(server.running()) == {MODEL, "twin"}
    server.answer()
    server.answer("twin")
    assert server.loads(MODEL) == server.loads("twin") == 1
    assert server.stop() == 0
    # A model whose context alone exceeds the budget, and a file that is not a model.
    server = Several("--memory", STREAMING)
    server.answer()
    server.embed()
    subprocess.run([HYPURA, "synth", "--arch", "llama", "--experts", "0", "--layers", "16", "--embedding", "256", "--heads", "16",
                    "--kv-heads", "16", "--head-size", "128", "--feed-forward", "256", os.path.join(server.folder, "large.gguf")],
                   check=True, capture_output=True)
    with open(os.path.join(server.folder, "torn.gguf"), "wb") as file:
        file.write(b"GGUF")
    for name, fitting, reason in (("large", 503, "smallest that works"), ("torn", 500, "torn.gguf")):
        status, _, text = server.request("POST", "/api/chat", {**chat(), "model": name})
        assert status == fitting and reason in json.loads(text)["error"], (status, text)
        os.remove(os.path.join(server.folder, name + ".gguf"))
    assert set(server.running()) == {MODEL, "bert"}
    server.answer()
    server.embed()
    assert server.loads(MODEL) == server.loads("bert") == 1
    assert server.stop() == 0


def until(what):
    end = time.monotonic() + 10 * PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def deleted_models_are_unloaded():
    """Deleted models are unloaded at once, or when their running answers are complete."""
    server = Several("--memory", "200M")
    delete = lambda name: server.request("DELETE", "/api/delete", {"model": name})[0]
    for name in ("one", "two"):
        shutil.copy(FILE, os.path.join(server.folder, name + ".gguf"))
    server.answer("one")
    connection, response = long_answer(server, "two", count=400)
    assert delete("one") == delete("two") == 200
    until(lambda: set(server.running()) == {"two"})
    assert server.request("POST", "/api/chat", {**chat(), "model": "two"})[0] == 404
    lines = [json.loads(line) for line in response.read().splitlines()]
    assert lines[-1]["eval_count"] == 400, lines[-1]
    until(lambda: not server.running())
    # This applies to a name that now stands for another file, but not to changed settings for the same file.
    server.lines("/api/create", {"model": "one", "from": "twin"})
    server.answer("one")
    server.lines("/api/create", {"model": "one", "from": "twin", "system": "Be brief."})
    time.sleep(0.2)
    assert set(server.running()) == {"one"}
    server.lines("/api/create", {"model": "one", "from": MODEL})
    until(lambda: not server.running())
    assert delete("one") == 200 and server.stop() == 0


def the_budget_of_all_changes():
    server = Several("--memory", STREAMING)
    server.answer()
    server.embed()
    small = pool(server)
    assert server.post("/api/hypura/memory", {"memory": STREAMING + 2 * MIB}) == {"budget_bytes": STREAMING + 2 * MIB, "reloaded": False}
    large = pool(server)
    assert large > small + MIB
    assert server.post("/api/hypura/memory", {"memory": STREAMING})["reloaded"] is False
    assert abs(pool(server) - small) < MIB
    server.answer()
    server.embed()
    assert server.loads(MODEL) == server.loads("bert") == 1
    # With less memory than all models need, the most recently used one stays.
    server.answer()
    refusal = server.post("/api/hypura/memory", {"memory": 1000}, 400)["error"]
    least = int(re.search(r"the smallest that works is (\d+) bytes", refusal).group(1))
    least += MIB * 3 // 2  # the C library keeps part of the freed memory
    changed = server.post("/api/hypura/memory", {"memory": least})
    assert changed == {"budget_bytes": least, "reloaded": True} and set(server.running()) == {MODEL}
    server.answer()
    assert_resident(server, least)
    assert server.stop() == 0


def each_model_has_its_own_events():
    server = Several("--memory", "200M")
    server.answer()
    server.embed()

    def first(path):
        connection = server.connection()
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200, response.status
        seen, name = {}, None
        while len(seen) < 2:
            line = response.readline().decode().strip()
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                seen[name] = json.loads(line[6:])
        return connection, response, seen

    _, _, last = first("/api/hypura/events")
    assert last["model"]["model"] == "bert:latest" and last["model"]["loaded"] == ["bert:latest", MODEL + ":latest"]
    _, _, chosen = first(f"/api/hypura/events?model={MODEL}")
    assert chosen["model"]["model"] == MODEL + ":latest" and len(chosen["state"]["layers"]) == 8
    assert chosen["state"]["budget_bytes"] == 200 * MIB > chosen["state"]["model_budget_bytes"] > 0
    connection, response, none = first("/api/hypura/events?model=twin")
    assert none["model"]["model"] is None and len(none["model"]["loaded"]) == 2 and none["state"]["layers"] == []
    # The event reports the model once it is loaded.
    server.answer("twin")
    while True:
        line = response.readline().decode()
        if line.startswith("data: ") and '"architecture"' in line:
            break
    assert json.loads(line[6:])["model"] == "twin:latest"
    assert server.request("GET", "/api/hypura/events?model=../x")[0] == 400
    assert server.stop() == 0


TESTS = [a_chat_and_an_encoder_take_turns, large_models_take_turns, the_most_recently_used_model_stays, a_model_in_use_is_not_unloaded,
         answers_of_different_models_run_together, each_model_has_its_own_keep_alive, names_of_one_file_share_a_model,
         models_that_cannot_be_loaded_replace_no_other, deleted_models_are_unloaded, the_budget_of_all_changes,
         each_model_has_its_own_events]

if __name__ == "__main__":
    failed = run_tests(TESTS)
    WORK.cleanup()
    sys.exit(1 if failed else 0)
