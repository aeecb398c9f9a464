#!/usr/bin/env python3
"""gpu_groups.py [FOLDER]: one GPU against several whose layers take turns in groups (HYPURA_GPU_GROUPS).

Prints tokens/s of decoding and of a prompt as medians of interleaved rounds, their ratios to one GPU, and how much each
move of a token's rows to another GPU costs (in microseconds, compared with one GPU). "-" is the planner's own choice. If
--gpus names one GPU twice, as by default, nothing overlaps: decoding shows the price of moves, and the prompt the sum of
the work of both, so that its ratio is 1 / (cost of parts and copies). FOLDER keeps the model."""
import argparse
import json
import os
import statistics
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", nargs="?", default="/tmp/gpu-groups")
parser.add_argument("--hypura", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../build/hypura"))
parser.add_argument("--gpus", default="0,0")
parser.add_argument("--groups", default="1,2,3,4", help="numbers to try (default: %(default)s)")
parser.add_argument("--parts", default="", help="parts of a prompt (default: as the planner chooses)")
parser.add_argument("--preset", default="llama-70b")
parser.add_argument("--type", default="Q4_K")
parser.add_argument("--layers", type=int, default=16)
parser.add_argument("--prompt", type=int, default=2048)
parser.add_argument("--answer", type=int, default=128)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--patience", type=int, default=150, help="seconds that a run may take (default: %(default)s)")
parser.add_argument("--no-profile", action="store_true", help="do not measure the GPU first, which the planner needs")
options = parser.parse_args()

os.makedirs(options.folder, exist_ok=True)
model = os.path.join(options.folder, "%s-%dl-%s.gguf" % (options.preset, options.layers, options.type))
if not os.path.exists(model):
    subprocess.run([options.hypura, "synth", "--preset", options.preset, "--layers", str(options.layers), "--type",
                    options.type, "--no-check", model + ".part"], check=True, stdout=subprocess.DEVNULL)
    os.rename(model + ".part", model)


def environment(groups):
    env = {k: v for k, v in os.environ.items() if k not in ("HYPURA_GPU_GROUPS", "HYPURA_GPU_PARTS")}
    if groups:
        env["HYPURA_GPU_GROUPS"] = str(groups)
    if options.parts:
        env["HYPURA_GPU_PARTS"] = options.parts
    return env


def call(arguments, groups):
    """The program's JSON, or None if it failed."""
    try:
        done = subprocess.run([options.hypura] + arguments, env=environment(groups), timeout=options.patience,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout)
        print("failed: %s" % done.stderr.strip()[-300:], file=sys.stderr)
    except (subprocess.TimeoutExpired, ValueError) as problem:
        print("failed: %s" % problem, file=sys.stderr)
    return None


def moves_of(gpus, groups):
    """How often a token's rows move, by the plan; and the plan in words."""
    shown = call(["inspect", model, "--gpu", gpus, "--no-state", "--json"], groups)
    plan = shown["plan"] if shown else {}
    if not plan.get("gpu"):
        return 0, "nothing on a GPU"
    runs = sum(len(d["layer_ranges"].split(", ")) for d in plan["gpu"]["devices"] if d["layers"])
    return runs - 1, "%s Expected: %.1f tokens/s." % (plan["gpu"]["reason"], plan["decode_tokens_per_second"])


first = options.gpus.split(",")[0]
ways = [(first, 0)] + [(options.gpus, int(g)) for g in options.groups.split(",")] + [(options.gpus, 0)]
if not options.no_profile:
    subprocess.run([options.hypura, "profile", "--gpu", first, options.folder], stderr=subprocess.DEVNULL, check=False)
moves = []
for gpus, groups in ways:
    count, words = moves_of(gpus, groups)
    moves.append(count)
    print("# %s, %s groups: %s" % (gpus, groups or "-", words), flush=True)

decode, prompt = [[] for _ in ways], [[] for _ in ways]
for _ in range(options.rounds):
    for i, (gpus, groups) in enumerate(ways):
        found = call(["bench", model, "--gpu", gpus, "--prompt-tokens", str(options.prompt), "--gen-tokens",
                      str(options.answer), "--repeat", "3", "--no-state", "--json"], groups)
        if found:
            decode[i].append(found["decode_tokens_per_second"])
            prompt[i].append(found["prompt_tokens_per_second"])

print("gpus\tgroups\tmoves\tdecode\tof one\tus a move\tprompt\tof one\tleast\tmost")
for i, (gpus, groups) in enumerate(ways):
    if not decode[i] or not decode[0]:
        print("%s\t%s\t%d\tfailed" % (gpus, groups or "-", moves[i]))
        continue
    one, now = statistics.median(decode[0]), statistics.median(decode[i])
    one_prompt, now_prompt = statistics.median(prompt[0]), statistics.median(prompt[i])
    price = "%.0f" % ((1 / now - 1 / one) * 1e6 / moves[i]) if moves[i] else ""
    print("%s\t%s\t%d\t%.1f\t%.3f\t%s\t%.0f\t%.3f\t%.0f\t%.0f" %
          (gpus, groups or "-", moves[i], now, now / one, price, now_prompt, now_prompt / one_prompt, min(prompt[i]),
           max(prompt[i])))
