#!/usr/bin/env python3
"""The planner's tokens/s against the number of hosts: the tables and the plot of docs/cluster.md.

    bench/hosts.py [-m "PRESET ..."] [-n "1 2 4 ..."] [-f SIZE] [-b SIZE] [-s X] [-o OUT.svg]

Runs "hypura inspect --preset --hosts" for each geometry, number of hosts and link. Only the planner runs, so the figures are the same
on every machine. Prints a Markdown table per model and draws one panel per model in OUT.svg (default: hosts.svg). -m: presets
(default: deepseek-v4-flash glm-5 kimi-k3). -n: numbers of hosts (default: 1 2 4 8 16 32 64). -f: memory that the process may hold on
the first host (default: 120G). -b: the same on each other host (default: 56G). -s: the speed of the first host's memory and cores, as
a multiple of the others' (default: 1). HYPURA names the program (default: ../build/hypura).
"""
import getopt
import json
import math
import os
import subprocess
import sys
import tempfile
from xml.sax.saxutils import escape

HERE = os.path.dirname(os.path.abspath(__file__))
HYPURA = os.environ.get("HYPURA", os.path.join(HERE, "../build/hypura"))
TITLES = {"deepseek-v4-flash": "DeepSeek V4 Flash", "glm-5": "GLM 5", "kimi-k3": "Kimi K3"}

# A machine of 2026 with two channels of DDR5-6000 and one PCIe 4 NVMe drive.
HOST = {"cores": 16, "memory_bytes_per_second": 75e9, "compute_bytes_per_second": 64e9, "drive_bytes_per_second": 7e9}
SPEEDS = ("memory_bytes_per_second", "compute_bytes_per_second")
# Bits per second, and seconds that a short message takes there and back through MPI.
LINKS = [("1 Gbit/s", 1e9, 100e-6), ("10 Gbit/s", 10e9, 50e-6), ("25 Gbit/s", 25e9, 50e-6), ("100 Gbit/s", 100e9, 30e-6)]
BOUNDS = {"first host": "dense", "experts": "experts", "drives": "drives", "links": "links"}
PAYS = 0.95  # share of the best speed from which more hosts no longer pay

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 230, 44, 14, 34, 42
COLOURS = ["#c2571a", "#0b74c4", "#3b8b3b", "#8a4fbf"]
STYLE = "".join(f".l{i} {{ stroke: {c}; fill: {c} }}\n" for i, c in enumerate(COLOURS)) + """
text { font: 12px system-ui, sans-serif; fill: #444 }
.title { font-weight: 600 }
.grid { stroke: #888; stroke-opacity: .25 }
.frame { stroke: #888; fill: none }
polyline { fill: none !important; stroke-width: 2 }
.key text { stroke: none }
@media (prefers-color-scheme: dark) { text { fill: #ccc } }
"""


def plan(preset, count, memory, quicker, bits, seconds):
    hosts = {**HOST, "link_bits_per_second": bits, "link_seconds": seconds, 
             "hosts": [{"memory": memory[0], **{key: HOST[key] * quicker for key in SPEEDS}}]}
    if count > 1:
        hosts["hosts"].append({"count": count - 1, "memory": memory[1]})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(hosts, file)
        file.flush()
        done = subprocess.run([HYPURA, "inspect", "--preset", preset, "--hosts", file.name, "--context", "4096", "--json"],
                              capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{preset}, {count} hosts: {done.stderr.strip()}")
    return json.loads(done.stdout)


def enough(counts, plans):
    """Returns the smallest number of hosts that reaches nearly the best speed."""
    best = max(p["decode_tokens_per_second"] for p in plans)
    return next(c for c, p in zip(counts, plans) if p["decode_tokens_per_second"] >= PAYS * best)


def table(preset, counts, rows):
    first = rows[0][0]
    print(f"**{TITLES.get(preset, preset)}** ({first['bytes'] / 2**30:,.0f} GiB): tokens/s, and the bound\n")
    print("| hosts | " + " | ".join(name for name, _, _ in LINKS) + " |")
    print("|---|" + "---|" * len(LINKS))
    for i, count in enumerate(counts):
        cells = [f"{row[i]['decode_tokens_per_second']:.2f} {BOUNDS[row[i]['bound']]}" +
                 (f" ({row[i]['hosts_used']} used)" if row[i]["hosts_used"] < count else "") for row in rows]
        print(f"| {count} | " + " | ".join(cells) + " |")
    print("| enough | " + " | ".join(str(enough(counts, row)) for row in rows) + " |\n", flush=True)


def panel(title, counts, rows):
    most = max(p["decode_tokens_per_second"] for row in rows for p in row)
    unit = 10 ** math.floor(math.log10(most))
    step = next(s * unit for s in (0.2, 0.5, 1, 2) if most / (s * unit) <= 6)
    top = math.ceil(most / step) * step

    def x(count):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(count / counts[0]) / max(math.log2(counts[-1] / counts[0]), 1)

    def y(value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    out = [f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>']
    for i in range(round(top / step) + 1):
        value = i * step
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for count in counts:
        out.append(f'<text x="{x(count):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{count}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">hosts</text>')
    out.append(f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/>')
    for i, row in enumerate(rows):
        points = [(x(c), y(p["decode_tokens_per_second"])) for c, p in zip(counts, row)]
        out.append(f'<polyline class="l{i}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
        out += [f'<circle class="l{i}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points]
    return "\n".join(out)


def draw(path, counts, models):
    width, height = WIDTH * len(models), HEIGHT + 26
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
                   f'aria-label="Tokens per second against the number of hosts">\n<style>{STYLE}</style>\n')
        for i, (preset, rows) in enumerate(models):
            file.write(f'<g transform="translate({i * WIDTH} 0)">\n{panel(TITLES.get(preset, preset), counts, rows)}\n</g>\n')
        for i, (name, _, _) in enumerate(LINKS):
            file.write(f'<g class="key" transform="translate({LEFT + i * 120} {height - 12})"><line class="l{i}" x1="0" x2="18" y1="-4" '
                       f'y2="-4" stroke-width="2"/><text x="24">{name}</text></g>\n')
        file.write("</svg>\n")


def main():
    presets, counts, memory, out = list(TITLES), [1, 2, 4, 8, 16, 32, 64], ["120G", "56G"], "hosts.svg"
    quicker = 1.0
    try:
        options, rest = getopt.getopt(sys.argv[1:], "m:n:f:b:s:o:h")
    except getopt.GetoptError as problem:
        sys.exit(f"{problem}\n{__doc__}")
    for option, value in options:
        if option == "-h" or rest:
            sys.exit(__doc__)
        presets = value.split() if option == "-m" else presets
        counts = sorted(int(n) for n in value.split()) if option == "-n" else counts
        if option in ("-f", "-b"):
            memory["-f -b".split().index(option)] = value
        quicker = float(value) if option == "-s" else quicker
        out = value if option == "-o" else out
    models = []
    for preset in presets:
        rows = [[plan(preset, count, memory, quicker, bits, seconds) for count in counts] for _, bits, seconds in LINKS]
        table(preset, counts, rows)
        models.append((preset, rows))
    draw(out, counts, models)


if __name__ == "__main__":
    main()
