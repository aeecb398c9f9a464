#!/usr/bin/env python3
"""Many clients at once: no errors except proper 503s, complete streams, and stable memory. Several answers at once are no slower than
one after another. Prints TAP, with latencies and rates in comments. $HYPURA_LOAD_SECONDS sets the duration (20).

    test_load.py HYPURA SOURCE_FOLDER
"""
import json
import os
import sys
import threading
import time

from harness import MODEL, WORK, Server, is_instrumented
from tap import run_tests

SECONDS = float(os.environ.get("HYPURA_LOAD_SECONDS", "20"))
CLIENTS = 64


def ask(server, body):
    """Sends a request. Returns the status, the time of the first line, and the text."""
    connection = server.connection(300)
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    first = response.readline() if response.status == 200 else b""
    at = time.time()
    rest = response.read()
    connection.close()
    return response.status, at, (first + rest).decode()


def body(text, count):
    # Excluding the tokens that end an answer fixes its length.
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": count, "seed": 1, "stream": True,
            "stream_options": {"include_usage": True}, "logit_bias": {"6140": -100, "6141": -100, "6142": -100, "6143": -100}}


def rate(parallel):
    server = Server("--context", 256, "--parallel", parallel)
    ask(server, body("x", 1))
    start = time.time()
    threads = [threading.Thread(target=ask, args=(server, body(f"What does command {i} do?", 100),)) for i in range(parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.time() - start
    server.stop()
    return parallel * 100 / taken


def many_clients_get_whole_answers_or_503_and_memory_stays_flat():
    server = Server("--context", 256, "--parallel", 4, "--memory", "16M", "--queue", 48)
    whole, refused, broken, firsts = [], [], [], []
    end = time.time() + SECONDS

    def client(number):
        while time.time() < end:
            start = time.time()
            try:
                status, first, text = ask(server, body(f"What does command {number} do?", 24))
                lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
                if status == 200 and lines[-1] == "[DONE]" and json.loads(lines[-2])["usage"]["completion_tokens"] == 24:
                    whole.append(time.time() - start)
                    firsts.append(first - start)
                elif status == 503 and json.loads(text)["error"]["message"].startswith("server busy, please try again."):
                    refused.append(1)
                    time.sleep(0.1)
                else:
                    broken.append((status, text[-300:]))
            except Exception as error:
                broken.append(repr(error))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS / 3)
    early = server.resident()
    for thread in threads:
        thread.join()
    late = server.resident()
    for name, values in (("first token", sorted(firsts)), ("whole answer", sorted(whole))):
        if values:
            at = lambda share: values[min(len(values) - 1, int(share * len(values)))]
            print(f"# {name}: p50 {at(.5):.3f} s, p90 {at(.9):.3f} s, p99 {at(.99):.3f} s")
    print(f"# {len(whole)} answers and {len(refused)} refusals in {SECONDS:.0f} s; memory {early >> 10} KiB at first, "
          f"{late >> 10} KiB at the end")
    assert whole and not broken, broken[:5]
    # Sanitizers keep freed memory for a while.
    assert is_instrumented() or late <= early * 1.02 + (256 << 10), (early, late)
    assert server.stop() == 0


def eight_at_once_are_no_slower_than_one():
    ratios = sorted(rate(8) / rate(1) for _ in range(3))
    print(f"# eight at once give {ratios[1]:.2f} times the tokens of one (of three interleaved runs: {ratios})")
    assert ratios[1] > 0.8, ratios


if __name__ == "__main__":
    failed = run_tests([many_clients_get_whole_answers_or_503_and_memory_stays_flat, eight_at_once_are_no_slower_than_one])
    WORK.cleanup()
    sys.exit(1 if failed else 0)
