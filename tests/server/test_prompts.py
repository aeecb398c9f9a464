#!/usr/bin/env python3
"""Large requests: other requests are answered meanwhile, a client that leaves ends its request, and no request takes more memory than
the budget has. Prints TAP.

    test_prompts.py HYPURA SOURCE_FOLDER
"""
import json
import os
import select
import signal
import socket
import sys
import threading
import time

from harness import ANSWER, MODEL, PATIENCE, WORK, Server, chat, is_instrumented
from tap import run_tests, tests_of

MIB = 1 << 20


def until(what, seconds=20):
    end = time.monotonic() + seconds * PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def send(server, path, body):
    """Sends a request and returns its connection, without reading the answer."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60 * PATIENCE)
    connection.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)))
    connection.sendall(data)
    return connection


WORD = ("/api/generate", {"model": MODEL, "prompt": "ab" * (2 * MIB), "raw": True, "stream": False, "options": {"num_predict": 4}})
MESSAGES = ("/api/chat", chat(messages=[{"role": "user" if i % 2 == 0 else "assistant", "content": "x"} for i in range(40000)]))
INPUT = ("/api/embed", {"model": MODEL, "input": "ab" * (2 * MIB)})
COUNT = ("/v1/messages/count_tokens", {"model": MODEL, "messages": [{"role": "user", "content": "ab" * (2 * MIB)}]})


def waiting(server):
    text = server.request("GET", "/metrics")[2].decode()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("hypura_requests_waiting ")))


def others_are_answered_while_a_long_prompt_is_prepared():
    server = Server("--context", 512)
    server.post("/api/chat", chat(stream=False))
    for path, body in (WORD, MESSAGES, INPUT, COUNT):
        begun, slowest, answers = time.monotonic(), 0, 0
        long = send(server, path, body)
        while not select.select([long], [], [], 0)[0]:
            started = time.monotonic()
            assert server.post("/api/chat", chat(stream=False))["message"]["content"].startswith(ANSWER)
            slowest = max(slowest, time.monotonic() - started)
            answers += 1
        taken = time.monotonic() - begun
        assert long.recv(12) == b"HTTP/1.1 200"
        long.close()
        print(f"# {path}: {answers} answers within {taken:.2f} s, the slowest took {slowest:.2f} s")
        assert answers > 2 and (slowest < taken / 2 or is_instrumented()), (path, answers, slowest, taken)
    assert server.stop() == 0


def a_client_that_leaves_ends_its_prompt():
    server = Server("--context", 512)
    server.post("/api/chat", chat(stream=False))
    for path, body in (WORD, MESSAGES, INPUT, COUNT):
        long = send(server, path, body)
        until(lambda: waiting(server))
        before = server.computed()
        long.close()
        until(lambda: not waiting(server))
        print(f"# {path}: the server computed for another {server.computed() - before:.2f} s")
        assert server.computed() - before < 0.3 * PATIENCE, path
    assert server.stop() == 0


def stopping_does_not_wait_for_a_prompt():
    for path, body in (WORD, MESSAGES):
        server = Server("--context", 512)
        server.post("/api/chat", chat(stream=False))
        longs = [send(server, path, body) for _ in range(4)]
        until(lambda: waiting(server))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        begun = time.monotonic()
        assert server.stop() == 0
        print(f"# {path}: ended in {time.monotonic() - begun:.2f} s")
        assert time.monotonic() - begun < 4 * PATIENCE, path
        assert longs[0].recv(12) in (b"HTTP/1.1 503", b""), path


# ---- memory ---------------------------------------------------------------------------------------------------------

def peak(server):
    """Returns the process's peak memory in bytes."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def small_values(count):
    return b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}], "stream": false, "x": [%s]}' % (
        MODEL.encode(), b",".join([b"{}"] * count))


def patiently(server, path, body):
    """Sends a request, and repeats it until the previous one has returned its memory. Returns status and text."""
    status, _, text = server.request("POST", path, body)
    for _ in range(100):
        if status != 503:
            break
        time.sleep(0.1)
        status, _, text = server.request("POST", path, body)
    return status, text


def no_request_takes_more_than_the_budget_has():
    server = Server("--context", 512, "--memory", "100M")
    server.post("/api/chat", chat(stream=False))
    # Many values, one long word, many messages, and a large body.
    many = json.dumps(chat(messages=[{"role": "user", "content": "x"}] * 200000)).encode()
    word = json.dumps({"model": MODEL, "prompt": "ab" * (5 * MIB), "raw": True, "stream": False}).encode()
    for path, body in (("/api/chat", small_values(10 * MIB)), ("/api/generate", word), ("/api/chat", many), ("/v1/messages", many),
                       ("/v1/embeddings", b'{"model": "x", "input": [%s]}' % b",".join([b'""'] * (5 * MIB)))):
        status, text = patiently(server, path, body)
        print(f"# {path}, {len(body)} bytes: {status} {text[:150]}")
        assert status == 413 and b"--memory" in text, (path, status, text[:300])
    status, text = patiently(server, "/api/chat", json.dumps(chat(stream=False)))
    assert status == 200 and json.loads(text)["message"]["content"].startswith(ANSWER), (status, text[:300])
    print(f"# peak memory {peak(server) >> 20} MiB")
    assert is_instrumented() or peak(server) <= 120 * MIB, peak(server)
    assert server.stop() == 0


def a_token_that_outgrows_the_memory_is_refused():
    """jansson fails an assertion if it cannot extend the text of a number, and writes beyond a string."""
    server = Server("--context", 512, "--memory", "24M")
    statuses = set()
    for token in (b"1%s", b'"%s"'):
        for size in range(MIB, 12 * MIB, MIB // 2):
            status, text = patiently(server, "/api/chat", b'{"model": "absent", "value": %s}' % (token % (b"1" * size)))
            assert status in (400, 404, 413), (size, status, text[:300])
            statuses.add(status)
    assert statuses == {400, 404, 413}, statuses
    assert server.stop() == 0


def a_requests_memory_is_returned():
    server = Server("--context", 512, "--memory", "800M")
    server.post("/api/chat", chat(stream=False))
    before = server.resident()
    assert server.post("/api/chat", small_values(MIB))["done"] is True
    if is_instrumented():
        return "sanitizers keep freed memory"
    assert peak(server) > before + 100 * MIB
    until(lambda: server.resident() < before + 16 * MIB)
    assert server.stop() == 0


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [until, send, waiting, peak, small_values, patiently]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
