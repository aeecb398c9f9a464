#!/usr/bin/env python3
"""A chat model and an encoder take turns in one server. Measures a turn's cost when both stay in memory, and when each
replaces the other (--max-loaded 1). Rounds are interleaved; prints medians.

    turns.py HYPURA CHAT.gguf ENCODER.gguf [ROUNDS]
"""
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HYPURA, CHAT, ENCODER = sys.argv[1:4]
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 5


def post(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", path, json.dumps(body))
    response = connection.getresponse()
    text = response.read()
    assert response.status == 200, text
    return json.loads(text)


def turn(port, names):
    start = time.time()
    post(port, "/api/embed", {"model": names[1], "input": "a"})
    post(port, "/api/chat", {"model": names[0], "stream": False, "options": {"num_predict": 1},
                             "messages": [{"role": "user", "content": "Hello"}]})
    return time.time() - start


def main():
    servers = {}
    with tempfile.TemporaryDirectory(prefix="hypura-turns-") as work:
        for most in ("1", "4"):
            process = subprocess.Popen([HYPURA, "serve", "--port", "0", "--models", work, "--context", "512", "--parallel", "1",
                                        "--max-loaded", most, CHAT, ENCODER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            servers[most] = process, int(process.stdout.readline().decode().rsplit(":", 1)[1])
        try:
            names = [os.path.basename(path).rsplit(".", 1)[0] for path in (CHAT, ENCODER)]
            times = {most: [] for most in servers}
            for _ in range(ROUNDS + 1):
                for most, (_, port) in servers.items():
                    times[most].append(turn(port, names))
        finally:
            for process, _ in servers.values():
                process.send_signal(signal.SIGTERM)
                process.wait()
    together, apart = (statistics.median(times[most][1:]) for most in ("4", "1"))
    print(f"both in memory: {together:.3f} s per turn; one at a time: {apart:.3f} s, {apart / together:.1f} times as long")


if __name__ == "__main__":
    main()
