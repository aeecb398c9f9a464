#!/usr/bin/env python3
"""What reusing prefixes saves. Measures the time to first token of a conversation's second turn, of a turn whose last message was
edited, and of a turn after a restart with a prefix cache on a drive, each relative to a cold run; the tokens computed and the memory
of keys and values for eight requests with a common beginning; and the speed of decoding with an unused prefix store, relative to
decoding without one.

    prefix.py HYPURA MODEL.gguf... [--tokens 8000] [--memory 0.5] [--beginning 4000] [--decode 32] [--rounds 3] [--pairs 7]
              [--parts shares,together,unused] [--gpu N] [--gpu-memory SIZE]

--memory: a share of each file's size, or a size such as 8G. --parts: the parts to measure (default: all). --gpu: the keys and values
of eight requests are counted in the memory of this GPU. Prints one row of a table per model. The speed of decoding is a median over
pairs of alternating answers, with its 95 % confidence interval.
"""
import argparse
import http.client
import json
import math
import os
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time

TURN = 40    # new tokens of a turn, or of an edited message
ANSWER = 16  # tokens of an answer


class Server:
    gpu = ()  # options of every server

    def __init__(self, hypura, model, memory, context, parallel, *options):
        self.process = subprocess.Popen(
            [hypura, "serve", model, "--port", "0", "--memory", memory, "--context", str(context), "--parallel", str(parallel),
             "--drafting", "off", *Server.gpu, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.port = int(self.process.stdout.readline().decode().rsplit(":", 1)[1])
        self.name = os.path.basename(model).rsplit(".", 1)[0]

    def ask(self, tokens, most=ANSWER, **how):
        """Returns the seconds to the first token, the number of tokens reused, and the seconds per further token."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=7200)
        start = time.time()
        connection.request("POST", "/v1/completions", json.dumps({
            "model": self.name, "prompt": tokens, "max_tokens": most, "temperature": 0, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True}, **how}))
        response, first, last, cached, events = connection.getresponse(), None, None, 0, 0
        assert response.status == 200, response.read()
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("choices"):
                last = time.time()
                first, events = first or last, events + 1
            if event.get("usage"):
                cached = event["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
        return (first or time.time()) - start, cached, (last - first) / max(events - 1, 1) if events > 1 else 0

    def metrics(self, *words):
        """Returns the values of the first metrics whose names contain these words."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", "/metrics")
        found = dict(line.split(" ") for line in connection.getresponse().read().decode().splitlines() if line.startswith("hypura_"))
        return [int(float(next(value for name, value in found.items() if word in name))) for word in words]

    def drafts(self):
        """Returns the numbers of tokens drafted and accepted so far, and of bytes read from the drive."""
        return self.metrics("drafted", "accepted", "storage_read")

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS:"))

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def text(seed, count):
    chosen = random.Random(seed)
    return [chosen.randrange(3, 250) for _ in range(count)]


def shares(arguments, model, memory):
    tokens, cold_times, rows = arguments.tokens, [], {"second": [], "edited": [], "restart": []}
    context = tokens + 4 * TURN + 64
    for index in range(arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="hypura-prefix-", dir=arguments.work) as work:
            first = text(index, tokens)
            second, edited = first + text(index + 50, TURN), first[:-TURN] + text(index + 100, TURN)
            server = Server(arguments.hypura, model, memory, context, 1, "--prefix-cache", work)
            server.ask(text(999, 8), 1)  # warm up: starts the streaming
            cold, _, _ = server.ask(first)
            cold_times.append(cold)
            rows["second"].append(server.ask(second)[0] / cold)
            rows["edited"].append(server.ask(edited)[0] / cold)
            server.close()
            server = Server(arguments.hypura, model, memory, context, 1, "--prefix-cache", work)
            server.ask(text(999, 8), 1)
            rows["restart"].append(server.ask(second)[0] / cold)
            server.close()
    return statistics.median(cold_times), {name: statistics.median(values) for name, values in rows.items()}


def kept(arguments, model):
    """Returns the bytes of keys and values per token, and of states per sequence."""
    done = subprocess.run([arguments.hypura, "inspect", model, "--json"], capture_output=True, check=True)
    bytes_of = json.loads(done.stdout)["plan"]["kv_cache_bytes"]
    return bytes_of["keys_per_position"], bytes_of["states"]


def together(arguments, model, memory):
    """Sends eight requests with a common beginning. Returns the tokens computed and the memory of keys and values, both as
    multiples of one beginning's. The first request runs alone, so that the others' memory can be told apart. Excludes the
    states of recurrent layers, since each sequence has its own. Counts the GPU's memory if there is one."""
    beginning, computed = text(7, arguments.beginning), []
    server = Server(arguments.hypura, model, memory, arguments.beginning + 2 * TURN + 64, 8)

    def one(number):
        tokens = beginning + text(200 + number, TURN)
        computed.append(len(tokens) - server.ask(tokens)[1])

    def used():
        return server.metrics("kv_gpu_used_bytes")[0] if Server.gpu else server.resident()

    one(0)
    before = used()
    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys, states = kept(arguments, model)
    more = used() - before - (0 if Server.gpu else 7 * states)
    server.close()
    return sum(computed) / arguments.beginning, 1 + more / (arguments.beginning * keys)


def unused(arguments, model, memory):
    """Compares decoding with an unused prefix store to decoding without one. Returns the median ratio of alternating pairs
    and its confidence interval."""
    servers = [Server(arguments.hypura, model, memory, 1024, 1, *options) for options in ((), ("--no-prefixes",))]
    ratios = []
    for index in range(arguments.pairs + 1):
        times = [0, 0]
        for which in ((0, 1), (1, 0))[index % 2]:
            times[which] = servers[which].ask(text(5, 16), arguments.decode)[2]
        ratios.append(times[1] / times[0])
    for server in servers:
        server.close()
    return median_within(ratios[1:])


def median_within(values):
    """Returns the median and its 95 % confidence interval (from the binomial distribution)."""
    values, count, low, below = sorted(values), len(values), 0, 0.5 ** len(values)
    while low < (count - 1) // 2 and below + math.comb(count, low + 1) * 0.5 ** count <= 0.025:
        low += 1
        below += math.comb(count, low) * 0.5 ** count
    return statistics.median(values), values[low], values[-1 - low]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hypura")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--beginning", type=int, default=4000)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=7, help="pairs of answers, one with the store and one without")
    parser.add_argument("--parts", default="shares,together,unused")
    parser.add_argument("--memory", default="0.5")
    parser.add_argument("--work", help="a folder on the drive for the prefix cache")
    parser.add_argument("--gpu", help="the GPU to use; it should hold all layers")
    parser.add_argument("--gpu-memory", default="", help="the memory to use there")
    arguments = parser.parse_args()
    if arguments.gpu:
        Server.gpu = ("--gpu", arguments.gpu, *(("--gpu-memory", arguments.gpu_memory) if arguments.gpu_memory else ()))
    print("| model | memory | cold, s | second turn | last message edited | after a restart | eight with one beginning, computed | in memory "
          "| decoding, unused |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in arguments.models:
        part = float(arguments.memory) if arguments.memory.replace(".", "").isdigit() else 0
        memory = str(int(part * os.path.getsize(model))) if part else arguments.memory
        cells = ["-"] * 7
        if "shares" in arguments.parts:
            cold, rows = shares(arguments, model, memory)
            cells[:4] = f"{cold:.2f}", *(f"{rows[name]:.3f}" for name in ("second", "edited", "restart"))
        if "together" in arguments.parts:
            cells[4:6] = (f"{value:.2f} prefixes" for value in together(arguments, model, memory))
        if "unused" in arguments.parts:
            middle, low, high = unused(arguments, model, memory)
            cells[6] = f"{middle:.3f} ({low:.3f} to {high:.3f}, {arguments.pairs} pairs)"
        print(f"| {os.path.basename(model)} | {int(memory) >> 20 if part else memory}{' MiB' if part else ''} | {' | '.join(cells)} |",
              flush=True)


if __name__ == "__main__":
    main()
