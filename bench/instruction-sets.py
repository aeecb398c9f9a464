#!/usr/bin/env python3
"""Kernels for processors without AVX-512, next to llama.cpp's: prompts and decoding by type of weights, with AVX2 only and with AVX-VNNI.

    bench/instruction-sets.py [-i "avx2 avx-vnni"] [-k "Q4_K ..."] [-t THREADS] [-l LAYERS] [-p PROMPT] [-n TOKENS] [-r ROUNDS]
                              [-s SECONDS] [-o FILE.json]

HYPURA_INSTRUCTIONS restricts hypura to a set. To restrict llama.cpp, the script mounts a folder with only one back end (haswell,
alderlake) over llama.cpp's own, in a separate mount namespace; this needs root. For each type it makes a model with Llama 8B's widths,
2 layers and a vocabulary of 16,000 tokens. The programs take turns on the CPU, with the same number of threads (-t; default: all).
Rounds repeat until -r are done (default: 3) or -s seconds have passed (default: 600). Prints a Markdown table of the medians and of
the targets missed: prompts 1.5 times as fast as llama.cpp's, decoding 1.1 times as fast or at 0.95 of plain reading in the same round.
HYPURA and LLAMA_BENCH name the programs (each may be several words), LLAMA_BACKENDS llama.cpp's folder of back ends (default:
/usr/lib/x86_64-linux-gnu/ggml/backends0), HYPURA_SCRATCH the folder for the models (default: the one for temporary files).
"""
import getopt
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HYPURA = os.environ.get("HYPURA", os.path.join(HERE, "../build/hypura")).split()
LLAMA = os.environ.get("LLAMA_BENCH", "llama-bench").split()
BACKENDS = os.path.realpath(os.environ.get("LLAMA_BACKENDS", "/usr/lib/x86_64-linux-gnu/ggml/backends0"))
PEERS = {"avx2": "haswell", "avx-vnni": "alderlake", "avx512": "icelake", "amx": "sapphirerapids"}
TYPES = "Q4_K Q5_K Q6_K Q8_0 Q4_0 IQ4_XS MXFP4 F16"


def run(command, **environment):
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if result.returncode:
        sys.exit(f"{' '.join(command)}: {result.stderr[-500:]}")
    return result.stdout


def hypura(instructions, model, threads, prompt, tokens):
    found = json.loads(run([*HYPURA, "bench", model, "--threads", str(threads), "--prompt-tokens", str(prompt), "--gen-tokens",
                            str(tokens), "--repeat", "1", "--gpu", "none", "--no-state", "--json"], HYPURA_INSTRUCTIONS=instructions))
    return {"prompt": found["prompt_tokens_per_second"], "decode": found["decode_tokens_per_second"],
            "memory": found["share_of_memory_bandwidth"], "bandwidth": found["memory_bytes_per_second"]}


def llama(folder, model, threads, prompt, tokens):
    inside = 'mount --bind "$1" "$2" && cd "$1" && shift 2 && exec "$@"'
    rows = json.loads(run(["unshare", "-m", "sh", "-c", inside, "sh", folder, BACKENDS, *LLAMA, "-m", model, "-t", str(threads), "-p",
                           str(prompt), "-n", str(tokens), "-r", "1", "-o", "json"]))
    return {"decode" if row["n_gen"] else "prompt": row["avg_ts"] for row in rows}


def only(work, name):
    """Makes a folder with a single CPU back end."""
    folder = os.path.join(work, name)
    os.mkdir(folder)
    shutil.copy(os.path.join(BACKENDS, f"libggml-cpu-{name}.so"), folder)
    return folder


def row_of(ours, theirs):
    def middle(samples, key):
        return statistics.median(sample[key] or 0 for sample in samples)

    row = {key: middle(ours, key) for key in ours[0]}
    for kind in ("prompt", "decode"):
        row["llama_" + kind] = middle(theirs, kind)
        ratios = sorted(a[kind] / b[kind] for a, b in zip(ours, theirs))
        row[kind + "_times"], row[kind + "_range"] = statistics.median(ratios), [ratios[0], ratios[-1]]
    row["met"] = {"prompt": row["prompt_times"] >= 1.5, "decode": row["decode_times"] >= 1.1 or row["memory"] >= 0.95}
    return row


def main():
    options, rest = getopt.getopt(sys.argv[1:], "i:k:t:l:p:n:r:s:o:h", ["help"])
    options = dict(options)
    if "-h" in options or "--help" in options or rest:
        sys.exit(__doc__)
    start, seconds = time.monotonic(), float(options.get("-s", 600))
    sets, types = options.get("-i", "avx2 avx-vnni").split(), options.get("-k", TYPES).split()
    threads = int(options.get("-t", len(os.sched_getaffinity(0))))
    prompt, tokens, rounds = int(options.get("-p", 512)), int(options.get("-n", 32)), int(options.get("-r", 3))
    samples = {(name, kind): ([], []) for name in sets for kind in types}
    with tempfile.TemporaryDirectory(prefix="hypura-sets-", dir=os.environ.get("HYPURA_SCRATCH")) as work:
        folders = {name: only(work, PEERS[name]) for name in sets}
        models = {}
        for turn in range(rounds):
            for kind in types:
                if turn and time.monotonic() - start > seconds:
                    break
                if kind not in models:
                    models[kind] = os.path.join(work, kind + ".gguf")
                    run([*HYPURA, "synth", "--preset", "llama-8b", "--layers", options.get("-l", "2"), "--vocabulary", "16000", "--type",
                         kind, "--no-check", models[kind]])
                for name in sets:
                    ours, theirs = samples[name, kind]
                    ours.append(hypura(name, models[kind], threads, prompt, tokens))
                    theirs.append(llama(folders[name], models[kind], threads, prompt, tokens))
                    row = row_of(ours, theirs)
                    print(f"{name} {kind}: prompt {row['prompt_times']:.2f}, decode {row['decode_times']:.2f}", file=sys.stderr, flush=True)
    print(f"{threads} threads, prompt of {prompt}, {tokens} tokens decoded\n")
    print("| set | type | rounds | prompt, tokens/s | llama.cpp | times | decode | llama.cpp | times | of memory | missed |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    found = []
    for (name, kind), (ours, theirs) in samples.items():
        row = {"set": name, "type": kind, "rounds": len(ours), **row_of(ours, theirs)}
        found.append(row)
        print(f"| {name} | {kind} | {row['rounds']} | {row['prompt']:.0f} | {row['llama_prompt']:.0f} | {row['prompt_times']:.2f} "
              f"| {row['decode']:.1f} | {row['llama_decode']:.1f} | {row['decode_times']:.2f} | {row['memory']:.2f} "
              f"| {', '.join(key for key, met in row['met'].items() if not met)} |")
    if "-o" in options:
        with open(options["-o"], "w", encoding="utf-8") as file:
            json.dump({"threads": threads, "prompt_tokens": prompt, "generated_tokens": tokens, "rows": found,
                       "samples": {" ".join(key): value for key, value in samples.items()}}, file, indent=1)


if __name__ == "__main__":
    main()
