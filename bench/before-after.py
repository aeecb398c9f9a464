#!/usr/bin/env python3
"""Two builds of hypura next to each other: is any row of the new one slower?

    bench/before-after.py [-r ROUNDS] [-s SECONDS] [-t THREADS] [-g GPU] [-w ROW]... [-n TOKENS] [-o FILE.json] OLD NEW [MODEL.gguf]

OLD and NEW are programs. The rows: a small model (the embedded one, or MODEL), which shows the work around the kernels, with one
sequence and with eight at once; a dense model and a mixture in memory; and each of these with memory for a half and a quarter of
its bytes. -g: measures rows on a GPU instead, for F16, Q8_0, Q4_K and a mixture. -w: measures only rows whose name begins with ROW.
-n: tokens to decode in rows that stream. Rounds are interleaved, and the order of the two programs alternates (default: 3 rounds).
No row begins after -s seconds (default: 300). Prints a Markdown table with the medians and the ratio of new to old; -o writes all
samples to FILE.json. NEW makes the models in a temporary folder (at most 10 GB).

NEW measures the drive once, and both programs use that profile. It determines the number of reads in flight and the size of the
ring, and two measurements of one drive may differ by more than two builds do.
"""
import getopt
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CPU_MODELS = {"dense": ["--preset", "llama-8b", "--layers", "8"], "mixture": ["--preset", "mixtral-8x7b", "--layers", "4"]}
GPU_MODELS = {"F16": ["--preset", "llama-8b", "--layers", "6", "--type", "F16"],
              "Q8_0": ["--preset", "llama-8b", "--layers", "12", "--type", "Q8_0"],
              "Q4_K": ["--preset", "llama-8b", "--layers", "16", "--type", "Q4_K"],
              "mixture": ["--preset", "mixtral-8x7b", "--layers", "4"]}


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: {result.stderr[-500:]}")
    return result.stdout


def measure_drive(programs, model, folder):
    """Makes a folder of profiles per program. All profiles get the last program's measurement of the drive."""
    profiles = []
    for number, program in enumerate(programs):
        cache = os.path.join(folder, f"cache-{number}")
        os.environ["XDG_CACHE_HOME"] = cache
        run([program, "profile", "--gpu", "none", "--json", model])
        profiles.append(glob.glob(os.path.join(cache, "hypura", "profile-*.json"))[0])
    with open(profiles[-1], encoding="utf-8") as file:
        drive = json.load(file)["storage"]
    for path in profiles[:-1]:
        with open(path, encoding="utf-8") as file:
            profile = json.load(file)
        profile["storage"] = drive
        with open(path, "w", encoding="utf-8") as file:
            json.dump(profile, file)
    print(f"drive: {drive['bytes_per_second'] / 1e9:.2f} GB/s, {drive['depth']} reads of {drive['block_bytes'] >> 10} KiB", file=sys.stderr)
    return [os.path.dirname(os.path.dirname(path)) for path in profiles]


def rows_of(small, models, gpu, tokens):
    """Returns each row's name, its options for "hypura bench", and the speeds to compare."""
    if gpu is not None:
        return [(name, [path, "--prompt-tokens", "1024", "--gen-tokens", "96"], ("decode", "prompt")) for name, path in models.items()]
    rows = [("small", [small, "--prompt-tokens", "256", "--gen-tokens", "200"], ("decode", "prompt")),
            ("small, eight at once", [small, "--prompt-tokens", "0", "--gen-tokens", "100", "--parallel", "8"], ("decode",))]
    for name, path in models.items():
        size = os.path.getsize(path)
        rows.append((f"{name}, in memory", [path, "--prompt-tokens", "256", "--gen-tokens", "24"], ("decode", "prompt")))
        for part, few in ((2, 8), (4, 6)):
            rows.append((f"{name}, 1/{part} in memory", [path, "--memory", str(size // part), "--prompt-tokens", "64", "--gen-tokens",
                                                        str(tokens or few), "--context", "256"], ("decode", "prompt")))
    return rows


def main():
    options, rest = getopt.getopt(sys.argv[1:], "r:s:t:g:w:n:o:")
    words = tuple(value for name, value in options if name == "-w") or ("",)
    options = dict(options)
    rounds, seconds = int(options.get("-r", "3")), float(options.get("-s", "300"))
    gpu = options.get("-g")
    common = ["--repeat", "1", "--no-state", "--json", "--gpu", gpu or "none"]
    if "-t" in options:
        common += ["--threads", options["-t"]]
    if len(rest) not in (2, 3):
        sys.exit(__doc__)
    old, new = rest[:2]
    small = rest[2] if len(rest) == 3 else os.path.join(HERE, "../models/manpage-moe-24m-Q4_K_M.gguf")
    samples, start = {}, time.monotonic()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        models = {}
        for name, how in (CPU_MODELS if gpu is None else GPU_MODELS).items():
            if not any(word.startswith(name) or name.startswith(word) for word in words):
                continue
            models[name] = os.path.join(folder, name + ".gguf")
            run([new, "synth", *how, "--no-check", models[name]])
        caches = [os.path.join(folder, "cache-old"), os.path.join(folder, "cache-new")]
        if "dense" in models:
            caches = measure_drive((old, new), models["dense"], folder)
        for number in range(rounds):
            for name, how, speeds in rows_of(small, models, gpu, int(options.get("-n", "0"))):
                if not name.startswith(words):
                    continue
                if time.monotonic() - start > seconds:
                    break
                for program in ((old, new), (new, old))[number % 2]:
                    os.environ["XDG_CACHE_HOME"] = caches[program == new]
                    found = json.loads(run([program, "bench", *how, *common]))
                    for speed in speeds:
                        pair = samples.setdefault(f"{name}: {speed}", {"old": [], "new": []})
                        pair["new" if program == new else "old"].append(found[speed + "_tokens_per_second"])
    print("| row | old, tokens/s | new, tokens/s | new / old | rounds |\n|---|---|---|---|---|")
    for name, pair in samples.items():
        middle = {which: statistics.median(values) for which, values in pair.items()}
        # Take the ratio per round, because the machine's other load changes between rounds.
        ratio = statistics.median(b / a for a, b in zip(pair["old"], pair["new"]))
        print(f"| {name} | {middle['old']:.4g} | {middle['new']:.4g} | {ratio:.3f} | {len(pair['new'])} |")
    if "-o" in options:
        with open(options["-o"], "w", encoding="utf-8") as file:
            json.dump(samples, file, indent=1)


if __name__ == "__main__":
    main()
