#!/usr/bin/env python3
"""Many clients at once: no error but honest 503s, every stream whole, memory flat, and several answers at once are no
slower than one after another. Prints TAP, with latencies and rates in comments. $HYPURA_LOAD_SECONDS says how long (20).

    test_load.py HYPURA SOURCE_FOLDER
"""
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

HYPURA, SOURCE = sys.argv[1], sys.argv[2]
FILE = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
MODEL = "manpage-moe-24m-Q4_K_M"
SECONDS = float(os.environ.get("HYPURA_LOAD_SECONDS", "20"))
CLIENTS = 64


class Server:
    def __init__(self, work, *arguments):
        self.log = open(os.path.join(work, "log"), "w")
        self.process = subprocess.Popen(
            [HYPURA, "serve", "--port", "0", "--models", os.path.join(work, "models"), "--context", "256", *arguments],
            stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, "XDG_CACHE_HOME": work, "XDG_STATE_HOME": work})
        self.port = int(self.process.stdout.readline().decode().rsplit(":", 1)[1])

    def post(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        first = response.readline() if response.status == 200 else b""
        at = time.time()
        rest = response.read()
        connection.close()
        return response.status, at, (first + rest).decode()

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=30)
        self.log.close()
        return status


def body(text, count):
    # Without the tokens that end an answer its length is known.
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": count, "seed": 1, "stream": True,
            "stream_options": {"include_usage": True}, "logit_bias": {"6140": -100, "6141": -100, "6142": -100, "6143": -100}}


def rate(work, parallel):
    server = Server(work, "--parallel", str(parallel))
    server.post(body("x", 1))
    start = time.time()
    threads = [threading.Thread(target=server.post, args=(body(f"What does command {i} do?", 100),)) for i in range(parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.time() - start
    server.stop()
    return parallel * 100 / taken


def load(work):
    server = Server(work, "--parallel", "4", "--memory", "16M", "--queue", "48")
    whole, refused, broken, firsts = [], [], [], []
    end = time.time() + SECONDS
    early = []

    def client(number):
        while time.time() < end:
            start = time.time()
            try:
                status, first, text = server.post(body(f"What does command {number} do?", 24))
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
    early.append(server.resident())
    for thread in threads:
        thread.join()
    late = server.resident()
    status = server.stop()
    return whole, firsts, refused, broken, early[0], late, status


def main():
    failed = 0

    def say(number, name, fine):
        nonlocal failed
        failed += not fine
        print(f"{'ok' if fine else 'not ok'} {number} - {name}", flush=True)

    print("1..4")
    with tempfile.TemporaryDirectory(prefix="hypura-load-") as work:
        whole, firsts, refused, broken, early, late, status = load(work)
        for name, values in (("first token", sorted(firsts)), ("whole answer", sorted(whole))):
            if values:
                at = lambda share: values[min(len(values) - 1, int(share * len(values)))]
                print(f"# {name}: p50 {at(.5):.3f} s, p90 {at(.9):.3f} s, p99 {at(.99):.3f} s")
        print(f"# {len(whole)} answers and {len(refused)} refusals in {SECONDS:.0f} s; memory {early} then {late} KiB")
        for one in broken[:5]:
            print(f"# {one}")
        say(1, "every answer is whole, or an honest 503", whole and not broken)
        say(2, "memory stays flat", late <= early * 1.02 + 256)
        say(3, "it stops as it should", status == 0)
        ratios = sorted(rate(work, 8) / rate(work, 1) for _ in range(3))
        print(f"# eight at once give {ratios[1]:.2f} times the tokens of one (of three interleaved runs: {ratios})")
        say(4, "eight at once lose nothing against one", ratios[1] > 0.8)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
