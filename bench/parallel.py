#!/usr/bin/env python3
"""Tokens per second of a server that writes several answers at once, compared with one at a time.

    bench/parallel.py [--rounds N] [--seconds S] [--tokens N] [--parallel N]... MODEL [-- OPTION OF hypura serve ...]

Starts one server per --parallel N, and the servers take turns. In each round, N clients ask a server for answers of
--tokens tokens during --seconds. Prints medians. $HYPURA names the program (default: build/hypura).
"""
import argparse
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HYPURA = os.environ.get("HYPURA", "build/hypura")


class Server:
    def __init__(self, work, model, parallel, options):
        self.parallel, self.model = parallel, os.path.splitext(os.path.basename(model))[0]
        self.process = subprocess.Popen([HYPURA, "serve", model, "--port", "0", "--models", work, "--parallel", str(parallel),
                                         *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.port = int(re.search(r":(\d+)\s*$", self.process.stdout.readline().decode()).group(1))

    def ask(self, number, tokens, end, counts):
        """One client: requests whole answers, one after another. The model may end an answer early."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        while time.monotonic() < end:
            # Short prompts that differ from their first token on, so that nothing is shared.
            connection.request("POST", "/api/generate", json.dumps(
                {"model": self.model, "prompt": f"{number} and more", "raw": True, "stream": False, "keep_alive": -1,
                 "options": {"num_predict": tokens, "seed": len(counts)}}))
            answer = json.load(connection.getresponse())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            counts.append((time.monotonic(), answer["eval_count"]))

    def rate(self, tokens, seconds):
        start = time.monotonic()
        counts = []
        threads = [threading.Thread(target=self.ask, args=(i, tokens, start + seconds, counts)) for i in range(self.parallel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(count for _, count in counts) / (max(at for at, _ in counts) - start)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--parallel", type=int, action="append")
    parser.add_argument("model")
    own, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    arguments = parser.parse_args(own.split())
    counts = [1, *(arguments.parallel or [8])]
    rates = {count: [] for count in counts}
    with tempfile.TemporaryDirectory(prefix="hypura-parallel-") as work:
        servers = []
        try:
            for count in counts:
                servers.append(Server(work, arguments.model, count, options.split()))
                servers[-1].rate(8, 0.2)
            for _ in range(arguments.rounds):
                for server in servers:
                    rates[server.parallel].append(server.rate(arguments.tokens, arguments.seconds))
        finally:
            for server in servers:
                server.stop()
    one = statistics.median(rates[1])
    for count in counts:
        median = statistics.median(rates[count])
        print(f"{count:3d} at once: {median:9.2f} tokens/s  ({min(rates[count]):.2f} to {max(rates[count]):.2f}), "
              f"{median / one:.2f} times one")


if __name__ == "__main__":
    main()
