#!/usr/bin/env python3
"""hypura bench --compare and hypura plot. Prints TAP.

    test_compare_plot.py HYPURA SOURCE_FOLDER

A small script replaces llama-bench and prints known speeds, so that the ratios are known.
"""
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

HYPURA, SOURCE = os.path.abspath(sys.argv[1]), sys.argv[2]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests, tests_of
sys.path.append(os.path.join(SOURCE, "tests", "server"))
import gguf_file

MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")
SVG = "{http://www.w3.org/2000/svg}"

PEER = """#!/usr/bin/env python3
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open({log!r}, "a") as log:
    log.write(json.dumps(given) + "\\n")
if {fails!r}:
    sys.exit("cannot load that model")
rows = [{{"build_commit": "abc", "build_number": 7, "n_gen": 0, "n_prompt": int(given["-p"]), "avg_ts": 50.0}},
        {{"build_commit": "abc", "build_number": 7, "n_gen": int(given["-n"]), "n_prompt": 0, "avg_ts": 20.0}}]
print(json.dumps([row for row in rows if row["n_gen"] + row["n_prompt"]]))
"""


def path(name):
    return os.path.join(WORK.name, name)


def hypura(*arguments, status=0, environment=None):
    result = subprocess.run([HYPURA, *map(str, arguments)], capture_output=True, timeout=120 * PATIENCE,
                            env={**os.environ, "XDG_CACHE_HOME": path("cache"), "XDG_STATE_HOME": path("state"),
                                 **(environment or {})})
    assert result.returncode == status, (arguments, result.returncode, result.stderr.decode()[-600:])
    return result.stdout.decode(), result.stderr.decode()


def peer(fails=False):
    """Makes a folder with a fake llama-bench for the PATH. Returns it, and the file in which the script logs its arguments."""
    folder = tempfile.mkdtemp(dir=WORK.name)
    log = os.path.join(folder, "log")
    with open(os.path.join(folder, "llama-bench"), "w", encoding="utf-8") as file:
        file.write(PEER.format(log=log, fails=fails))
    os.chmod(os.path.join(folder, "llama-bench"), 0o755)
    return {"PATH": folder + os.pathsep + os.environ["PATH"], "LLAMA_BENCH": ""}, log


SMALL = ("--prompt-tokens", 8, "--gen-tokens", 4, "--gpu", "none")


def both_run_in_turn_and_ratios_are_per_round():
    environment, log = peer()
    out = json.loads(hypura("bench", MODEL, "--compare", "--json", "--repeat", 3, "--threads", 1, "--kv-type", "q8_0",
                            "--context-fill", 16, *SMALL, environment=environment)[0])
    with open(log, encoding="utf-8") as lines:
        calls = [json.loads(line) for line in lines]
    assert len(calls) == 3, calls
    for call in calls:
        assert (call["-m"], call["-t"], call["-p"], call["-n"], call["-d"], call["-ctk"], call["-ngl"], call["-r"]) == \
            (MODEL, "1", "8", "4", "16", "q8_0", "0", "1"), call
    assert out["threads"] == 1 and out["context_fill"] == 16 and out["file"] == MODEL and out["repeat"] == 3, out
    assert out["llama"]["version"] == "7 (abc)" and out["llama"]["decode_tokens_per_second"] == 20, out
    for kind, speed in (("prompt", 50), ("decode", 20)):
        for end in ("", "_least", "_most"):
            assert abs(out[f"{kind}_ratio{end}"] * speed / out[f"{kind}_tokens_per_second{end}"] - 1) < 1e-9, (kind, end)
    text = hypura("bench", MODEL, "--compare", "--repeat", 1, *SMALL, environment=environment)[0]
    assert re.search(r"^prompt +8 tokens +[\d.]+ \(.*\) +50\.00 \(50\.00 to 50\.00\) +[\d.]+$", text, re.M), text


def the_options_of_the_bench_reach_each_round():
    environment, _ = peer()
    out = json.loads(hypura("bench", MODEL, "--compare", "--json", "--repeat", 1, "--memory", "10M", "--context", 128, *SMALL,
                            environment=environment)[0])
    assert out["budget_bytes"] == 10 << 20 and out["mode"] == "expert-streaming", out


def invalid_comparisons_are_refused():
    environment, log = peer()
    for wrong in (["--parallel", 2], ["--stats", path("stats")], ["--prompt-tokens", 0, "--gen-tokens", 0]):
        assert "--compare" in hypura("bench", MODEL, "--compare", *wrong, status=2, environment=environment)[1]
    _, err = hypura("bench", MODEL, "--compare", status=1, environment={"LLAMA_BENCH": path("no such program")})
    assert "install llama.cpp" in err, err
    environment, _ = peer(fails=True)
    _, err = hypura("bench", MODEL, "--compare", "--repeat", 1, *SMALL, status=1, environment=environment)
    assert "exit status 1: cannot load that model" in err, err
    assert not os.path.exists(log)


def models_beyond_the_memory_are_not_compared():
    """A sparse file that is twice as large as the machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    small, large = path("small.gguf"), path("large.gguf")
    hypura("synth", "--preset", "tiny-dense", "--no-check", small)
    values, tensors = gguf_file.read(small)
    width = 1 << 20
    layers = 2 * memory // (3 * 4 * 256 * width) + 1
    numbers = {"llama.feed_forward_length": width, "llama.block_count": layers}
    values = [next((gguf_file.value(key, 4, "I", number) for key, number in numbers.items() if raw[8:].startswith(key.encode())),
                   raw) for raw in values]
    tensors = [tensor for tensor in tensors if not tensor[0].startswith("blk.")] + \
        [(name.replace("blk.0.", f"blk.{layer}."), *rest) for layer in range(layers) for name, *rest in tensors if "blk.0." in name]
    head, offset = b"", 0
    for name, dimensions, kind, data in tensors:
        size = len(data)
        if ".ffn_" in name and "norm" not in name:
            dimensions = tuple(width if number == 768 else number for number in dimensions)
            kind, size = 0, 4 * 256 * width
        head += gguf_file.text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
        offset += (size + 31) // 32 * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values) + head
    head += b"\0" * (-len(head) % 32)
    with open(large, "wb") as file:
        file.write(head)
        try:
            file.truncate(len(head) + offset)
        except OSError as error:
            return f"a sparse file of {offset} bytes cannot be made here: {error}"
    environment, log = peer()
    _, err = hypura("bench", large, "--compare", *SMALL, status=1, environment=environment)
    assert "llama.cpp would need" in err and "bench/oversize.sh" in err, err
    assert not os.path.exists(log)


def run_of(label, **more):
    """Writes a file like that of hypura bench --json."""
    run = {"model": "M", "mode": "full-resident", "budget_bytes": 4 << 30, "bytes_ram": 3 << 30, "bytes_gpu": 0,
           "bytes_storage": 0, "prompt_tokens_per_second": 100.0, "decode_tokens_per_second": 10.0}
    name = path(label + ".json")
    with open(name, "w", encoding="utf-8") as file:
        json.dump({**run, **more}, file)
    return name


def svg_of(*arguments):
    out = path("out.svg")
    hypura("plot", *arguments, out)
    return ElementTree.parse(out).getroot()


def bars(root, side):
    return [float(rect.get("width")) for rect in root.iter(SVG + "rect") if rect.get("class") == side and rect.get("height") != "10"]


def texts(root):
    return [text.text for text in root.iter(SVG + "text")]


def bars_are_as_long_as_speeds_from_zero():
    llama = {"prompt_tokens_per_second": 25.0, "decode_tokens_per_second": 5.0}
    root = svg_of(run_of("one", llama=llama, prompt_ratio=4.0, decode_ratio=2.0),
                  run_of("two", prompt_tokens_per_second=50.0, decode_tokens_per_second=7.5))
    prompt_one, prompt_two, decode_one, decode_two = bars(root, "ours")
    prompt_llama, decode_llama = bars(root, "theirs")
    for longer, shorter, ratio in ((prompt_one, prompt_two, 2), (prompt_one, prompt_llama, 4), (decode_one, decode_llama, 2),
                                   (decode_one, decode_two, 10 / 7.5)):
        assert abs(longer / shorter - ratio) < 0.01, (longer, shorter, ratio)
    zero = {line.get("x1") for line in root.iter(SVG + "line") if line.get("class") == "zero"}
    starts = {float(rect.get("x")) for rect in root.iter(SVG + "rect") if rect.get("class") == "ours" and rect.get("height") != "10"}
    assert {float(x) for x in zero} == starts, (zero, starts)
    words = texts(root)
    for word in ("Reading a prompt, tokens/s", "Decoding, tokens/s", "one", "two", "hypura", "llama.cpp", "0", "100 (4.00 times)"):
        assert word in words, (word, words)
    assert "prefers-color-scheme: dark" in root.find(SVG + "style").text


def three_budgets_of_one_model_make_lines():
    files = [run_of(f"b{gib}", budget_bytes=gib << 30, decode_tokens_per_second=2.0 * gib) for gib in (4, 1, 2)]
    root = svg_of(*files)
    lines = [line for line in root.iter(SVG + "polyline") if "ours" in line.get("class")]
    points = [tuple(map(float, point.split(","))) for point in lines[1].get("points").split()]
    xs, ys = zip(*points)
    assert abs((xs[2] - xs[0]) / (xs[1] - xs[0]) - 3) < 0.02, points  # 1, 2, 4 GiB
    assert abs((ys[0] - ys[2]) / (ys[0] - ys[1]) - 3) < 0.02, points
    assert "memory, GiB" in texts(root) and any(line.get("class") == "mark" for line in root.iter(SVG + "line"))
    assert bars(svg_of("--by", "runs", *files), "ours")


def results_of_the_bench_are_drawn():
    for number, memory in enumerate(("8M", "12M")):
        out, _ = hypura("bench", MODEL, "--json", "--repeat", 2, "--memory", memory, "--context", 128, *SMALL)
        with open(path("real.json"), "a" if number else "w", encoding="utf-8") as file:
            file.write(out)
    root = svg_of(path("real.json"), "--title", "Here & <there>")
    assert len(bars(root, "ours")) == 4 and "real" in texts(root) and "real 2" in texts(root), texts(root)
    assert "Here & <there>" in texts(root)
    out, _ = hypura("plot", path("real.json"), "-")
    assert ElementTree.fromstring(out).tag == SVG + "svg"


def other_files_are_refused():
    good = run_of("good")
    for name, content in (("empty", ""), ("text", "hello"), ("other", "{}"), ("list", '[{"model": 3}]')):
        with open(path(name), "w", encoding="utf-8") as file:
            file.write(content)
        assert path(name) in hypura("plot", path(name), path("x.svg"), status=1)[1]
    assert "speed" in hypura("plot", run_of("negative", decode_tokens_per_second=-1.0), path("x.svg"), status=1)[1]
    assert ".svg" in hypura("plot", good, good, status=2)[1]
    assert "--by" in hypura("plot", "--by", "colour", good, path("x.svg"), status=2)[1]
    assert "one model" in hypura("plot", "--by", "memory", good, run_of("else", model="N"), path("x.svg"), status=2)[1]
    hypura("plot", good, "/nowhere/x.svg", status=1)
    assert not os.path.exists(path("x.svg"))


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [path, hypura, peer, run_of, svg_of, bars, texts]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
