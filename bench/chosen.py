#!/usr/bin/env python3
"""Draws the cost of attention over chosen positions, per token, against the length of the context.

    bench/chosen --threads 1 --json >chosen.json
    bench/chosen.py chosen.json >docs/images/sparse-attention.svg

The lines show milliseconds of one layer on logarithmic axes: the indexer's search alone, the search plus attention over the chosen
positions, and attention over all positions.
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 300, 52, 180, 34, 40
LINES = (("all", "attention over all", lambda row: row["over_all_ms"]),
         ("both", "search, attention over chosen", lambda row: cost(row)),
         ("search", "search alone", lambda row: row["search_ms"] if row["positions"] > row["chosen"] else None))
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 }
.title { font-weight: 600 }
.grid { stroke: #888; stroke-opacity: .25 }
.all { stroke: #c2571a; fill: #c2571a }
.both { stroke: #0b74c4; fill: #0b74c4 }
.search { stroke: #777; fill: #777; stroke-dasharray: 4 3 }
polyline { fill: none !important; stroke-width: 2 }
text.all, text.both, text.search { stroke: none }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .both { stroke: #58b0ff; fill: #58b0ff } .all { stroke: #ff9d5c; fill: #ff9d5c } }
"""


def cost(row):
    """Milliseconds with an indexer. It searches only contexts longer than the number of positions that it chooses."""
    return row["over_all_ms"] if row["positions"] <= row["chosen"] else row["search_ms"] + row["over_choice_ms"]


def draw(rows):
    drawn = [(name, title, [(row["positions"], value(row)) for row in rows if value(row)]) for name, title, value in LINES]
    values = [value for _, _, points in drawn for _, value in points]
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    first, last = rows[0]["positions"], rows[-1]["positions"]

    def x(positions):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(positions / first) / math.log(last / first)

    def y(value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(value / low) / math.log(high / low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
           "<title>Milliseconds of attention per token and layer against positions</title>", f"<style>{STYLE}</style>",
           f'<text class="title" x="{LEFT}" y="18">one token, one layer, milliseconds, by positions</text>']
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = y(10**power)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    for row in rows:
        out.append(f'<text x="{x(row["positions"]):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{row["positions"] // 1024}k</text>')
    last_label = 0
    for name, title, points in drawn:
        last_label = max(y(points[-1][1]) + 4, last_label + 15)
        out.append(f'<polyline class="{name}" points="{" ".join(f"{x(p):.1f},{y(v):.1f}" for p, v in points)}"/>')
        out.append(f'<text class="{name}" x="{x(points[-1][0]) + 6:.1f}" y="{last_label:.1f}">{title}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.stdout.write(draw(json.load(file)))


if __name__ == "__main__":
    main()
