#!/usr/bin/env python3
"""What hypura estimate says of a model, next to what comes: the table of docs/estimate.md.

    bench/estimate.py [-m "NAME..."] [-f "25 50 75 all"] [-g] [-n TOKENS] [-p TOKENS] [-t SECONDS] [-d FOLDER] [-k] [-j FILE]

Makes synthetic models of -m (default: one dense, four mixtures of which two are hybrids) in the folder of -d, measures this
machine and its drive, and records each mixture's routing in a run over another text. Then for each share of memory in -f
(per cent of the file; all: enough for all of it) estimate is asked, with that profile and that routing, and the model runs:
-p tokens of a prompt, -n of an answer. -g: all and a quarter of it once more with a GPU for everything, and for half of it. After
-t seconds no new row begins. -k keeps the models. -j: all figures as JSON. HYPURA names the program. As root the page cache is
dropped before each run. Prints a Markdown table, and how many rows are within 15 %.
"""
import getopt
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HYPURA = os.environ.get("HYPURA", os.path.join(HERE, "../build/hypura"))
# Presets with fewer layers: some GB each.
MODELS = {"dense": ["mistral-7b", "--layers", "16"],
          "mixtral": ["mixtral-8x7b", "--layers", "4"],
          "qwen3-moe": ["qwen3-30b-a3b", "--layers", "10"],
          "gpt-oss": ["gpt-oss-20b", "--layers", "8"],
          "nemotron (hybrid)": ["nemotron-3-super", "--layers", "12"],
          "mistral4 (latent)": ["mistral4", "--layers", "4"]}
HALF = 15  # per cent that an estimate may be off
WORDS = ("lamp harbour wind stone page printer kernel table file sea ship number morning river bridge letter glass door winter "
         "engine field road paper house window clock").split()


def hypura(*arguments, **folders):
    done = subprocess.run([HYPURA, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **folders})
    if done.returncode:
        sys.exit(f"{arguments}: {done.stderr[-600:]}")
    return done.stdout


def text(tokens, seed):
    """About so many."""
    source = random.Random(seed)
    return " ".join(source.choice(WORDS) for _ in range(tokens * 3 // 4))


class Bench:
    def __init__(self, folder, options):
        self.folder = folder
        self.tokens, self.prompt = int(options.get("-n", 32)), int(options.get("-p", 256))
        self.deadline = time.time() + float(options.get("-t", 1e9))
        self.folders = {"XDG_CACHE_HOME": os.path.join(folder, "cache"), "XDG_STATE_HOME": os.path.join(folder, "state")}
        self.rows = []

    def cold(self):
        os.sync()
        if os.geteuid() == 0:
            try:
                with open("/proc/sys/vm/drop_caches", "w") as file:
                    file.write("3")
            except OSError:
                pass

    def run(self, model, memory, seed, more):
        stats = os.path.join(self.folder, "stats")
        self.cold()
        hypura("run", model, *memory, "--raw", "--prompt", text(self.prompt, seed), "--context", 1024, "--max-tokens",
               self.tokens + 1, "--ignore-eos", "--temperature", 0.9, "--seed", seed, "--stats", stats, "--no-state", *more,
               **self.folders)
        with open(stats) as file:
            return json.load(file)

    def row(self, name, model, share, memory, gpu, trace, profile):
        if time.time() > self.deadline:
            return
        ask = ["estimate", model, "--memory", memory, "--context", 1024, "--machine", profile, "--json"]
        ask += ["--trace", trace] if trace else []
        ask += gpu[1]
        begin = time.time()
        expected = json.loads(hypura(*ask, **self.folders))["rows"][0]
        took = time.time() - begin
        came = self.run(model, ["--memory", memory], 7, gpu[2])
        # A prompt is as long as it came out, and estimated at 500 tokens: the first, shorter batch is slower.
        row = {"model": name, "memory": share, "gpu": gpu[0], "mode": came["mode"],
               "measured": came["decode_tokens_per_second"], "estimate": expected["decode_tokens_per_second"],
               "prompt_measured": came["prompt_tokens_per_second"], "prompt_estimate": expected["prompt_tokens_per_second"],
               "bytes_measured": came["decode_bytes_read"] / max(came["generated_tokens"], 1),
               "bytes_estimate": expected["bytes_per_token_storage"], "expected_mode": expected["mode"], "took": took}
        self.rows.append(row)
        off = row["estimate"] / row["measured"] - 1
        prompt_off = row["prompt_estimate"] / row["prompt_measured"] - 1
        print(f"| {name} | {share} | {gpu[0]} | {row['mode']} | {row['measured']:.2f} | {row['estimate']:.2f} | {100 * off:+.0f} % "
              f"| {row['prompt_measured']:.0f} | {row['prompt_estimate']:.0f} | {100 * prompt_off:+.0f} % "
              f"| {row['bytes_measured'] / 1e6:.0f} | {row['bytes_estimate'] / 1e6:.0f} |", flush=True)


def synthesise(folder, name, preset):
    path = os.path.join(folder, name.split()[0] + ".gguf")
    if not os.path.exists(path):
        hypura("synth", "--preset", *preset, path, "--no-check")
    return path


def main():
    options, rest = getopt.getopt(sys.argv[1:], "m:f:gn:p:t:d:kj:")
    options = dict(options)
    if rest:
        sys.exit(__doc__)
    names = options["-m"].split() if "-m" in options else list(MODELS)
    wanted = [name for name in MODELS if name.split()[0] in [n.split()[0] for n in names]]
    with tempfile.TemporaryDirectory(prefix="hypura-estimate-") as temporary:
        folder = options.get("-d", temporary)
        bench = Bench(folder, options)
        begin = time.time()
        models = {name: synthesise(folder, name, MODELS[name]) for name in wanted}
        made = time.time() - begin
        largest = max(models.values(), key=os.path.getsize)
        profile = os.path.join(folder, "profile.json")
        machine = hypura("profile", largest, "--force", "--json", *([] if "-g" in options else ["--gpu", "none"]), **bench.folders)
        with open(profile, "w") as file:
            file.write(machine)
        machine = json.loads(machine)
        drive = machine["storage"]
        print(f"{machine['cpu']}, {machine['cores']} cores, memory {machine['memory_bytes_per_second'] / 1e9:.1f} GB/s, kernels "
              f"{machine['compute_bytes_per_second'] / 1e9:.1f} GB/s, drive {drive['bytes_per_second'] / 1e9:.2f} GB/s "
              f"({drive['reading_beside']:.2f} of it beside computing, which keeps {drive['computing_beside']:.2f})"
              + "".join(f", {gpu['name']}" for gpu in machine["gpus"]))
        print(f"(models made in {made:.0f} s, profile after {time.time() - begin:.0f} s)\n")
        print("| model | memory | GPU | mode | tokens/s | estimate | off by | prompt/s | estimate | off by | MB per token from the "
              "drive | estimate |\n|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
        without = [("-", ["--gpu", "none"], ["--gpu", "none"])]
        for name in wanted:
            model, trace = models[name], None
            size = os.path.getsize(model)
            if name != "dense":
                trace = os.path.join(folder, "trace")
                bench.run(model, ["--memory", size + size // 8 + (1 << 29)], 3, ["--gpu", "none", "--trace", trace])
            half = ["--gpu-memory", size // 2]
            gpus = [("all", [], []), ("half", half, half)] if "-g" in options and machine["gpus"] else []
            for kind in without + gpus:
                for share in options.get("-f", "all 75 50 25").split():
                    if kind[0] != "-" and share not in ("all", "25"):
                        continue
                    memory = size + size // 8 + (1 << 29) if share == "all" else size * int(share) // 100
                    bench.row(name, model, share if share == "all" else share + " %", memory, kind, trace, profile)
            if "-k" not in options and "-d" not in options:
                os.remove(model)
        near = sum(abs(row["estimate"] / row["measured"] - 1) <= HALF / 100 for row in bench.rows)
        prompts = sum(abs(row["prompt_estimate"] / row["prompt_measured"] - 1) <= HALF / 100 for row in bench.rows)
        if bench.rows:
            off = [abs(row["estimate"] / row["measured"] - 1) for row in bench.rows]
            print(f"\n{near} of {len(bench.rows)} answers and {prompts} prompts are within {HALF} %; the median is off by "
                  f"{100 * statistics.median(off):.0f} %. {time.time() - begin:.0f} s in all.")
        if "-j" in options:
            with open(options["-j"], "w") as file:
                json.dump({"machine": {k: v for k, v in machine.items() if k != "storage"}, "rows": bench.rows}, file, indent=1)


if __name__ == "__main__":
    main()
