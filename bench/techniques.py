#!/usr/bin/env python3
"""What each streaming technique gains: runs a model larger than memory with everything on, then with one technique off.

    bench/techniques.py [-f "25 50 75"] [-n TOKENS] [-r ROUNDS] [-v "all prefetch"] [-b] MODEL.gguf...

-f: memory in per cent of the file. -v: only these rows (of: all overlap batching policy prefetch state). -b: only runs, without
measuring the limits. HYPURA names the program. Needs root, because each run is in a memory cgroup of that size, with a cold page
cache. Rounds are interleaved. Prints a Markdown table of medians.

Two columns give the speed as a share of a limit that is measured in the same round. "share of either": a token takes as long as its
reads (at the speed of random reads of the experts' size, measured just before and after) or its computation (with all weights in
memory), whichever is longer. "of both at once": reading and computing share the memory's bandwidth, so computation is timed while
random reads run, and the bytes that these reads do not cover are read afterwards at the drive's full speed. The row "state" starts
with the usage that an earlier run over another text recorded. All other rows start with an empty cache.
"""
import getopt
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
HYPURA = os.environ.get("HYPURA", os.path.join(HERE, "../build/hypura"))
TEXT = "The kernel keeps a table of open files for each process. What does it say about the ship, the sea and nine small numbers?"
EARLIER = "A lamp stood by the harbour wall, and the wind went over the stones. Count the pages that the printer wrote."
ROWS = {"all": ("everything on", []), "overlap": ("hits not computed while misses arrive", ["--overlap", "off"]),
        "batching": ("one read in flight", ["--depth", "1"]), "policy": ("cache: LRU", ["--cache-policy", "lru"]),
        "prefetch": ("no prefetches", ["--prefetch", "off"]), "state": ("usage remembered from an earlier run", [])}
WORK = tempfile.TemporaryDirectory(prefix="hypura-bench-")


def cold():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def run(model, memory, tokens, options, text=TEXT, state=False):
    cold()
    stats = os.path.join(WORK.name, "stats")
    command = [HYPURA, "run", model, "--memory", str(memory), "--threads", "2", "--raw", "--prompt", text, "--context", "512",
               "--max-tokens", str(tokens + 1), "--ignore-eos", "--temperature", "0.9", "--seed", "7", "--stats", stats]
    result = subprocess.run([os.path.join(HERE, "in-cgroup"), str(memory), *command, *options, *([] if state else ["--no-state"])],
                            capture_output=True, env={**os.environ, "XDG_STATE_HOME": os.path.join(WORK.name, "state")})
    if result.returncode:
        sys.exit(f"{model}: {result.stderr.decode()[-500:]}")
    with open(stats) as file:
        return json.load(file), result.stdout


def slice_bytes(model):
    """Returns the median size of an expert's slices, at most 1 MiB: the size of a read."""
    tensors = json.loads(subprocess.run([HYPURA, "inspect", model, "--tensors", "--json"], capture_output=True,
                                        check=True).stdout)["tensors"]
    sizes = [tensor["bytes"] for tensor in tensors if tensor["expert"] >= 0]
    return min(max(statistics.median(sizes) // 4096 * 4096, 4096), 1 << 20) if sizes else 1 << 20


def disk(model, block):
    out = subprocess.run([HYPURA, "iobench", model, "--block", str(int(block)), "--depth", "8", "--seconds", "0.4", "--json"],
                         capture_output=True, check=True).stdout
    return json.loads(out)["bytes_per_second"]


def both_at_once(model, size, tokens, block):
    """Returns the drive's speed and the seconds per token while reading and computing run at the same time."""
    stats = os.path.join(WORK.name, "stats")
    process = subprocess.Popen([HYPURA, "run", model, "--memory", str(size), "--threads", "2", "--raw", "--prompt", TEXT,
                                "--context", "512", "--max-tokens", str(tokens), "--ignore-eos", "--no-state", "--stats", stats],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.read(1)
    speeds = []
    while process.poll() is None:
        speeds.append(disk(model, block))
    with open(stats) as file:
        found = json.load(file)
    return statistics.median(speeds[:-1] or speeds), found["decode_seconds"] / found["generated_tokens"]


def compare(model, percent, tokens, rounds, rows):
    """Compares the rows by speed and bytes read, without the limits."""
    memory = os.stat(model).st_size * percent // 100
    found = {row: [] for row in rows}
    if "state" in rows:
        run(model, memory, 40, [], EARLIER, True)
    answers = set()
    for _ in range(rounds):
        for row in rows:
            stats, text = run(model, memory, tokens, ROWS[row][1], state=row == "state")
            answers.add(text)
            seconds = stats["decode_seconds"] / stats["generated_tokens"]
            found[row].append((1 / seconds, stats["decode_bytes_read"] / stats["generated_tokens"] / 1e6,
                               stats["peak_rss_bytes"] / memory))
    assert len(answers) == 1, "the answers differ"
    for row in rows:
        median = [statistics.median(values) for values in zip(*found[row])]
        ratios = sorted(own[0] / base[0] for own, base in zip(found[row], found[rows[0]]))
        print(f"| {os.path.basename(model).removesuffix('.gguf')} | {percent} % | {ROWS[row][0]} | {median[0]:.2f} "
              f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {median[1]:.0f} | {median[2]:.3f} |",
              flush=True)


def measure(model, percent, tokens, rounds, rows):
    size = os.stat(model).st_size
    memory, block = size * percent // 100, slice_bytes(model)
    found = {row: [] for row in rows}
    if "state" in rows:
        run(model, memory, 40, [], EARLIER, True)
    for _ in range(rounds):
        resident, answer = run(model, size * 13 // 10 + (256 << 20), tokens, [])
        compute = resident["decode_seconds"] / resident["generated_tokens"]
        disk_beside, compute_beside = both_at_once(model, size * 13 // 10 + (256 << 20), 2 * tokens, block)
        before = disk(model, block)
        for row in rows:
            stats, text = run(model, memory, tokens, ROWS[row][1], state=row == "state")
            assert text == answer, "the answer differs from the resident run's"
            after = disk(model, block)
            seconds = stats["decode_seconds"] / stats["generated_tokens"]
            needed = stats["decode_bytes_read"] / stats["generated_tokens"]
            speed = (before + after) / 2
            limit = max(needed / speed, compute)
            beside = compute_beside + max(needed - compute_beside * disk_beside, 0) / speed
            hits = stats["expert_hits"] / max(stats["expert_hits"] + stats["expert_misses"], 1)
            found[row].append((1 / seconds, needed / 1e6, limit / seconds, stats["peak_rss_bytes"] / memory, hits,
                               beside / seconds, speed / 1e6, 1000 * compute))
            before = after
    for row in rows:
        median = [statistics.median(values) for values in zip(*found[row])]
        ratio = statistics.median(own[0] / base[0] for own, base in zip(found[row], found[rows[0]]))
        print(f"| {os.path.basename(model).removesuffix('.gguf')} | {percent} % | {ROWS[row][0]} | {median[0]:.2f} | {ratio:.2f} "
              f"| {median[1]:.0f} | {100 * median[4]:.0f} % | {median[2]:.2f} | {median[5]:.2f} | {median[3]:.3f} |", flush=True)
    print(f"<!-- disk {median[6]:.0f} MB/s, {disk_beside / 1e6:.0f} while decoding; a token from memory {median[7]:.1f} ms, "
          f"{1000 * compute_beside:.1f} while reading -->", flush=True)


def main():
    options, models = getopt.getopt(sys.argv[1:], "f:n:r:v:b")
    options = dict(options)
    rows = options.get("-v", "all overlap batching policy prefetch state").split()
    if not models or any(row not in ROWS for row in rows):
        sys.exit(__doc__)
    bare = "-b" in options
    if bare:
        print("| model | memory | | tokens/s | to the first row | MB needed a token | peak / budget |")
        print("|---|---|---|---|---|---|---|")
    else:
        print("| model | memory | | tokens/s | to the first row | MB needed a token | hits | share of either "
              "| of both at once | peak / budget |")
        print("|---|---|---|---|---|---|---|---|---|---|")
    for model in models:
        for percent in options.get("-f", "50").split():
            (compare if bare else measure)(model, int(percent), int(options.get("-n", 32)), int(options.get("-r", 3)), rows)
    WORK.cleanup()


if __name__ == "__main__":
    main()
