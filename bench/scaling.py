#!/usr/bin/env python3
"""Tokens/s against threads, next to llama.cpp and the limit of the memory bandwidth.

    bench/scaling.py [-t "1 2 4 8 16"] [-p PROMPT] [-n TOKENS] [-s SECONDS] [-o PREFIX] [MODEL.gguf]

Without a model, the script makes one: 12 layers of Llama 8B in Q4_K. -t: numbers of threads (default: 1, 2, 4 ..., three quarters of
all cores, and all cores). -p: tokens of the prompt (default: 512). -n: tokens decoded (default: 32). -s: no run begins after this many
seconds (default: 330). Rounds repeat while time is left. Writes the medians to PREFIX.json and PREFIX.svg (default: scaling) and
prints a table. HYPURA and SECTIONS name hypura and bench/sections (default: those in ../build). LLAMA_BENCH names llama.cpp's command
(it may be several words); without it, only hypura is measured. Neither program uses a GPU. On processors with two threads per core,
numbers of threads up to the number of cores are measured again with each thread bound to its own core ("spread").
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
HYPURA = os.environ.get("HYPURA", os.path.join(HERE, "../build/hypura"))
SECTIONS = os.environ.get("SECTIONS", os.path.join(HERE, "../build/bench/sections"))
LLAMA = os.environ.get("LLAMA_BENCH", "").split()
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 360, 250, 48, 34, 44
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 }
.title { font-weight: 600 }
.grid { stroke: #888; stroke-opacity: .25 }
.ours { stroke: #0b74c4; fill: #0b74c4 }
.theirs { stroke: #c2571a; fill: #c2571a }
.memory { stroke: #777; stroke-dasharray: 4 3; fill: #777 }
polyline { fill: none !important; stroke-width: 2 }
tspan { stroke: none }
@media (prefers-color-scheme: dark) { text { fill: #ccc } }
"""


def cores():
    """Returns one processor per core, and all processors, that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    first = {}
    for path in glob.glob("/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list"):
        cpu = int(path.split("/")[5][3:])
        if cpu in usable:
            with open(path, encoding="utf-8") as file:
                siblings = file.read().strip()
            first[siblings] = min(cpu, first.get(siblings, cpu))
    return sorted(first.values()) or usable, usable


def call(command, cpus=None):
    result = subprocess.run(command, capture_output=True, text=True,
                            preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: {result.stderr[-500:]}")
    return result.stdout


def hypura(model, threads, prompt, tokens, cpus=None):
    found = json.loads(call([HYPURA, "bench", model, "--threads", str(threads), "--prompt-tokens", str(prompt), "--gen-tokens",
                             str(tokens), "--repeat", "1", "--gpu", "none", "--json"], cpus))
    row = {"decode": found["decode_tokens_per_second"], "prompt": found["prompt_tokens_per_second"],
           "memory_bytes_per_second": found["memory_bytes_per_second"], "share_of_memory": found["share_of_memory_bandwidth"]}
    if row["share_of_memory"]:
        row["bytes_per_token"] = row["share_of_memory"] * row["memory_bytes_per_second"] / row["decode"]
    return row


def llama(model, threads, prompt, tokens):
    rows = json.loads(call([*LLAMA, "-m", model, "-t", str(threads), "-p", str(prompt), "-n", str(tokens), "-r", "1", "-ngl", "0",
                            "-dev", "none", "-o", "json"]))
    return {"decode" if row["n_gen"] else "prompt": row["avg_ts"] for row in rows}


def median(rows, key):
    values = [row[key] for row in rows if row.get(key)]
    return statistics.median(values) if values else None


def panel(title, lines, most_threads):
    top = max(value for _, points in lines for _, value in points) * 1.05

    def x(threads):
        return LEFT + (WIDTH - LEFT - 14) * threads / most_threads

    def y(value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    step = next(step for power in range(-2, 7) for step in (10**power, 2 * 10**power, 5 * 10**power) if top / step <= 6)
    out = [f'<text class="title" x="{LEFT}" y="18">{title}</text>']
    for tick in range(int(top / step) + 1):
        at = y(tick * step)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 14}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick * step:g}</text>')
    for threads in sorted({threads for _, points in lines for threads, _ in points if threads >= most_threads / 8 or threads == 1}):
        out.append(f'<text x="{x(threads):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{threads}</text>')
    for name, points in lines:
        out.append(f'<polyline class="{name}" points="{" ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in points)}"/>')
        if name != "memory":
            out += [f'<circle class="{name}" cx="{x(t):.1f}" cy="{y(v):.1f}" r="3"/>' for t, v in points]
    return "\n".join(out)


def draw(rows):
    most = max(row["threads"] for row in rows)

    def points(key):
        return [(row["threads"], row[key]) for row in sorted(rows, key=lambda row: row["threads"]) if row.get(key)]

    panels = []
    for title, keys in (("decoding, tokens/s", ("memory_limit", "llama_decode", "decode")), ("prompt, tokens/s", ("llama_prompt", "prompt"))):
        lines = [({"memory_limit": "memory"}.get(key, "theirs" if key.startswith("llama") else "ours"), points(key)) for key in keys]
        lines = [line for line in lines if line[1]]
        if lines:
            panels.append(panel(title, lines, most))
    width = WIDTH * len(panels)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" role="img">',
           "<title>Tokens per second against threads</title>", f"<style>{STYLE}</style>"]
    for number, text in enumerate(panels):
        out.append(f'<g transform="translate({number * WIDTH} 0)">{text}</g>')
    out.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">against threads: <tspan class="ours">hypura</tspan>, <tspan class="theirs">llama.cpp'
               "</tspan>, dashed: plain reading of the weights</text></svg>")
    return "\n".join(out) + "\n"


def main():
    options, models = getopt.getopt(sys.argv[1:], "t:p:n:s:o:h", ["help"])
    options = dict(options)
    if "-h" in options or "--help" in options or len(models) > 1:
        sys.exit(__doc__)
    start = time.monotonic()
    seconds, prompt, tokens = float(options.get("-s", 330)), int(options.get("-p", 512)), int(options.get("-n", 32))
    physical, usable = cores()
    counts = {1, len(usable), max(1, len(usable) * 3 // 4), *(2**power for power in range(9) if 2**power < len(usable))}
    counts = sorted((int(n) for n in options["-t"].split()) if "-t" in options else counts, reverse=True)
    found = {n: {"hypura": [], "llama": [], "spread": []} for n in counts}
    sections = []
    with tempfile.TemporaryDirectory(prefix="hypura-scaling-") as work:
        model = models[0] if models else os.path.join(work, "model.gguf")
        if not models:
            call([HYPURA, "synth", "--preset", "llama-8b", "--layers", "12", "--type", "Q4_K", "--no-check", model])
        if os.access(SECTIONS, os.X_OK):
            sections = [json.loads(line) for line in call([SECTIONS, *map(str, counts)]).splitlines()]
        took = {}
        while True:
            begun = False
            for n in counts:
                if time.monotonic() - start + took.get(n, 0) > seconds and found[n]["hypura"]:
                    continue
                begun, before = True, time.monotonic()
                found[n]["hypura"].append(hypura(model, n, prompt, tokens))
                if LLAMA:
                    found[n]["llama"].append(llama(model, n, prompt, tokens))
                if len(physical) < len(usable) and n <= len(physical):
                    found[n]["spread"].append(hypura(model, n, prompt, tokens, physical))
                took[n] = time.monotonic() - before
            if not begun or time.monotonic() - start + min(took.values()) > seconds:
                break
    rows = []
    for n in sorted(counts):
        ours, theirs, spread = found[n]["hypura"], found[n]["llama"], found[n]["spread"]
        row = {"threads": n, "rounds": len(ours), "decode": median(ours, "decode"), "prompt": median(ours, "prompt"),
               "memory_bytes_per_second": median(ours, "memory_bytes_per_second"), "share_of_memory": median(ours, "share_of_memory"),
               "llama_decode": median(theirs, "decode"), "llama_prompt": median(theirs, "prompt"),
               "spread_decode": median(spread, "decode"), "spread_prompt": median(spread, "prompt")}
        if median(ours, "bytes_per_token"):
            row["memory_limit"] = row["memory_bytes_per_second"] / median(ours, "bytes_per_token")
        rows.append(row)
    prefix = options.get("-o", "scaling")
    with open(prefix + ".json", "w", encoding="utf-8") as file:
        json.dump({"cores": len(physical), "processors": len(usable), "prompt_tokens": prompt, "generated_tokens": tokens, "rows": rows,
                   "sections": sections}, file, indent=2)
        file.write("\n")
    with open(prefix + ".svg", "w", encoding="utf-8") as file:
        file.write(draw(rows))
    print(f"{len(physical)} cores, {len(usable)} processors\n")
    print("| threads | decode, tokens/s | GB/s of memory | share of it | llama.cpp | ratio | spread | prompt | llama.cpp | ratio | spread |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")

    def cell(value, form=".1f"):
        return format(value, form) if value else ""

    for row in rows:
        ratios = [row[f"{kind}"] / row[f"llama_{kind}"] if row[f"llama_{kind}"] else None for kind in ("decode", "prompt")]
        print(f"| {row['threads']} | {cell(row['decode'])} | {cell(row['memory_bytes_per_second'] and row['memory_bytes_per_second'] / 1e9)} "
              f"| {cell(row['share_of_memory'], '.2f')} | {cell(row['llama_decode'])} | {cell(ratios[0], '.2f')} "
              f"| {cell(row['spread_decode'])} | {cell(row['prompt'])} | {cell(row['llama_prompt'])} | {cell(ratios[1], '.2f')} "
              f"| {cell(row['spread_prompt'])} |")


if __name__ == "__main__":
    main()
