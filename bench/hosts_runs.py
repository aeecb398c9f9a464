#!/usr/bin/env python3
"""The speed of several ranks on this machine, next to the forecast of "hypura inspect --hosts": decoding and a prompt.

    bench/hosts_runs.py [-n "1 2 3 4"] [-p PERCENT] [-t TOKENS] [-l PROMPT_TOKENS] MODEL

Each rank may hold PERCENT of the model (default: 35) and gets its share of the cores. The hosts' file contains the figures of this
machine's profile, divided by the number of ranks, and the links that the run measured. Run "hypura profile" first. Prints a Markdown
table. HYPURA names the program (default: ../build/hypura). Needs Open MPI's mpirun.
"""
import getopt
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
HYPURA = os.environ.get("HYPURA", os.path.join(HERE, "../build/hypura"))
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "HYPURA_GPU": "none"}
SPEEDS = ("memory_bytes_per_second", "compute_bytes_per_second", "multiply_adds_per_second")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=ENVIRONMENT)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def measure(model, ranks, memory, threads, tokens, prompt, folder):
    stats = os.path.join(folder, "stats.json")
    command = [HYPURA, "run", model, "--raw", "--file", prompt, "--temperature", "0", "--ignore-eos", "--max-tokens", str(tokens), "--context",
               "2048", "--memory", str(memory), "--threads", str(threads), "--no-state", "--stats", stats]
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *command]
    answer = run(command)
    with open(stats) as file:
        return json.load(file), answer


def part_of(machine, ranks):
    """Returns one rank's share of the machine's profile."""
    storage = {**machine["storage"], "bytes_per_second": machine["storage"]["bytes_per_second"] / ranks,
               "samples": [{**s, "bytes_per_second": s["bytes_per_second"] / ranks} for s in machine["storage"]["samples"]]}
    return {**machine, **{key: machine[key] / ranks for key in SPEEDS}, "kernels": {k: v / ranks for k, v in machine["kernels"].items()},
            "storage": storage}


def forecast(model, ranks, memory, machine, links, folder):
    shared = max(link["link_bytes_per_second"] for link in links) * 8 or 1e12
    hosts = [{"name": f"rank{r}", "memory": memory, "profile": part_of(machine, ranks),
              "link_bits_per_second": links[r]["link_bytes_per_second"] * 8 or shared,
              "link_seconds": links[r]["link_seconds"] or 1e-6} for r in range(ranks)]
    path = os.path.join(folder, "hosts.json")
    with open(path, "w") as file:
        json.dump({"hosts": hosts}, file)
    return json.loads(run([HYPURA, "inspect", model, "--hosts", path, "--context", "2048", "--json"]))


def main():
    counts, percent, tokens, length = [1, 2, 3, 4], 35, 48, 512
    try:
        options, rest = getopt.getopt(sys.argv[1:], "n:p:t:l:h")
    except getopt.GetoptError as problem:
        sys.exit(f"{problem}\n{__doc__}")
    for option, value in options:
        if option == "-n":
            counts = [int(n) for n in value.split()]
        percent = int(value) if option == "-p" else percent
        tokens = int(value) if option == "-t" else tokens
        length = int(value) if option == "-l" else length
    if len(rest) != 1:
        sys.exit(__doc__)
    model, cores = rest[0], len(os.sched_getaffinity(0))
    memory = os.path.getsize(model) * percent // 100
    machine = json.loads(run([HYPURA, "profile", "--json", model]))
    answers = set()
    print("| ranks | decode, tokens/s | expected | prompt, tokens/s | expected |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="hypura-hosts-") as folder:
        prompt = os.path.join(folder, "prompt")
        with open(prompt, "w") as file:
            file.write("one two three four " * (length // 4))
        for ranks in counts:
            stats, answer = measure(model, ranks, memory, max(cores // ranks, 1), tokens, prompt, folder)
            answers.add(answer)
            links = stats["hosts"] or [{"link_bytes_per_second": 0, "link_seconds": 0}]
            plan = forecast(model, ranks, memory, machine, links, folder)
            print(f"| {ranks} | {stats['decode_tokens_per_second']:.2f} | {plan['decode_tokens_per_second']:.2f} | "
                  f"{stats['prompt_tokens_per_second']:.1f} | {plan.get('prompt_tokens_per_second', 0):.1f} |", flush=True)
    if len(answers) > 1:
        sys.exit("the answers differ")


if __name__ == "__main__":
    main()
