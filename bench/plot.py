#!/usr/bin/env python3
"""Draws tokens/s against memory, from the tables that bench/oversize.sh prints.

    bench/plot.py docs/notes/2026-11-22-beyond-memory.md >docs/images/beyond-memory.svg

The file may hold several tables with text between them. A later row replaces an earlier one for the same model and memory. A line
"- MODEL: TITLE" sets the title of a model's panel, which otherwise is the name of its file. Each panel has its own logarithmic
scale and shows hypura and llama.cpp. A cross at the bottom marks a size at which llama.cpp did not run.
"""
import math
import re
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 300, 210  # per panel
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 34, 40
COLUMNS = 3
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 }
.title { font-weight: 600 }
.grid { stroke: #888; stroke-opacity: .25 }
.frame { stroke: #888; fill: none }
.ours { stroke: #0b74c4; fill: #0b74c4 }
.theirs { stroke: #c2571a; fill: #c2571a }
polyline { fill: none !important; stroke-width: 2 }
text.ours, text.theirs, tspan.ours, tspan.theirs { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #ccc }
  .ours { stroke: #58b0ff; fill: #58b0ff }
  .theirs { stroke: #ff9d5c; fill: #ff9d5c }
}
"""


def read(path):
    """Returns {model: {per cent: (hypura, llama.cpp or None)}} and {model: title}."""
    rows, titles = {}, {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            named = re.match(r"- ([^\s:]+): (.+)", line)
            if named:
                titles[named[1]] = named[2].strip()
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            percent = re.fullmatch(r"(\d+) %", cells[1]) if len(cells) > 3 else None
            if not percent:
                continue
            speeds = [float(cell) if re.fullmatch(r"[\d.]+", cell) and float(cell) > 0 else None for cell in cells[2:4]]
            rows.setdefault(cells[0], {})[int(percent[1])] = speeds
    return rows, titles


def steps(low, high):
    """Returns round numbers for a logarithmic axis: 1, 2, 5, 10 ..., or only powers of ten if these are too many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 5) if last - first <= 2 else (1, 3) if last - first <= 3 else (1,)
    return [digit * 10.0**power for power in range(first, last + 1) for digit in digits]


def panel(title, rows):
    values = [value for pair in rows.values() for value in pair if value]
    ticks = steps(min(values), max(values))
    low = max([tick for tick in ticks if tick <= min(values)], default=min(values))
    high = min([tick for tick in ticks if tick >= max(values)], default=max(values))
    most = max(150, *rows)

    def x(percent):
        return LEFT + (WIDTH - LEFT - RIGHT) * percent / most

    def y(value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(value / low) / math.log(high / low)

    out = [f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>']
    for tick in ticks:
        if low <= tick <= high:
            out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
            out.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in range(0, most + 1, 50):
        out.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick} %</text>')
    out.append(f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/>')
    for side, name in ((1, "theirs"), (0, "ours")):
        points = [(x(percent), y(rows[percent][side])) for percent in sorted(rows) if rows[percent][side]]
        out.append(f'<polyline class="{name}" points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in points)}"/>')
        out += [f'<circle class="{name}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in points]
        for percent in sorted(rows):
            if not rows[percent][side]:
                out.append(f'<text class="{name}" x="{x(percent):.1f}" y="{HEIGHT - BOTTOM - 4}" text-anchor="middle">×</text>')
    return "\n".join(out)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows, titles = read(sys.argv[1])
    if not rows:
        sys.exit(f"{sys.argv[1]}: no table of bench/oversize.sh found")
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    width, height = columns * WIDTH + RIGHT, lines * HEIGHT + 24
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">')
    print("<title>Tokens per second against memory, hypura and llama.cpp</title>")
    print(f"<style>{STYLE}</style>")
    for number, (model, found) in enumerate(rows.items()):
        print(f'<g transform="translate({number % columns * WIDTH} {number // columns * HEIGHT})">')
        print(panel(titles.get(model, model), found))
        print("</g>")
    print(f'<text x="{LEFT}" y="{height - 10}">tokens/s against memory as per cent of the file: '
          '<tspan class="ours">hypura</tspan>, <tspan class="theirs">llama.cpp (mmap)</tspan></text>')
    print("</svg>")


main()
