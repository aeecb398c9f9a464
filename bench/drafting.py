#!/usr/bin/env python3
"""Is decoding with drafts ever slower than without? Compares the speed of the same answers with and without drafts, for a model that
streams in part.

    drafting.py HYPURA MODEL.gguf... [--memory 0.5] [--tokens 96] [--pairs 1] [--rate 150M] [--block true|random]

Texts: one whose tokens occurred before but continue differently (so drafts look good and are wrong), one that repeats itself
(greedy), one without repeats. --memory: a share of the file's size. --rate: limits the drive to this many bytes per second (by a
control group per server; needs root). --block: turns the last layer of a copy of the model into a prediction block. "random" gives
it random weights, so all of its drafts are wrong. "true" makes its drafts right, by layers that add nothing. Prints a table.
"""
import argparse
import os
import random
import statistics
import struct
import sys

sys.path += [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/server")]
import gguf_file
import prefix


class Group:
    """A control group that limits the bytes per second that its processes read from a file's drive."""

    def __init__(self, name, rate, path):
        device = os.stat(path).st_dev
        block = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        if os.path.exists(block + "/partition"):
            block = os.path.dirname(block)
        with open(block + "/dev") as file:
            number = file.read().strip()
        old = "/sys/fs/cgroup/blkio"
        self.path = os.path.join(old if os.path.isdir(old) else "/sys/fs/cgroup", name)
        os.makedirs(self.path, exist_ok=True)
        if os.path.isdir(old):
            self.set("blkio.throttle.read_bps_device", f"{number} {rate}")
        else:
            self.set("io.max", f"{number} rbps={rate}")

    def set(self, name, value):
        with open(os.path.join(self.path, name), "w") as file:
            file.write(value)

    def close(self):
        os.rmdir(self.path)


def norm_of_ones(width):
    return struct.pack(f"<{width}f", *[1.0] * width)


def add_block(model, path, kind):
    """Writes a copy of the model whose last layer is a prediction block."""
    values, tensors = gguf_file.read(model)
    layers = 1 + max(int(name.split(".")[1]) for name, *_ in tensors if name.startswith("blk."))
    architecture = next(value for value in values if value[8:].startswith(b"general.architecture"))
    name = architecture[8 + len("general.architecture") + 12:].decode()
    width = next(dimensions[0] for tensor, dimensions, *_ in tensors if tensor == "token_embd.weight")
    values = values + [gguf_file.value(f"{name}.nextn_predict_layers", 4, "I", 1)]
    block = f"blk.{layers - 1}.nextn."
    if kind == "true":
        tensors = [(n, d, t, bytes(len(data)) if "attn_output." in n or "ffn_down" in n else data) for n, d, t, data in tensors]
    join = bytearray()
    chosen = random.Random(1)
    for row in range(width):
        if kind == "true":
            numbers = [0.0] * (2 * width)
            numbers[row] = 1.0
        else:
            numbers = [chosen.uniform(-1.5, 1.5) / width ** 0.5 for _ in range(2 * width)]
        join += struct.pack(f"<{2 * width}f", *numbers)
    tensors = tensors + [(block + "enorm.weight", (width,), 0, norm_of_ones(width)), (block + "hnorm.weight", (width,), 0, norm_of_ones(width)),
                         (block + "eh_proj.weight", (2 * width, width), 0, bytes(join))]
    gguf_file.write(path, values, tensors)


def texts():
    """Returns a name, a prompt and sampling options per text."""
    chosen = random.Random(4)
    part, many = [chosen.randrange(3, 250) for _ in range(24)], [chosen.randrange(3, 500) for _ in range(512)]
    return (("continues differently", many, {"temperature": 1, "seed": 7}), ("repeats itself", part * 3, {"temperature": 0}),
            ("without repeats", [3 + i for i in range(72)], {"temperature": 0.7, "seed": 9, "top_k": 3}))


def measure(arguments, model):
    memory = str(int(float(arguments.memory) * os.path.getsize(model)))
    rate = arguments.rate and int(float(arguments.rate.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(arguments.rate[-1], 1))
    servers, groups = [], []
    for number, drafting in enumerate(("off", "auto")):
        server = prefix.Server(arguments.hypura, model, memory, 1024, 1, "--drafting", drafting, "--fill", "off")
        servers.append(server)
        if rate:
            group = Group(f"hypura-drafting-{os.getpid()}-{number}", rate, model)
            group.set("cgroup.procs", str(server.process.pid))
            groups.append(group)
    for server in servers:
        server.ask(prefix.text(999, 8), 8)
    rows = []
    for name, prompt, how in texts():
        ratios, speed, counts = [], [], [[0] * 3, [0] * 3]
        for index in range(arguments.pairs):
            took = [0, 0]
            for which in ((0, 1), (1, 0))[index % 2]:
                before = servers[which].drafts()
                took[which] = servers[which].ask(prompt, arguments.tokens, **how)[2]
                counts[which] = [sum(each) for each in zip(counts[which], servers[which].drafts(), map(int.__neg__, before))]
            ratios.append(took[0] / took[1])
            speed.append(1 / took[0])
        rows.append((name, statistics.median(speed), statistics.median(ratios), min(ratios), *counts[1][:2], counts[1][2] / max(counts[0][2], 1)))
    for server in servers:
        server.close()
    for group in groups:
        group.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hypura")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--memory", default="0.5")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--rate")
    parser.add_argument("--block", choices=("true", "random"))
    arguments = parser.parse_args()
    print("| model | text | tokens/s without | with drafts, over without | least | drafted | came true | bytes read, over without |\n|---|---|---|---|---|---|---|---|")
    for model in arguments.models:
        path = model
        if arguments.block:
            path = f"{model}.{arguments.block}-block.gguf"
            add_block(model, path, arguments.block)
        for name, speed, ratio, least, drafted, accepted, read in measure(arguments, path):
            print(f"| {os.path.basename(path)} | {name} | {speed:.2f} | {ratio:.3f} | {least:.3f} | {drafted} | {accepted} | {read:.3f} |", flush=True)
        if path != model:
            os.unlink(path)


if __name__ == "__main__":
    main()
