#!/usr/bin/env python3
"""Faults around the server: full disks, kills, files that vanish, and clients that hang, push or flood. Prints TAP.

    test_faults.py HYPURA SOURCE_FOLDER [long]
"""
import glob
import hashlib
import http.server
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import gguf_file
from harness import ANSWER, FILE, HYPURA, MODEL, PATIENCE, QUESTION, SOURCE, WORK, Server, chat
from tap import run_tests

MIB = 1 << 20


def settles(what, seconds=10):
    """Waits for a condition. Returns whether it became true in time."""
    end = time.time() + seconds * PATIENCE
    while time.time() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


class Source(http.server.BaseHTTPRequestHandler):
    """Serves the model's file, with ranges. Waits for the gate after half of it."""
    protocol_version = "HTTP/1.1"
    gate = threading.Event()
    reached = threading.Event()
    parts = {}
    served = 0

    def do_GET(self):
        with open(Source.parts.get(self.path, FILE), "rb") as file:
            data = file.read()
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        half = len(data) // 2
        if self.path in Source.parts:
            try:
                for at in range(start, len(data), 65536):
                    self.wfile.write(data[at:at + 65536])
                    Source.served += len(data[at:at + 65536])
            except OSError:
                self.close_connection = True
            return
        try:
            if start < half:
                self.wfile.write(data[start:half])
                Source.reached.set()
                Source.gate.wait(20)
            self.wfile.write(data[max(start, half):])
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments):
        pass


class Files:
    """A file server for the duration of a test."""

    def __enter__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Source)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *arguments: None
        Source.gate.clear()
        Source.reached.clear()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/m.gguf"

    def __exit__(self, *arguments):
        Source.gate.set()
        self.server.shutdown()
        self.server.server_close()


def pull(server, url):
    status, _, text = server.request("POST", "/api/pull", {"model": url})
    assert status == 200, (status, text)
    return [json.loads(line) for line in text.splitlines()]


def same_file(path):
    with open(path, "rb") as a, open(FILE, "rb") as b:
        return hashlib.sha256(a.read()).digest() == hashlib.sha256(b.read()).digest()


# ---- disks ----------------------------------------------------------------------------------------------------------

def a_failed_write_ends_a_download_which_can_be_continued():
    with Files() as url:
        Source.gate.set()
        limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6 * MIB, 6 * MIB))
        server = Server("--context", 512, folder="limited", before=limited)
        last = pull(server, url)[-1]
        assert "cannot write" in last["error"] and "too large" in last["error"], last
        assert server.request("GET", "/")[0] == 200
        assert all(m["name"] != "m:latest" for m in server.json("GET", "/api/tags")["models"])
        assert server.stop() == 0
        server = Server("--context", 512, folder="limited")
        assert pull(server, url)[-1] == {"status": "success"}
        assert same_file(os.path.join(server.folder, "m.gguf")) and os.listdir(server.folder) == ["m.gguf"]
        assert server.stop() == 0


def a_full_disk_ends_a_download_which_can_be_continued():
    folder = os.path.join(WORK.name, "small-disk")
    os.makedirs(folder)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder], capture_output=True)
    if made.returncode:
        return "mounting is not allowed here"
    try:
        with Files() as url:
            server = Server("--context", 512, folder="small-disk")
            lines = []
            thread = threading.Thread(target=lambda: lines.extend(pull(server, url)))
            thread.start()
            assert Source.reached.wait(20)
            filler = os.path.join(folder, "filler")
            with open(filler, "wb") as file:
                file.write(b"x" * (11 * MIB))
            Source.gate.set()
            thread.join(20)
            assert "No space left" in lines[-1]["error"], lines[-1]
            # With the size known, the error comes before the download.
            assert "are free" in pull(server, url)[-1]["error"]
            os.remove(filler)
            assert pull(server, url)[-1] == {"status": "success"}
            assert same_file(os.path.join(folder, "m.gguf"))
            # Without room for a manifest, nothing incomplete is left, and the old manifest stays.
            server.lines("/api/create", {"model": "small", "from": "m", "system": "One."})
            with open(filler, "wb", buffering=0) as file:
                try:
                    while file.write(b"x" * 4096):
                        pass
                except OSError:
                    pass
            status, _, text = server.request("POST", "/api/create", {"model": "small", "from": "m", "system": "Two. " * 9999})
            assert status == 500 and "cannot write" in json.loads(text)["error"], (status, text)
            assert server.post("/api/show", {"model": "small"})["system"] == "One."
            assert not glob.glob(folder + "/*.partial"), os.listdir(folder)
            assert server.stop() == 0
    finally:
        subprocess.run(["umount", "-l", folder])


def a_download_is_not_disturbed_by_another_of_the_same_model():
    with Files() as url:
        server = Server("--context", 512, folder="twice")
        lines = []
        thread = threading.Thread(target=lambda: lines.extend(pull(server, url)))
        thread.start()
        assert Source.reached.wait(20)
        assert "being downloaded already" in pull(server, url)[-1]["error"]
        Source.gate.set()
        thread.join(20)
        assert lines[-1] == {"status": "success"}, lines[-1]
        assert same_file(os.path.join(server.folder, "m.gguf")) and os.listdir(server.folder) == ["m.gguf"]
        assert server.stop() == 0


def a_split_model_is_checked_before_it_is_fetched():
    """The server checks for room, and whether the model would run, after fetching only the headers of its parts."""
    folder, parts = os.path.join(WORK.name, "split-disk"), os.path.join(WORK.name, "split-parts")
    os.makedirs(folder)
    os.makedirs(parts)
    Source.parts = {"/" + os.path.basename(path): path for path in gguf_file.split(FILE, parts, "big", 2)}
    for path in Source.parts.values():
        os.truncate(path, os.path.getsize(path) + 20 * MIB)  # makes the headers a small share of the parts
    whole = sum(os.path.getsize(path) for path in Source.parts.values())
    first = sorted(Source.parts)[0]
    with Files() as url:
        url = url.replace("/m.gguf", first)
        server = Server("--memory", "1M", folder="split-refused")
        Source.served = 0
        last = pull(server, url)[-1]
        assert "cannot run here" in last["error"] and "smallest that works" in last["error"], last
        assert Source.served < whole // 2 and os.listdir(server.folder) == [], (Source.served, whole, os.listdir(server.folder))
        assert server.stop() == 0
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True).returncode:
            print("# mounting is not allowed here")
        else:
            try:
                server = Server("--context", 512, folder="split-disk")
                Source.served = 0
                lines = pull(server, url)
                assert "are free" in lines[-1]["error"] and Source.served < whole // 2, (lines[-1], Source.served, whole)
                subprocess.run(["mount", "-o", "remount,size=120m", folder], check=True)
                lines = pull(server, url)
                assert lines[-1] == {"status": "success"} and any(line["status"].startswith("checked: ") for line in lines), lines
                assert sorted(os.listdir(folder)) == ["big.json", "weights"] and len(os.listdir(folder + "/weights")) == 2
                assert server.post("/api/chat", chat(model="big", stream=False))["message"]["content"].startswith(ANSWER)
                assert server.stop() == 0
            finally:
                subprocess.run(["umount", "-l", folder])
    Source.parts = {}


# ---- kills ----------------------------------------------------------------------------------------------------------

def a_kill_leaves_nothing_incomplete():
    with Files() as url:
        server = Server("--context", 512, folder="killed")
        thread = threading.Thread(target=lambda: server.request("POST", "/api/pull", {"model": url}))
        thread.daemon = True
        hook, threading.excepthook = threading.excepthook, lambda arguments: None  # its connection breaks
        thread.start()
        assert Source.reached.wait(20)
        server.process.kill()
        server.process.wait()
        thread.join(20)
        threading.excepthook = hook
        Source.gate.set()
        # The port is free at once, the list has no incomplete model, and the download continues.
        again = Server("--context", 512, "--port", server.port, folder="killed")
        assert all(m["name"] != "m:latest" for m in again.json("GET", "/api/tags")["models"])
        again.json("POST", "/api/show", {"model": "m"}, 404)
        lines = pull(again, url)
        assert lines[-1] == {"status": "success"} and same_file(os.path.join(again.folder, "m.gguf"))
        assert again.post("/api/chat", chat(model="m", stream=False))["message"]["content"].startswith(ANSWER)
        for i in range(8):
            again.process.kill() if i == 7 else again.lines("/api/create", {"model": f"made{i}", "from": "m", "system": "x" * 50000})
        again.process.wait()
        server = Server("--context", 512, folder="killed")
        names = {m["name"] for m in server.json("GET", "/api/tags")["models"]}
        assert {f"made{i}:latest" for i in range(7)} <= names, names
        for path in glob.glob(server.folder + "/*.json"):
            with open(path) as file:
                assert len(json.load(file)["system"]) == 50000
        assert server.stop() == 0


BERT = os.path.join(SOURCE, "tests", "data", "embed", "bert.gguf")
FAMILIES = {MODEL: "qwen3moe", "bert": "bert"}


def create_as(server, name, source):
    """Creates a model whose system message identifies its weights."""
    return server.request("POST", "/api/create", {"model": name, "from": source, "system": FAMILIES[source] * 5000, "stream": False})[0]


def is_whole(server, name):
    shown = server.post("/api/show", {"model": name})
    return shown["system"] == shown["details"]["family"] * 5000


def two_servers_with_one_folder_do_not_mix_models():
    servers = [Server(BERT, "--context", 512, folder="both") for _ in range(2)]
    assert create_as(servers[0], "m", MODEL) == 200
    stop, problems = threading.Event(), []

    def run(server, source):
        while not stop.is_set():
            if (status := create_as(server, "m", source)) != 200:
                problems.append(status)
    threads = [threading.Thread(target=run, args=pair) for pair in zip(servers, FAMILIES)]
    for thread in threads:
        thread.start()
    end = time.time() + 2
    looks = 0
    while (time.time() < end or looks <= 5) and not problems:
        assert all(is_whole(server, "m") for server in servers)
        looks += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems, problems
    assert len(os.listdir(servers[0].folder + "/weights")) == 1
    assert [server.stop() for server in servers] == [0, 0]


def a_kill_in_the_middle_of_many_writes():
    """Whenever the server is killed, each listed model is complete."""
    folder = "killed-often"
    for round in range(6):
        server = Server(BERT, "--context", 512, folder=folder)
        stop = threading.Event()

        def create(number):
            try:
                for i in range(10000):
                    if stop.is_set():
                        return
                    create_as(server, f"m{number}-{i % 5}", list(FAMILIES)[i % 2])
            except Exception:
                pass
        threads = [threading.Thread(target=create, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.1 + 0.07 * round)
        server.process.kill()
        server.process.wait()
        stop.set()
        for thread in threads:
            thread.join()
        for path in glob.glob(server.folder + "/*.json"):
            with open(path) as file:
                json.load(file)
    server = Server("--context", 512, folder=folder)
    listed = [model["name"] for model in server.json("GET", "/api/tags")["models"] if model["name"] != MODEL + ":latest"]
    assert listed and all(is_whole(server, name) for name in listed)
    assert server.stop() == 0


# ---- files that vanish while they are read -----------------------------------------------------------------------------

def stream_of(server, model, count):
    connection = server.connection()
    connection.request("POST", "/api/chat", json.dumps(chat(model=model, format={"type": "string", "minLength": 4000},
                                                            options={"num_predict": count, "seed": 1, "temperature": 1})))
    return connection, connection.getresponse()


def files_that_vanish_or_change_in_mid_stream():
    folder = os.path.join(WORK.name, "going")
    os.makedirs(folder)
    server = Server("--context", 512, "--memory", "16M", "--parallel", 1, folder="going")
    shutil.copy(FILE, os.path.join(folder, "going.gguf"))
    connection, response = stream_of(server, "going", 200)
    assert json.loads(response.readline())["done"] is False
    os.remove(os.path.join(folder, "going.gguf"))
    lines = [json.loads(line) for line in response.read().splitlines()]
    assert lines[-1]["done"] is True and lines[-1]["eval_count"] == 200, lines[-1]
    server.json("POST", "/api/chat", chat(model="going"), 404)
    # A truncated file cannot be read further: the stream reports an error, and the server continues.
    path = os.path.join(folder, "cut.gguf")
    shutil.copy(FILE, path)
    connection, response = stream_of(server, "cut", 400)
    assert json.loads(response.readline())["done"] is False
    os.truncate(path, 3 * MIB)
    lines = [json.loads(line) for line in response.read().splitlines()]
    assert "cut.gguf" in lines[-1].get("error", ""), lines[-1]
    os.remove(path)
    # The other APIs report it in their own formats.
    for api, body, last in (("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 400}, None),
                            ("/v1/responses", {"input": QUESTION, "max_output_tokens": 400}, "response.failed"),
                            ("/v1/messages", {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 400}, "error")):
        shutil.copy(FILE, path)
        os.utime(path, (len(api), len(api)))
        connection = server.connection()
        # Exclude the tokens that end an answer.
        connection.request("POST", api, json.dumps({**body, "model": "cut", "stream": True, "temperature": 1, "seed": 1,
                                                    "logit_bias": {str(6140 + i): -100 for i in range(4)}}))
        response = connection.getresponse()
        assert response.status == 200 and response.readline()
        os.truncate(path, 3 * MIB)
        blocks = response.read().decode().strip().split("\n\n")
        event, data = blocks[-1].splitlines() if last else (None, blocks[-1])
        assert event == (last and "event: " + last), blocks[-1]
        told = json.loads(data[6:])
        error = told["response"]["error"] if last == "response.failed" else told["error"]
        assert "cut.gguf" in error["message"], told
        os.remove(path)
    # An overwritten file would give a mixture of two models. The next request opens the new file.
    shutil.copy(FILE, path)
    connection, response = stream_of(server, "cut", 400)
    assert json.loads(response.readline())["done"] is False
    with open(FILE, "rb") as source, open(path, "r+b") as file:
        file.write(source.read())
    lines = [json.loads(line) for line in response.read().splitlines()]
    assert "was written to" in lines[-1].get("error", ""), lines[-1]
    assert server.post("/api/chat", chat(model="cut", stream=False))["message"]["content"].startswith(ANSWER)
    os.remove(path)
    assert server.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)
    assert server.stop() == 0


# ---- clients ---------------------------------------------------------------------------------------------------------

def bodies_that_trickle_are_ended():
    server = Server("--request-time", 1)
    before = server.open_files()
    sockets = []
    for _ in range(50):
        s = socket.create_connection(("127.0.0.1", server.port), timeout=10 * PATIENCE)
        s.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        sockets.append(s)
    ended = 0
    start = time.time()
    while ended < len(sockets) and time.time() - start < 10 * PATIENCE:
        time.sleep(0.1)
        ended = 0
        for s in sockets:
            try:
                s.sendall(b" ")
            except OSError:
                ended += 1
    assert ended == len(sockets), ended
    for s in sockets:
        s.close()
    assert server.request("GET", "/")[0] == 200
    assert settles(lambda: server.open_files() <= before), (before, server.open_files())
    assert server.stop() == 0


def clients_that_close_their_half():
    server = Server("--context", 512)
    server.post("/api/generate", {"model": MODEL})
    before = server.open_files()
    body = json.dumps(chat()).encode()
    for text, whole in ((b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"Ollama is running"),
                        (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body, None),
                        (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n" + body, None),
                        (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", None)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10 * PATIENCE) as s:
            s.sendall(text)
            s.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while piece := s.recv(65536):  # the server ends the connection, with or without an answer
                    answer += piece
            except ConnectionError:
                pass
            assert not whole or whole in answer, (text, answer)
    assert settles(lambda: server.open_files() <= before), (before, server.open_files())
    assert server.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)
    assert server.stop() == 0


def bodies_of_100_megabytes():
    server = Server()
    server.request("GET", "/")
    before = server.resident()
    for length in (True, False):
        s = socket.create_connection(("127.0.0.1", server.port), timeout=60 * PATIENCE)
        s.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n" +
                  (b"Content-Length: 104857600\r\n\r\n" if length else b"Transfer-Encoding: chunked\r\n\r\n"))
        for _ in range(100):
            s.sendall(b"x" * MIB if length else b"100000\r\n" + b"x" * MIB + b"\r\n")
        if not length:
            s.sendall(b"0\r\n\r\n")
        assert s.recv(65536).startswith(b"HTTP/1.1 413"), length
        s.close()
        # With a declared length, none of the body is kept. Without, the part up to the limit is kept until the answer.
        assert settles(lambda: server.resident() < before + 6 * MIB), (before, server.resident())
    assert server.stop() == 0


def ten_thousand_connections():
    wanted, hard = 10000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, (hard - 1000) // 3)  # each connection needs three of the server's files
    if wanted < 1000:
        return f"only {hard} files may be open here"
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 1000, hard))
    server = Server("--connections", wanted + 100, "--context", 512)
    server.post("/api/generate", {"model": MODEL})
    before, files = server.resident(), server.open_files()
    sockets = []
    for _ in range(wanted):
        s = socket.create_connection(("127.0.0.1", server.port), timeout=30 * PATIENCE)
        s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sockets.append(s)
    for s in sockets:
        assert b"Ollama is running" in s.recv(4096)
    print(f"# {wanted} connections take {(server.resident() - before) / wanted / 1024:.1f} KiB each")
    assert server.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)
    for s in sockets:
        s.close()
    assert settles(lambda: server.open_files() <= files + 1, 30), (files, server.open_files())
    assert server.request("GET", "/")[0] == 200
    assert server.stop() == 0
    # With more connections than allowed, accepted ones are served, and the others once these have ended.
    server = Server("--connections", 200)
    sockets = []
    for _ in range(600):
        s = socket.create_connection(("127.0.0.1", server.port), timeout=30 * PATIENCE)
        s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        sockets.append(s)
    assert all(b"Ollama is running" in s.recv(4096) for s in sockets)
    for s in sockets:
        s.close()
    assert server.request("GET", "/")[0] == 200
    assert server.stop() == 0


def answers_that_nobody_reads():
    """Unread answers take no more memory than their length, and end when their clients leave."""
    server = Server("--context", 2048, "--parallel", 4)
    server.post("/api/generate", {"model": MODEL})
    before = server.open_files()
    streams = [stream_of(server, MODEL, 1500) for _ in range(8)]
    time.sleep(1)
    assert server.request("GET", "/api/ps")[0] == 200
    for connection, response in streams:
        response.close()
        connection.close()
    assert settles(lambda: server.open_files() <= before, 20), (before, server.open_files())
    assert server.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)
    assert server.stop() == 0


LONG_PROMPT = {"model": "wide", "raw": True, "prompt": "A long prompt of many words. " * 600}


def make_wide():
    """Makes a model whose pass over a chunk of a prompt takes seconds."""
    wide = os.path.join(WORK.name, "models", "wide.gguf")
    os.makedirs(os.path.dirname(wide), exist_ok=True)
    subprocess.run([HYPURA, "synth", "--preset", "llama-8b", "--layers", "2", "--vocabulary", "2000", "--type", "Q4_K", wide],
                   check=True, capture_output=True)
    return wide


def cancelled(server):
    text = server.request("GET", "/metrics")[2].decode()
    return next(int(float(line.split()[1])) for line in text.splitlines() if line.startswith("hypura_answers_cancelled_total "))


def leave(server, body, after=0.7):
    connection = server.connection()
    connection.request("POST", "/api/generate", json.dumps(body))
    time.sleep(after)
    connection.close()


def a_client_that_leaves_ends_the_pass_of_its_prompt():
    wide = make_wide()
    server = Server("--context", 8192, "--threads", 1, "--parallel", 2)
    server.post("/api/generate", {"model": "wide"})

    def seconds(number):
        leave(server, LONG_PROMPT)
        before = server.computed()
        assert settles(lambda: cancelled(server) == number, 60)
        return server.computed() - before

    taken = [seconds(number) for number in (1, 2, 3)]
    print(f"# the server computed for another {min(taken):.2f} s")
    assert min(taken) < 0.08 * PATIENCE, taken
    # Another client in the same pass loses nothing.
    short = {"model": "wide", "raw": True, "prompt": "One.", "stream": False, "options": {"temperature": 0, "num_predict": 6}}
    expected = server.post("/api/generate", short)["response"]
    answers = []
    asked = threading.Thread(target=lambda: answers.append(server.post("/api/generate", short)["response"]))
    leaving = threading.Thread(target=leave, args=(server, LONG_PROMPT))
    asked.start()
    leaving.start()
    asked.join()
    leaving.join()
    assert answers == [expected] and expected, (answers, expected)
    assert settles(lambda: cancelled(server) == 4, 60)
    assert server.post("/api/generate", short)["response"] == expected
    assert server.stop() == 0
    os.remove(wide)


def of_ended_processes():
    """Returns the CPU time of all processes that were waited for, in seconds."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def stopping_does_not_wait_for_a_long_pass():
    """A pass of a streaming model may take minutes."""
    wide = make_wide()

    def seconds():
        server = Server("--context", 8192, "--threads", 1)
        server.post("/api/generate", {"model": "wide"})
        asked = threading.Thread(target=server.request, args=("POST", "/api/generate", LONG_PROMPT))
        asked.start()
        time.sleep(0.7)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        before, ended = server.computed(), of_ended_processes()
        assert server.stop() == 0
        asked.join()
        return of_ended_processes() - ended - before

    taken = [seconds() for _ in range(3)]
    os.remove(wide)
    print(f"# the server computed for another {min(taken):.2f} s")
    assert min(taken) < 0.08 * PATIENCE, taken


QUICK = [a_failed_write_ends_a_download_which_can_be_continued, a_full_disk_ends_a_download_which_can_be_continued,
         a_download_is_not_disturbed_by_another_of_the_same_model, a_split_model_is_checked_before_it_is_fetched,
         a_kill_leaves_nothing_incomplete, two_servers_with_one_folder_do_not_mix_models,
         files_that_vanish_or_change_in_mid_stream, bodies_that_trickle_are_ended,
         clients_that_close_their_half, a_client_that_leaves_ends_the_pass_of_its_prompt, stopping_does_not_wait_for_a_long_pass]
LONG = [a_kill_in_the_middle_of_many_writes, bodies_of_100_megabytes, ten_thousand_connections, answers_that_nobody_reads]

if __name__ == "__main__":
    tests = LONG if sys.argv[3:] == ["long"] else QUICK
    failed = run_tests(tests)
    WORK.cleanup()
    sys.exit(1 if failed else 0)
