#!/usr/bin/env python3
"""Lets each call fail that can fail. The program must give the same answer as without the failure, or an error message. Prints TAP.

    test_points.py HYPURA SOURCE_FOLDER SHIM [long] [NAME...]

Without "long", walks over only a few points. NAME: runs only tests whose names contain one of these words.
"""
import functools
import hashlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

SHIM = sys.argv.pop(3)
LONG = "long" in sys.argv[3:]
ONLY = [word for word in sys.argv[3:] if word != "long"]
sys.path.append(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.join(sys.argv[2], "tests", "server"))
from faults import KINDS, MEMORY, OPENING, READING, RING, THREAD, WRITING, Faults, points, say_where
from harness import FILE, HYPURA, MODEL, QUESTION, WEATHER, WORK, Server, is_instrumented
from tap import run_tests, tests_of

SAMPLE = 6         # points per walk in the short test
MOST_TOLD = 12     # most failures to report
SECONDS = 300      # after which a program counts as hung
FAULTS = Faults(SHIM)
CONTEXT = ["--context", "256", "--gpu", "none", "--threads", "2"]
ALL = (MEMORY, OPENING, READING, WRITING, THREAD, RING)
ENVIRONMENT = {**os.environ, "XDG_CACHE_HOME": WORK.name, "XDG_STATE_HOME": WORK.name, "XDG_DATA_HOME": WORK.name,
               "HYPURA_MODEL": FILE, "ASAN_OPTIONS": ""}
ENVIRONMENT.pop("HYPURA_MODELS", None)


def path(name):
    return os.path.join(WORK.name, name)


def expect_none(wrong):
    assert not wrong, "\n".join([f"{len(wrong)} points are wrong; the first:", *(each[:1500] for each in wrong[:MOST_TOLD])])


class Walk:
    """The points of one piece of work, and the failures at them."""

    def __init__(self, kind):
        self.kind, self.wrong, self.walked = kind, [], 0

    def over(self):
        """Yields the points: as many as the last count of calls, and some more, because threads make the count vary."""
        count = FAULTS.disarm()[0]
        assert count > 10 or self.kind != MEMORY, "the shim counted no calls"
        if not LONG:
            yield from points(count, SAMPLE)
            return
        number, last = 0, count
        while number < last + 20:
            number += 1
            yield number
            if FAULTS.disarm()[1]:
                last = max(last, number)

    def note(self, number, what):
        self.walked += 1
        if what:
            self.wrong.append(f"{KINDS[self.kind]} {number}: {what}\n    {say_where(FAULTS.where(), HYPURA)}")
            if LONG:  # report at once: the test takes an hour and may be interrupted
                print("# " + self.wrong[-1][:500].replace("\n", "\n# "), flush=True)

    def end(self):
        print(f"# {self.walked} points of {KINDS[self.kind]}, {len(self.wrong)} wrong", flush=True)
        return self.wrong


# ---- the program ----

def run(arguments, stdin=None):
    """Returns status, standard output and standard error; status None means that the program hung. arguments: hypura's, or
    another program's path and arguments."""
    process = subprocess.Popen([*([] if os.path.isabs(arguments[0]) else [HYPURA]), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**ENVIRONMENT, **FAULTS.environment})
    try:
        out, error = process.communicate(stdin, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, b"", b""
    return process.returncode, out, error


def judge_run(result, expected):
    """Returns what is wrong with a run, or None."""
    status, out, error = result
    if status is None:
        return "the program hangs"
    if status < 0:
        return f"ended by signal {-status}: {error[-200:]}"
    if status == 0:
        return None if out == expected else f"another answer: {out[:300]}"
    if status != 1:
        return f"exit status {status}: {error[-200:]}"
    sentence = re.search(rb"^(?:hypura|batch|search)[^\n:]*: \S[^\n]{8,}$", error, re.M)
    return None if sentence else f"no error message: {error[-300:]}"


def walk_run(arguments, kinds=ALL, stdin=None, clean=None, same=lambda out: out):
    """Walks over all points of all kinds. Fails with a list of the points that went wrong."""
    wrong = []
    for _ in range(2):  # the first run may leave files for later ones
        FAULTS.disarm()
        if clean:
            clean()
        status, expected, error = run(arguments, stdin)
        assert status == 0 and (expected or clean), (status, error[-500:])
    expected = same(expected)
    for kind in kinds:
        if clean:
            clean()
        FAULTS.arm(kind, 0)
        run(arguments, stdin)
        walk = Walk(kind)
        for number in walk.over():
            if clean:
                clean()
            FAULTS.arm(kind, number)
            status, out, error = run(arguments, stdin)
            FAULTS.disarm()
            # glibc's loader ends a program that has no memory for a library's thread-local data.
            loader = status == 127 and error.endswith(b"thread-local data: ABORT\n") and FAULTS.where().startswith("ld-linux")
            walk.note(number, None if loader else judge_run((status, same(out) if status == 0 else out, error), expected))
        wrong += walk.end()
    expect_none(wrong)


PROMPT = ["--prompt", QUESTION, "--temperature", "0", "--max-tokens", "12"]


def run_in_memory():
    walk_run(["run", FILE, *CONTEXT, *PROMPT, "--memory", "400M"])


def run_streamed():
    walk_run(["run", FILE, *CONTEXT, *PROMPT, "--memory", "12M", "--system", "Answer in few words."])


def run_streamed_by_threads():
    walk_run(["run", FILE, *CONTEXT, *PROMPT, "--memory", "12M", "--reader", "threads"], (READING, THREAD))


def run_with_a_form():
    schema = path("schema.json")
    with open(schema, "w") as file:
        json.dump({"type": "object", "properties": {"name": {"type": "string", "maxLength": 6},
                                                    "kind": {"enum": ["a", "b"]}}, "required": ["name", "kind"]}, file)
    walk_run(["run", FILE, *CONTEXT, *PROMPT, "--format", schema], (MEMORY, OPENING, READING))
    walk_run(["run", FILE, *CONTEXT, *PROMPT, "--format", "json"], (MEMORY,))


def run_with_penalties():
    walk_run(["run", FILE, *CONTEXT, *PROMPT, "--repeat-penalty", "1.3", "--dry-multiplier", "0.8", "--dry-breaker", "the",
              "--frequency-penalty", "0.2", "--logit-bias", "40:-1", "--var", "kind=[1, {\"a\": \"b\"}]"], (MEMORY,))


def run_in_a_session():
    """After a failure, the session's file is unchanged or complete with the new answer."""
    session = path("session")
    FAULTS.disarm()
    run(["run", FILE, *CONTEXT, "--prompt", "What does cp do?", "--temperature", "0", "--max-tokens", "12", "--session", session])
    with open(session, "rb") as file:
        first = file.read()

    def look_and_restore():
        with open(session, "rb") as file:
            now = file.read()
        if now != first:
            said = json.loads(now.split(b"\n")[1])["messages"]
            assert [message["role"] for message in said] == ["user", "assistant"] * 2, said
            assert len(now) > len(first), "the file lacks the computed data"
        assert not [name for name in os.listdir(WORK.name) if name.startswith("session.")]
        with open(session, "wb") as file:
            file.write(first)

    walk_run(["run", FILE, *CONTEXT, *PROMPT, "--memory", "400M", "--session", session], (MEMORY, OPENING, READING, WRITING),
             clean=look_and_restore)


def commands_that_ask_the_library():
    chat = path("chat.json")
    with open(chat, "w") as file:
        json.dump([{"role": "user", "content": QUESTION}], file)
    walk_run(["embed", FILE, *CONTEXT, "ls lists files", "cp copies"], (MEMORY, OPENING, READING, THREAD))
    walk_run(["embed", FILE, *CONTEXT, "ls lists files", "--json"], (MEMORY,))
    logits = path("logits")
    walk_run(["logits", FILE, *CONTEXT, "--tokens", "1,306,4658", "--out", logits], (MEMORY, WRITING), clean=lambda: os.path.exists(logits) and os.remove(logits))
    walk_run(["tokenize", FILE], (MEMORY, OPENING), stdin=b"ls lists files\n")
    walk_run(["template", FILE, "--messages", chat], (MEMORY, OPENING, READING))


def programs_of_the_library():
    """Sessions in several threads and in one give the answers or an error message. A failed session leaves the others intact."""
    right = []

    def answers(out):
        parts = re.split(rb"(?m)^(?=(?:The ls command|The cp command|mmap is) ->)", out)
        right.extend([] if right else parts)
        assert len(parts) == len(right) == 4, out
        return b"".join(all if b" ->(no memory" in part else part for part, all in zip(parts, right))

    folder = os.path.join(os.path.dirname(os.path.abspath(HYPURA)), "examples")
    lines = b"The ls command\nThe cp command\nmmap is\n"
    walk_run([os.path.join(folder, "example-batch"), FILE, "3"], (MEMORY, OPENING, READING), stdin=lines, same=answers)
    walk_run([os.path.join(folder, "example-search"), FILE, "copy"], (MEMORY,), stdin=lines)


def list_models():
    folder = path("listed")
    os.makedirs(folder, exist_ok=True)
    for name in ("one", "two"):
        if not os.path.exists(f"{folder}/{name}.gguf"):
            os.link(FILE, f"{folder}/{name}.gguf") if os.stat(FILE).st_dev == os.stat(folder).st_dev else \
                os.symlink(FILE, f"{folder}/{name}.gguf")
    with open(f"{folder}/three.json", "w") as file:
        json.dump({"file": FILE, "system": "Be brief.", "parameters": {"temperature": 0}}, file)
    walk_run(["list", "--models", folder], (MEMORY, OPENING, READING))
    walk_run(["list", "--models", folder, "--json"], (MEMORY,))


# ---- batch ----

def batch_of_lines():
    """Stored answers are right after a failure, and the next run answers the rest."""
    lines = [{"prompt": QUESTION, "max_tokens": 8}, {"messages": [{"role": "user", "content": "What does cp do?"}], "max_tokens": 6},
             {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
              "body": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "mv?"}],
                       "max_tokens": 5, "logprobs": True, "stop": ["x"]}},
             {"custom_id": "b", "url": "/v1/embeddings", "body": {"input": ["one", "two"]}},
             {"prompt": 3}]
    with open(path("in"), "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    command = ["batch", FILE, "--input", path("in"), "--output", path("out"), *CONTEXT, "--parallel", "2", "--memory", "400M",
               "--system", "You are a manual.", "--set", "temperature=0", "--set", "top_p=0.5"]

    def stored(name):
        with open(path(name)) as file:
            return [without_chance(json.loads(line)) for line in file]

    def clean():
        for name in ("out", "out.sorting"):
            if os.path.exists(path(name)):
                os.remove(path(name))

    clean()
    status, _, error = run(command)
    assert status == 0, error
    expected, wrong = stored("out"), []
    assert len(expected) == len(lines) and "error" in expected[4]
    for kind in ALL:
        clean()
        FAULTS.arm(kind, 0)
        run(command)
        walk = Walk(kind)
        for number in walk.over():
            clean()
            FAULTS.arm(kind, number)
            result = run(command)
            count, failed = FAULTS.disarm()
            what = judge_run(result, b"")
            # The shim keeps the place of the failure until it is armed again.
            if not what and failed and result[0] == 1 and os.path.exists(path("out")):
                done = [line for line in open(path("out")) if line.endswith("\n")]
                if any(without_chance(json.loads(line)) not in expected for line in done):
                    what = f"the program stored {done}"
            if not what:
                status, _, error = run(command)
                what = None if status == 0 and stored("out") == expected else \
                    f"the next run ends with {status}: {error[-300:]}, {[x for x in stored('out') if x not in expected]}"
            walk.note(number, what)
        wrong += walk.end()
    expect_none(wrong)


# ---- the server ----

CHANCE = {"id", "created", "created_at", "completed_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
          "request_id", "cached_tokens", "cache_read_input_tokens", "input_tokens", "prompt_eval_count", "prompt_cached_count",
          "cache_creation_input_tokens", "cache_creation", "item_id", "modified_at",
          "expires_at", "call_id", "tool_call_id", "size", "size_vram"}


def without_chance(value):
    """Removes the values that differ between requests."""
    if isinstance(value, dict):
        return {key: without_chance(each) for key, each in value.items() if key not in CHANCE}
    return [without_chance(each) for each in value] if isinstance(value, list) else value


def pieces(kind, text):
    """Returns the JSON values of an answer."""
    if "event-stream" in kind:
        data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        return [each if each == "[DONE]" else without_chance(json.loads(each)) for each in data]
    if "ndjson" in kind:
        return [without_chance(json.loads(line)) for line in text.splitlines()]
    if "json" in kind and text:
        return [without_chance(json.loads(text))]
    return re.findall("^# .*", text, re.M) or [text]  # the names of metrics, without their values


def sentence(value):
    """Returns the error message in an answer or in a part of a stream, or None."""
    if not isinstance(value, dict):
        return None
    inner = value.get("response")  # in a stream of /v1/responses
    error = value.get("error") or (inner.get("error") if isinstance(inner, dict) else None)
    words = error.get("message") if isinstance(error, dict) else error
    return words if isinstance(words, str) and len(words) > 8 else None


def ask(server, method, place, body):
    """Returns the status and the JSON values. Without an answer, returns None and the reason."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
        connection.request(method, place, body if body is None or isinstance(body, bytes) else json.dumps(body))
        response = connection.getresponse()
        kind = response.getheader("Content-Type") or ""
        text = response.read().decode()
        connection.close()
        return response.status, pieces(kind, text)
    except TimeoutError:
        return None, "no answer in time"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return None, f"no answer: {type(error).__name__} {error}"


def is_foreign(where):
    """Whether the failed call came from libmicrohttpd alone, which may drop a connection before hypura sees it."""
    names = {line.split()[0] for line in where.splitlines()} - {os.path.basename(SHIM)}
    return any("microhttpd" in name for name in names) and os.path.basename(HYPURA) not in names


def judge_answer(kind, answer, expected):
    status, got = answer
    if answer == expected:
        return None
    if status is None:
        return None if is_foreign(FAULTS.where()) else got
    # Without memory, libcurl may say that it cannot resolve a name.
    fitting = (503,) if kind == MEMORY and not FAULTS.where().startswith("libcurl") else (500, 503)
    if status != 200:
        said = len(got) == 1 and sentence(got[0])
        return None if said and status in fitting else f"status {status}: {str(got)[:300]}"
    told = [i for i, each in enumerate(got) if sentence(each)]
    if told and got[:told[0]] == expected[1][:told[0]]:
        return None
    return f"another answer: {str(got)[:600]}"


def start(file=FILE, **environment):
    FAULTS.disarm()
    server = Server(file, *CONTEXT, "--memory", "400M", "--parallel", "2", environment={**ENVIRONMENT, **FAULTS.environment, **environment})
    if file == FILE:
        server.post("/api/generate", {"model": MODEL, "keep_alive": -1, "stream": False})  # loads the model
    return server


def walk_request(requests, kinds=(MEMORY,), start=start):
    """Walks over all points of each request, on one server, which must survive the failures. requests may be a function that
    gets the server."""
    wrong = []
    server = start()
    for method, place, body in requests(server) if callable(requests) else requests:
        for _ in range(3):
            expected = ask(server, method, place, body)
        assert expected[0] == 200, expected
        assert ask(server, method, place, body) == expected, (place, expected, ask(server, method, place, body))
        for kind in kinds:
            FAULTS.arm(kind, 0)
            ask(server, method, place, body)
            walk = Walk(kind)
            print(f"# {method} {place} {str(body)[:100]}")
            for number in walk.over():
                FAULTS.arm(kind, number)
                answer = ask(server, method, place, body)
                FAULTS.disarm()
                what = judge_answer(kind, answer, expected)
                if server.process.poll() is not None:
                    what = f"the server ended with status {server.process.returncode}"
                elif ask(server, method, place, body) != expected:
                    what = f"the next answer differs: {ask(server, method, place, body)}"
                walk.note(number, what and f"{place}: {what}")
                if what and (server.process.poll() is not None or not what.startswith("another")):
                    server.process.kill()
                    server = start()
                    for _ in range(3):
                        ask(server, method, place, body)
            wrong += walk.end()
    assert server.stop() == 0
    expect_none(wrong)


GREEDY = {"temperature": 0, "num_predict": 6, "repeat_penalty": 1.05, "stop": ["xyz"], "num_keep": 2}
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What does cp do?"},
         {"role": "assistant", "content": "It copies."}, {"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
PLAIN = [*TURNS[:3], {"role": "user", "content": QUESTION}]
TOOLS = [{"type": "function", "function": WEATHER}]
CALLED = [*PLAIN[1:2], {"role": "assistant", "content": "", "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]},
    {"role": "tool", "content": "sunny", "tool_call_id": "call_1"}, *PLAIN[3:]]


def both(place, body):
    return [("POST", place, {"model": MODEL, **body, "stream": stream}) for stream in (False, True)]


def ollama_chat():
    walk_request(both("/api/chat", {"messages": PLAIN, "options": GREEDY, "think": True}))
    walk_request(both("/api/chat", {"messages": CALLED, "options": GREEDY, "tools": TOOLS, "logprobs": True, "top_logprobs": 2}))


def ollama_generate():
    walk_request([*both("/api/generate", {"prompt": QUESTION, "system": "Be brief.", "options": GREEDY, "context": [5, 6, 7]}),
                  ("POST", "/api/generate", {"model": MODEL, "prompt": QUESTION, "options": GREEDY, "format": "json", "stream": False}),
                  ("POST", "/api/generate", {"model": MODEL, "prompt": QUESTION, "stream": False, "options": {
                      "temperature": 0, "num_ctx": 32, "num_predict": 80}, "shift": True}),
                  ("POST", "/api/generate", {"model": MODEL, "stream": False})])


def ollama_models():
    walk_request([("GET", "/api/tags", None), ("POST", "/api/show", {"model": MODEL, "verbose": False}), ("GET", "/api/version", None),
                  ("GET", "/api/ps", None)], (MEMORY, OPENING, READING))


def show(server, name):
    """Returns what the server says about a model, or None."""
    status, said = ask(server, "POST", "/api/show", {"model": name})
    assert status in (200, 404), (status, said)
    # The number in the name of the weights differs between requests.
    return json.loads(re.sub(r"\.[0-9a-f]{16}\.gguf", ".gguf", json.dumps(said))) if status == 200 else None


def change(server, method, place, body):
    """As ask, without the messages about progress, which depend on the clock. Waits for a download whose client was told early that
    it failed."""
    for _ in range(100):
        status, said = ask(server, method, place, body)
        if "downloaded already" not in str(said):
            break
        time.sleep(0.1)
    if status:
        said = [each for each in said if isinstance(each, str) or "error" in each or each.get("status") == "success"]
    return status, said


def walk_change(server, request, undo, state, kinds):
    """Walks over all points of a request that changes what is stored. Afterwards, the state is that before or that after the
    request; if the request succeeded, that after it."""
    wrong = []
    for _ in range(2):
        undo(server)
        before = state(server)
        expected, after = change(server, *request), state(server)
        assert expected[0] in (200, 201) and before != after, (expected, before, after)
    for kind in kinds:
        undo(server)
        FAULTS.arm(kind, 0)
        change(server, *request)
        walk = Walk(kind)
        print(f"# {request[0]} {request[1]} {str(request[2])[:100]}")
        for number in walk.over():
            undo(server)
            FAULTS.arm(kind, number)
            answer = change(server, *request)
            FAULTS.disarm()
            what = judge_answer(kind, answer, expected)
            if server.process.poll() is not None:
                walk.note(number, f"the server ended with status {server.process.returncode}")
                return wrong + walk.end()
            now = state(server)
            if now not in ((after,) if answer == expected else (before, after)):
                what = f"{answer} left {str(now)[:600]}"
            undo(server)
            again = change(server, *request)
            if again[0] is None:
                time.sleep(1)
            if server.process.poll() is not None:
                walk.note(number, f"the server ended later with status {server.process.returncode}: {server.logged()[-500:]}")
                return wrong + walk.end()
            if again != expected or state(server) != after:
                what = f"the next request: {again}, {str(state(server))[:600]}"
            walk.note(number, what and f"{request[1]}: {what}")
        wrong += walk.end()
    return wrong


def models_that_are_made_copied_and_deleted():
    server = start()
    old = {"model": "made", "from": MODEL, "system": "Before.", "stream": False}
    new = {**old, "system": "Be brief.", "parameters": {"temperature": 0, "stop": ["a", "b"], "num_predict": 3}, "license": ["x", "y"],
           "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    text = f'FROM {MODEL}\nSYSTEM """One\nTwo"""\nPARAMETER temperature 0\nPARAMETER stop "z"\nMESSAGE user Hi\n'
    file = {"model": "made", "modelfile": text, "stream": False}
    make = lambda server: server.post("/api/create", old)
    made, copied = functools.partial(show, name="made"), functools.partial(show, name="copied")
    wrong = []
    for body in (new, file):
        wrong += walk_change(server, ("POST", "/api/create", body), make, made, (MEMORY, OPENING, READING, WRITING))
    make(server)
    delete = ("DELETE", "/api/delete", {"model": "copied"})
    copy = ("POST", "/api/copy", {"source": "made", "destination": "copied"})
    wrong += walk_change(server, copy, lambda server: ask(server, *delete), copied, (MEMORY, OPENING, READING, WRITING))
    wrong += walk_change(server, delete, lambda server: ask(server, *copy), copied, (MEMORY, OPENING, READING))
    assert server.process.poll() is not None or server.stop() == 0
    expect_none(wrong)


SMALL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "embed", "modern-bert-rank.gguf")


class Site(http.server.BaseHTTPRequestHandler):
    """A file server, and a library with a model of one layer each of weights, parameters and a system message."""
    with open(SMALL, "rb") as file:
        layers = {"model": file.read(), "params": b'{"num_predict": 2, "stop": ["x"]}', "system": b"Be brief."}
    digests = {kind: "sha256:" + hashlib.sha256(layer).hexdigest() for kind, layer in layers.items()}

    def do_GET(self):
        data = self.layers["model"]
        if "/manifests/" in self.path:
            data = json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image." + kind, "digest": digest}
                                          for kind, digest in self.digests.items()]}).encode()
        for kind, digest in self.digests.items():
            data = self.layers[kind] if self.path.endswith(digest) else data
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def models_that_are_downloaded_and_sent():
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.handle_error = lambda *_: None  # the server hangs up on purpose
    threading.Thread(target=site.serve_forever, daemon=True).start()
    base, name = f"http://127.0.0.1:{site.server_address[1]}", os.path.basename(SMALL)[:-5]
    server = start(HYPURA_LIBRARY=base)
    digest = Site.digests["model"]
    send = ("POST", "/api/blobs/" + digest, Site.layers["model"])
    delete = lambda server, name: ask(server, "DELETE", "/api/delete", {"model": name})

    def has_blob(server):
        return ask(server, "HEAD", "/api/blobs/" + digest, None)[0]

    def forget_blob(server):
        if has_blob(server) == 200:
            os.remove(os.path.join(server.folder, "blobs", digest.replace(":", "-")))

    def prepare_create(server):
        delete(server, "made")
        assert ask(server, *send)[0] in (200, 201)

    wrong = []
    for reference, name, stream in ((f"{base}/{name}.gguf", name, False), ("tiny", "tiny", True)):
        wrong += walk_change(server, ("POST", "/api/pull", {"model": reference, "stream": stream}), lambda server: delete(server, name),
                             functools.partial(show, name=name), (MEMORY, OPENING, READING, WRITING))
    wrong += walk_change(server, send, forget_blob, has_blob, (MEMORY, OPENING, WRITING))
    create = ("POST", "/api/create", {"model": "made", "files": {"a.gguf": digest}, "system": "Be brief.", "stream": False})
    wrong += walk_change(server, create, prepare_create, functools.partial(show, name="made"), (MEMORY, OPENING, READING, WRITING))
    site.shutdown()
    site.server_close()
    assert server.process.poll() is not None or server.stop() == 0
    expect_none(wrong)


def a_model_that_the_command_downloads():
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.handle_error = lambda *_: None
    threading.Thread(target=site.serve_forever, daemon=True).start()
    folder, file = path("pulled"), os.path.join(path("pulled"), os.path.basename(SMALL))

    def is_whole(_=None):
        with open(file, "rb") as made:
            return made.read() == Site.layers["model"]

    def look_and_forget():
        assert not os.path.exists(file) or is_whole()
        shutil.rmtree(folder, ignore_errors=True)

    walk_run(["pull", f"http://127.0.0.1:{site.server_address[1]}/{os.path.basename(SMALL)}", "--models", folder, "--context", "64"],
             (MEMORY, OPENING, READING, WRITING), clean=look_and_forget, same=is_whole)
    site.shutdown()
    site.server_close()


def rerank():
    body = {"model": os.path.basename(SMALL)[:-5], "query": "the big model", "documents": ["hello world", {"text": "a tiny document"}]}
    walk_request([("POST", "/v1/rerank", body), ("POST", "/rerank", {**body, "top_n": 1, "return_documents": True})],
                 start=functools.partial(start, SMALL))


def embeddings():
    walk_request([("POST", "/api/embed", {"model": MODEL, "input": ["one", "two"], "dimensions": 8}),
                  ("POST", "/api/embeddings", {"model": MODEL, "prompt": "one"}),
                  ("POST", "/v1/embeddings", {"model": MODEL, "input": ["one", [5, 6]], "dimensions": 8}),
                  ("POST", "/v1/embeddings", {"model": MODEL, "input": "one", "encoding_format": "base64"})])


def openai_chat():
    few = {"temperature": 0, "max_tokens": 6}
    walk_request([("POST", "/v1/chat/completions", {"model": MODEL, "messages": TURNS, **few, "n": 2})])
    walk_request(both("/v1/chat/completions", {"messages": TURNS, **few, "logprobs": True, "top_logprobs": 2, "seed": 1,
                                               "stop": ["xyz"], "logit_bias": {"40": -1}, "chat_template_kwargs": {"a": 1}}))
    walk_request(both("/v1/chat/completions", {"messages": CALLED, **few, "tools": TOOLS, "tool_choice": "required",
                                               "max_tokens": 40}))
    walk_request([("POST", "/v1/chat/completions", {"model": MODEL, "messages": PLAIN, **few, "response_format": {
        "type": "json_schema", "json_schema": {"name": "a", "schema": WEATHER["parameters"]}}})])


def openai_others():
    few = {"temperature": 0, "max_tokens": 6}
    walk_request([*both("/v1/completions", {"prompt": QUESTION, **few, "echo": True, "logprobs": 2}),
                  ("GET", "/v1/models", None), ("GET", f"/v1/models/{MODEL}", None)])


def openai_responses():
    few = {"temperature": 0, "max_output_tokens": 6}
    items = [{"role": "user", "content": "What does cp do?"},
             {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{\"city\": \"Rome\"}"},
             {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
             {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    walk_request(both("/v1/responses", {"input": items, "instructions": "Be brief.", **few, "tools": [
        {"type": "function", **WEATHER}], "metadata": {"a": "b"}}))
    walk_request([("POST", "/v1/responses/input_tokens", {"model": MODEL, "input": items})])

    def later(server):
        first = server.post("/v1/responses", {"model": MODEL, "input": items, **few})["id"]
        return [("GET", "/v1/responses/" + first, None),
                ("POST", "/v1/responses", {"model": MODEL, "input": "And rm?", "previous_response_id": first, **few})]
    walk_request(later)


def the_servers_own():
    walk_request([("GET", "/", None), ("GET", "/metrics", None), ("POST", "/api/hypura/memory", {"memory": "300M"})])


def anthropic_messages():
    few = {"temperature": 0, "max_tokens": 6}
    content = [{"type": "text", "text": "What does cp do?"}, {"type": "text", "text": "Or mv?"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": [
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
                                     {"type": "text", "text": QUESTION}]}]
    tools = [{"name": "get_weather", "description": "Weather", "input_schema": WEATHER["parameters"]}]
    system = [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
              {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    walk_request(both("/v1/messages", {"messages": turns, "system": system, **few, "tools": tools,
                                       "stop_sequences": ["xyz"], "metadata": {"user_id": "a"}}))
    walk_request([("POST", "/v1/messages", {"model": MODEL, "messages": turns, **few, "tools": tools, "tool_choice": {"type": "any"},
                                            "max_tokens": 40}),
                  ("POST", "/v1/messages/count_tokens", {"model": MODEL, "messages": turns, "tools": tools})])


HELPERS = {show, change, walk_change, path, expect_none, run, judge_run, walk_run, without_chance, pieces, sentence, ask, judge_answer,
           is_foreign, start, walk_request, both}

if __name__ == "__main__":
    if is_instrumented():
        print("1..0 # SKIP sanitizers replace the allocator")
        sys.exit(0)
    TESTS = [test for test in tests_of(globals(), HELPERS)
             if not ONLY or any(word in test.__name__ for word in ONLY)]
    sys.exit(1 if run_tests(TESTS) else 0)
