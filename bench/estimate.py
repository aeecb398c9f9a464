#!/usr/bin/env python3
"""Compares what hypura estimate says of a model with what a run shows: the table of docs/estimate.md.

    bench/estimate.py -P
    bench/estimate.py [-m "NAME;..."] [-f "25 50 75 all"] [-g] [-R RUNS] [-r BYTES] [-n TOKENS] [-s SECONDS] [-t SECONDS]
                      [-d FOLDER] [-j FILE]

Makes the synthetic models of -m (default: two dense ones, one of them a hybrid, and four mixtures, one of them a hybrid) in the
folder of -d, measures this machine and its drive, and records each mixture's routing in a run over other tokens. Then each model
runs with each share of memory in -f (per cent of the file; all: enough for all of it). A run has three rounds over different tokens,
of which the median counts: a prompt of 500 tokens, and an answer. A mixture's answer has -n tokens (default: 32), as many as the
recorded ones, because a prompt changes what the cache holds. Such a run knows the recorded uses, as a second run of a model does. A
dense model answers for -s seconds (default: 2), as estimated. The speed of a shared machine changes from minute to
minute, so the drive and the cores are measured before and after each run: the drive with the model's own file, the cores with
weights of 1.5 GB. The estimate uses the mean of both. All rows run one after another, -R times (default: 1); the table has the
medians of the runs and of the estimates.

-g adds larger models with a GPU: one that holds everything, and one that holds half, with memory for all, half and a quarter of
the file. -r limits the drive to so many bytes per second (as root, with control groups of version 1). After -t seconds no new run
begins. -j writes all figures as JSON. HYPURA names the program, KERNELS its kernel benchmark. As root, the page cache is dropped
before each run. Prints a Markdown table and the number of rows that are within 15 %. -P prints a table of figures that other
programs published, for machines that have a name; it runs no model.
"""
import atexit
import getopt
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HYPURA = os.environ.get("HYPURA", os.path.join(HERE, "../build/hypura"))
KERNELS = os.environ.get("KERNELS", os.path.join(HERE, "../build/bench/kernels"))
# Presets with fewer layers, a few GB each.
MODELS = {"dense": ["mistral-7b", "--layers", "8"],
          "delta-net (hybrid)": ["qwen3.5-9b", "--layers", "4"],
          "mixtral": ["mixtral-8x7b", "--layers", "4"],
          "qwen3-moe": ["qwen3-30b-a3b", "--layers", "12"],
          "gpt-oss": ["gpt-oss-20b", "--layers", "4"],
          "nemotron (hybrid)": ["nemotron-3-super", "--layers", "4"]}
# On a GPU a few layers take less time than what each token costs besides: these are whole, or nearly.
GPU_MODELS = {"dense, whole": ["mistral-7b"],
              "delta-net (hybrid), whole": ["qwen3.5-9b"],
              "qwen3-moe, half": ["qwen3-30b-a3b", "--layers", "24"]}
MIXTURES = ("mixtral", "qwen3-moe", "gpt-oss", "nemotron (hybrid)", "qwen3-moe, half")
PROMPT = 500  # which estimate tells the time of
CONTEXT = 1024
HALF = 15  # per cent that an estimate may be off
LEAST_TOKENS, MOST_TOKENS = 8, 96   # of an answer of a dense model
GPU_TOKENS = 256                    # of an answer from a GPU alone
ROUNDS, RECORDED_ROUNDS = 3, 12     # of a run, each over other tokens: the median counts; and of a recorded routing
DRIVE_SECONDS = 0.5
CORES = ["--types", "Q4_K", "--instructions", "avx2,neon", "--tokens", "0", "--size", "1536M", "--rounds", "15", "--json"]

# Model, machine, memory, published tokens/s (least, most), program, source, and what differs from the estimate.
PUBLISHED = [
    (["mixtral-8x7b", "--type", "Q5_K_M"], "m1-max-32gb", "26G", (1.85, 2.2), "Hypura", "t8/hypura benchmarks/results", ""),
    (["llama-70b"], "m1-max-32gb", "26G", (0.25, 0.30), "Hypura", "t8/hypura benchmarks/results",
     "it kept 8 GB in memory"),
    (["mixtral-8x7b", "--type", "Q5_K_M"], "m5-pro-24gb", "19G", (2.74, 2.74), "Hypura", "t8/hypura benchmarks/results", ""),
    (["llama-70b"], "m5-pro-24gb", "19G", (0.32, 0.32), "Hypura", "t8/hypura benchmarks/results", "it kept 8 GB in memory"),
    (["qwen3.5-397b"], "m3-max-48gb", "42G", (4.36, 4.36), "flash-moe", "danveloper/flash-moe README",
     "4 of 512 experts as it runs them; here with plain attention"),
    (["qwen3.5-397b"], "pc-64gb-24gb", "56G", (5.35, 5.35), "flash-moe", "danveloper/flash-moe README", "the same"),
    (["deepseek-v4-flash"], "m5-max-128gb", "96G", (11.9, 19.3), "ds4", "antirez/ds4 SSD_STREAMING.md",
     "on the GPU, which is not counted here"),
    (["deepseek-v4-flash", "--type", "Q2_K"], "m5-pro-48gb", "16G", (11.4, 11.7), "ds4", "antirez/ds4#810", "64 GB, on the GPU"),
    (["qwen3.8-flash-next"], "m5-max-128gb", "35G", (21, 22), "slotstream", "carloslfu/slotstream HARDWARE.md",
     "on the GPU, with drafts"),
    (["qwen3.8-flash-next"], "m5-max-128gb", "48G", (26.9, 26.9), "slotstream", "the same", "the same"),
    (["qwen3.8-flash-next"], "m5-max-128gb", "73G", (31.5, 31.5), "slotstream", "the same", "the same"),
    (["qwen3.8-flash-next"], "m5-pro-48gb", "22G", (15.9, 15.9), "slotstream", "the same", "the same"),
    (["kimi-k3"], "m5-pro-48gb", "42G", (0.62, 0.62), "waste", "sqliteai/waste", "982 GB and a drive of 12.8 GB/s"),
]


def write_header(path, layers, width, heads, kv_heads, head, experts, used, expert_width, vocabulary):
    """Writes the header of a qwen3moe model in Q4_0, in a sparse file of the model's full size."""
    sys.path.append(os.path.join(HERE, "../tests/server"))
    import gguf_file
    import struct
    f32, q4_0 = 0, 2
    value = lambda key, number: gguf_file.value("qwen3moe." + key, 4, "I", number)
    values = [gguf_file.string_value("general.architecture", "qwen3moe"), gguf_file.string_value("general.name", "of that geometry"),
              value("block_count", layers), value("context_length", 32768), value("embedding_length", width),
              value("feed_forward_length", expert_width), value("expert_feed_forward_length", expert_width),
              value("attention.head_count", heads), value("attention.head_count_kv", kv_heads), value("attention.key_length", head),
              value("attention.value_length", head), value("expert_count", experts), value("expert_used_count", used),
              gguf_file.value("qwen3moe.attention.layer_norm_rms_epsilon", 6, "f", 1e-6),
              gguf_file.value("qwen3moe.rope.freq_base", 6, "f", 1e6)]
    tensors = [("token_embd.weight", (width, vocabulary), q4_0), ("output_norm.weight", (width,), f32),
               ("output.weight", (width, vocabulary), q4_0)]
    for layer in range(layers):
        for name, shape, kind in (("attn_norm", (width,), f32), ("ffn_norm", (width,), f32), ("attn_q_norm", (head,), f32),
                                  ("attn_k_norm", (head,), f32), ("attn_q", (width, heads * head), q4_0),
                                  ("attn_k", (width, kv_heads * head), q4_0), ("attn_v", (width, kv_heads * head), q4_0),
                                  ("attn_output", (heads * head, width), q4_0), ("ffn_gate_inp", (width, experts), f32),
                                  ("ffn_gate_exps", (width, expert_width, experts), q4_0),
                                  ("ffn_up_exps", (width, expert_width, experts), q4_0),
                                  ("ffn_down_exps", (expert_width, width, experts), q4_0)):
            tensors.append((f"blk.{layer}.{name}.weight", shape, kind))
    out, offset = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values), 0
    for name, shape, kind in tensors:
        out += gguf_file.text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        elements = 1
        for size in shape:
            elements *= size
        offset += (elements * 4 if kind == f32 else elements // 32 * 18) + 31 & ~31
    with open(path, "wb") as file:
        file.write(out)
        file.truncate((len(out) + 31 & ~31) + offset)


def published():
    print("| model | machine | memory | program | published | estimate | verdict | source | what differs |\n"
          "|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="hypura-estimate-") as folder:
        # Qwen3.5-397B-A17B: 60 layers of 512 experts, of which flash-moe uses 4.
        large = os.path.join(folder, "model.gguf")
        write_header(large, 60, 4096, 32, 2, 256, 512, 4, 1024, 248320)
        for model, machine, memory, (least, most), program, source, note in PUBLISHED:
            name = " ".join([model[0], *model[2:]])
            asked = [large] if model[0] == "qwen3.5-397b" else model
            row = json.loads(hypura("estimate", *asked, "--machine", machine, "--memory", memory, "--json"))["rows"][0]
            low, high = row["decode_tokens_per_second_even"], row["decode_tokens_per_second"]
            if high < least * (1 - HALF / 100):
                verdict = f"lower: {high / least:.2f} times theirs"
            elif low > most * (1 + HALF / 100):
                verdict = f"higher: {low / most:.1f} times theirs"
            else:
                verdict = "agrees"
            both = lambda a, b: f"{a:.2g}" if abs(b / a - 1) < 0.01 else f"{a:.2g} to {b:.2g}"
            print(f"| {name} | {machine} | {memory} | {program} | {both(least, most)} | {both(low, high)} | {verdict} | {source} | {note} |",
                  flush=True)


def hypura(*arguments, **folders):
    return run(HYPURA, *arguments, **folders)


def run(program, *arguments, **folders):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **folders})
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-600:]}")
    return done.stdout


def cores_now():
    """Returns the bytes of weights that all cores go through per second now."""
    return max(line["decode_bytes_per_second"] for line in json.loads(run(KERNELS, *CORES)))


class SlowDrive:
    """Limits the bytes per second that this process and its children read from a drive."""

    def __init__(self, folder, bytes_a_second):
        self.group = f"/sys/fs/cgroup/blkio/hypura-estimate-{os.getpid()}"
        os.mkdir(self.group)
        device = os.stat(folder).st_dev
        with open(os.path.join(self.group, "blkio.throttle.read_bps_device"), "w") as file:
            file.write(f"{os.major(device)}:{os.minor(device)} {bytes_a_second}")
        self.move(self.group)

    @staticmethod
    def move(group):
        with open(os.path.join(group, "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))

    def close(self):
        self.move(os.path.dirname(self.group))
        os.rmdir(self.group)


class Bench:
    def __init__(self, folder, options):
        self.folder = folder
        self.tokens = int(options.get("-n", 32))
        self.seconds = float(options.get("-s", 2))
        self.deadline = time.time() + float(options.get("-t", 1e9))
        self.folders = {"XDG_CACHE_HOME": os.path.join(folder, "cache"), "XDG_STATE_HOME": os.path.join(folder, "state")}

    def cold(self):
        os.sync()
        if os.geteuid() == 0:
            try:
                with open("/proc/sys/vm/drop_caches", "w") as file:
                    file.write("3")
            except OSError:
                pass

    def bench(self, model, memory, tokens, seed, rounds, more, **folders):
        return json.loads(hypura("bench", model, "--memory", memory, "--prompt-tokens", PROMPT, "--gen-tokens", tokens, "--seed", seed,
                                 "--repeat", rounds, "--context", CONTEXT, "--json", *more, **{**self.folders, **folders}))

    def record(self, model, memory, trace):
        """Records the routing of a run over other tokens."""
        self.bench(model, memory, self.tokens, 3, RECORDED_ROUNDS, ["--gpu", "none", "--trace", trace, "--no-state"])

    def run(self, row):
        """Runs a row. The estimate knows from the trace which experts are hot; so does the run, from an earlier one. A run that holds
        all experts in one place would count no uses."""
        if not row.trace or row.gpu == "all" or (row.gpu == "-" and row.share == "all"):
            return self.bench(row.model, row.memory, row.tokens, 0, ROUNDS, ["--no-state", *row.run])
        known = row.trace + ".state"
        if not os.path.exists(known):
            self.bench(row.model, row.memory, GPU_TOKENS, 3, ROUNDS, row.run, XDG_STATE_HOME=known)
        with tempfile.TemporaryDirectory(prefix="hypura-estimate-") as state:
            if os.path.exists(known):
                shutil.copytree(known, state, dirs_exist_ok=True)
            return self.bench(row.model, row.memory, row.tokens, 0, ROUNDS, row.run, XDG_STATE_HOME=state)

    def drive_now(self, model):
        """Returns the drive's current bytes per second, for the model's own file and reads as in the profile."""
        drive = self.machine["storage"]
        self.cold()
        return json.loads(hypura("iobench", model, "--seconds", DRIVE_SECONDS, "--block", drive["block_bytes"], "--depth",
                                 drive["depth"], "--json", **self.folders))["bytes_per_second"]

    def take_profile(self, model, more):
        """Measures this machine, its drive with the model's file, and its cores before and after."""
        before = cores_now()
        machine = hypura("profile", model, "--force", "--json", *more, **self.folders)
        self.cores_of_profile = (before + cores_now()) / 2
        with open(os.path.join(self.folder, "profile.json"), "w") as file:
            file.write(machine)
        self.machine = json.loads(machine)
        return self.machine

    def expected(self, row, drive_speed, cores_speed):
        """Returns the estimate for the profile with a drive and with cores of these speeds."""
        machine = json.loads(json.dumps(self.machine))
        drive = machine["storage"]
        change = drive_speed / drive["bytes_per_second"]
        for sample in [drive, *drive["samples"]]:
            sample["bytes_per_second"] *= change
        change = cores_speed / self.cores_of_profile
        for key in ("memory_bytes_per_second", "compute_bytes_per_second"):
            machine[key] *= change
        for kind in machine["kernels"]:
            machine["kernels"][kind] *= change
        path = os.path.join(self.folder, "profile-now.json")
        with open(path, "w") as file:
            json.dump(machine, file)
        ask = ["estimate", row.model, "--memory", row.memory, "--context", CONTEXT, "--machine", path, "--json"]
        ask += ["--trace", row.trace] if row.trace else []
        return json.loads(hypura(*ask, *row.asked, **self.folders))["rows"][0]

    def measure(self, row):
        """Runs a row once, measures the drive and the cores before and after it, and estimates with the means of the speeds."""
        begin = time.time()
        before, cores = self.drive_now(row.model), cores_now()
        if row.gpu == "all":
            row.tokens = GPU_TOKENS
        if not row.tokens:
            speed = self.expected(row, before, cores)["decode_tokens_per_second"]
            row.tokens = self.tokens if row.trace else min(max(int(speed * self.seconds), LEAST_TOKENS), MOST_TOKENS)
        self.cold()
        came = self.run(row)
        cores = [cores, cores_now()]
        drives = [before, self.drive_now(row.model)]
        row.samples.append({"drives": drives, "cores": cores, "came": came,
                            "expected": self.expected(row, sum(drives) / 2, sum(cores) / 2), "took": time.time() - begin})


class Row:
    """A model with an amount of memory: the options of its estimate and its runs, and their results."""

    def __init__(self, name, model, share, memory, gpu, trace):
        self.name, self.model, self.share, self.memory, self.trace = name, model, share, memory, trace
        self.gpu, self.asked, self.run = gpu
        self.tokens, self.samples = 0, []

    def figures(self):
        """Returns the medians of the runs."""
        median = lambda value: statistics.median(value(sample) for sample in self.samples)
        return {"model": self.name, "memory": self.share, "gpu": self.gpu, "mode": self.samples[0]["came"]["mode"],
                "tokens": self.tokens, "drive": median(lambda s: sum(s["drives"]) / 2),
                "cores": median(lambda s: sum(s["cores"]) / 2), "runs": len(self.samples),
                "measured": median(lambda s: s["came"]["decode_tokens_per_second"]),
                "estimate": median(lambda s: s["expected"]["decode_tokens_per_second"]),
                "prompt_measured": median(lambda s: s["came"]["prompt_tokens_per_second"]),
                "prompt_estimate": median(lambda s: s["expected"]["prompt_tokens_per_second"]),
                "bytes_measured": median(lambda s: s["came"]["decode_bytes_per_token"]),
                "bytes_estimate": median(lambda s: s["expected"]["bytes_per_token_storage"]),
                "bytes": self.memory, "samples": self.samples}


HEADING = ("| model | memory | GPU | mode | tokens/s | estimate | off by | prompt/s | estimate | off by | MB per token from the "
           "drive | estimate | GB/s of the drive | GB/s of the cores |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")


def off(row, kind=""):
    return row[kind + "estimate"] / row[kind + "measured"] - 1


def line(row):
    return (f"| {row['model']} | {row['memory']} | {row['gpu']} | {row['mode']} | {row['measured']:.2f} | {row['estimate']:.2f} "
            f"| {100 * off(row):+.0f} % | {row['prompt_measured']:.0f} | {row['prompt_estimate']:.0f} "
            f"| {100 * off(row, 'prompt_'):+.0f} % | {row['bytes_measured'] / 1e6:.0f} | {row['bytes_estimate'] / 1e6:.0f} "
            f"| {row['drive'] / 1e9:.2f} | {row['cores'] / 1e9:.0f} |")


def synthesise(folder, name, preset):
    path = os.path.join(folder, re.sub("[^a-z0-9.]+", "-", name) + ".gguf")
    if not os.path.exists(path):
        hypura("synth", "--preset", *preset, path, "--no-check")
    return path


def shares_of(kind, options):
    if kind == "all":
        return ["all"]
    return ["all", "50", "25"] if kind == "half" else options.get("-f", "all 75 50 25").split()


def make_rows(bench, models, options):
    """What is to be measured: all models without a GPU, then those with one."""
    rows, traces = [], {}
    for name, model in models.items():
        if name in MIXTURES:
            traces[name] = model.replace(".gguf", ".trace")
            bench.record(model, enough(model), traces[name])
    for name, model in models.items():
        size = os.path.getsize(model)
        half = ["--gpu-memory", size // 2]
        kinds = [("all", [], []), ("half", half, half)] if name in GPU_MODELS else [("-", ["--gpu", "none"], ["--gpu", "none"])]
        for kind in kinds:
            for share in shares_of(kind[0], options):
                memory = enough(model) if share == "all" else size * int(share) // 100
                rows.append(Row(name, model, share if share == "all" else share + " %", memory, kind, traces.get(name)))
    return rows


def enough(model):
    size = os.path.getsize(model)
    return size + size // 8 + (1 << 29)


def main():
    options, rest = getopt.getopt(sys.argv[1:], "m:f:gr:R:n:s:t:d:j:P")
    options = dict(options)
    if rest:
        sys.exit(__doc__)
    if "-P" in options:
        published()
        return
    presets = {**MODELS, **(GPU_MODELS if "-g" in options else {})}
    names = options["-m"].split(";") if "-m" in options else list(presets)
    wanted = [name for name in presets if name in names]
    with tempfile.TemporaryDirectory(prefix="hypura-estimate-") as temporary:
        folder = options.get("-d", temporary)
        bench = Bench(folder, options)
        begin = time.time()
        models = {}
        for name in wanted:
            try:
                models[name] = synthesise(folder, name, presets[name])
            except RuntimeError as problem:
                print(f"<!-- {name}: {problem} -->", flush=True)
        made = time.time() - begin
        if "-r" in options:
            atexit.register(SlowDrive(folder, int(options["-r"])).close)
        largest = max(models.values(), key=os.path.getsize)
        machine = bench.take_profile(largest, [] if "-g" in options else ["--gpu", "none"])
        drive = machine["storage"]
        print(f"{machine['cpu']}, {machine['cores']} cores, memory {machine['memory_bytes_per_second'] / 1e9:.1f} GB/s, kernels "
              f"{machine['compute_bytes_per_second'] / 1e9:.1f} GB/s, drive {drive['bytes_per_second'] / 1e9:.2f} GB/s "
              f"({drive['reading_beside']:.2f} of it while computing, which then keeps {drive['computing_beside']:.2f} of its own)"
              + "".join(f", {gpu['name']}" for gpu in machine["gpus"]))
        print(f"(models made in {made:.0f} s, profile after {time.time() - begin:.0f} s)\n")
        rows = make_rows(bench, models, options)
        for turn in range(int(options.get("-R", 1))):
            for row in rows:
                if time.time() > bench.deadline:
                    break
                try:
                    bench.measure(row)
                except RuntimeError as problem:
                    print(f"<!-- {row.name} {row.share} {row.gpu}: {problem} -->", flush=True)
        figures = [row.figures() for row in rows if row.samples]
        print("\n".join([HEADING, *map(line, figures)]))
        near = sum(abs(off(row)) <= HALF / 100 for row in figures)
        prompts = sum(abs(off(row, "prompt_")) <= HALF / 100 for row in figures)
        if figures:
            median = statistics.median(abs(off(row)) for row in figures)
            print(f"\n{near} of {len(figures)} answers and {prompts} prompts are within {HALF} %; the median is off by "
                  f"{100 * median:.0f} %. {time.time() - begin:.0f} s in all.")
        if "-j" in options:
            with open(options["-j"], "w") as file:
                json.dump({"machine": machine, "rows": figures}, file, indent=1)


if __name__ == "__main__":
    main()
