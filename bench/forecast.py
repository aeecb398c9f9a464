#!/usr/bin/env python3
"""Forecasts of "hypura inspect" next to measurements.

    bench/forecast.py [-f "25 50 75 130"] [-n TOKENS] [-d FOLDER] [-c] MODEL.gguf...

-f: memory in per cent of the file; above 100 means enough for all of it. -d: keeps the state of earlier runs in this folder.
-c: forecasts without an earlier run. HYPURA names the program. Needs root, because each run is in a memory cgroup of that
size, with a cold page cache. For each model, the script makes an earlier run of 60 tokens over another text at 50 %, and a
profile that reads the model's own file. Then, for each share, it runs inspect and the model. It touches the memory before each
run, because a virtual machine's host may be slow to provide it. Prints a Markdown table.
"""
import getopt
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
HYPURA = os.environ.get("HYPURA", os.path.join(HERE, "../build/hypura"))
TEXT = "The kernel keeps a table of open files. What does it say about the ship?"
EARLIER = "A lamp stood by the harbour wall, and the wind went over the stones. Count the pages that the printer wrote."
POPULATE_WRITE = 23


def hypura(arguments, **folders):
    out = subprocess.run([HYPURA, *arguments, "--json", "--gpu", "none"], capture_output=True, check=True,
                         env={**os.environ, **folders})
    return json.loads(out.stdout)


def touch(size):
    memory = mmap.mmap(-1, size)
    memory.madvise(POPULATE_WRITE)
    memory.close()


def run(model, memory, tokens, text, state, cache, work):
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    touch(memory)
    stats = os.path.join(work, "stats")
    result = subprocess.run([os.path.join(HERE, "in-cgroup"), str(memory), HYPURA, "run", model, "--memory", str(memory), "--raw",
                             "--gpu", "none", "--prompt", text, "--context", "512", "--max-tokens", str(tokens), "--ignore-eos",
                             "--temperature", "0.9", "--seed", "7", "--stats", stats],
                            capture_output=True, env={**os.environ, "XDG_STATE_HOME": state, "XDG_CACHE_HOME": cache})
    if result.returncode:
        sys.exit(f"{model}: {result.stderr.decode()[-500:]}")
    with open(stats) as file:
        return json.load(file)


def profile(model, cache):
    found = hypura(["profile", model, "--force"], XDG_CACHE_HOME=cache)
    drive = found["storage"]
    print(f"<!-- drive {drive['bytes_per_second'] / 1e9:.2f} GB/s, {drive['reading_beside']:.2f} of it while computing, which then "
          f"keeps {drive['computing_beside']:.2f} of its own; memory {found['memory_bytes_per_second'] / 1e9:.1f} GB/s, kernels "
          f"{found['compute_bytes_per_second'] / 1e9:.1f} -->", flush=True)


def forecast(model, shares, tokens, states, cold, work):
    name = os.path.basename(model).removesuffix(".gguf")
    cache, known, state = os.path.join(work, "cache"), os.path.join(states, name), os.path.join(work, "state")
    size = os.stat(model).st_size
    if not os.path.exists(known):
        os.makedirs(known)
        if not cold:
            run(model, size // 2, 60, EARLIER, known, cache, work)
    profile(model, cache)
    for share in shares:
        memory = size * share // 100 + ((256 << 20) if share > 100 else 0)
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(known, state)
        plan = hypura(["inspect", model, "--memory", str(memory), "--context", "512"], XDG_CACHE_HOME=cache,
                      XDG_STATE_HOME=known)["plan"]
        found = run(model, memory, tokens, TEXT, state, cache, work)
        expected, came = plan["decode_tokens_per_second"], found["decode_tokens_per_second"]
        read = found["decode_bytes_read"] / found["generated_tokens"] / 1e6
        print(f"| {name} | {f'{share} %' if share <= 100 else 'all'} | {came:.2f} | {expected:.2f} | {100 * (expected / came - 1):.0f} % "
              f"| {read:.0f} | {plan['bytes_read_per_token'] / 1e6:.0f} | {found['share_of_limit']:.2f} "
              f"| {found['share_side_by_side']:.2f} | {found['peak_rss_bytes'] / found['budget_bytes']:.3f} |", flush=True)


def main():
    options, models = getopt.getopt(sys.argv[1:], "f:n:d:c")
    options = dict(options)
    if not models:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="hypura-bench-") as work:
        states = options.get("-d", os.path.join(work, "states"))
        print("| model | memory | tokens/s | expected | off by | MB a token | expected | share of the limit | side by side "
              "| peak / budget |\n|---|---|---|---|---|---|---|---|---|---|", flush=True)
        for model in models:
            forecast(model, [int(share) for share in options.get("-f", "25 50 75 130").split()], int(options.get("-n", 24)),
                     states, "-c" in options, work)


if __name__ == "__main__":
    main()
