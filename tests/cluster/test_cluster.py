#!/usr/bin/env python3
"""Several ranks of hypura under mpirun give the same answer, and end properly. Prints TAP.

    test_cluster.py HYPURA SOURCE_FOLDER MPI [long]

MPI: 1 if the program was built with MPI.
"""
import array
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HYPURA, SOURCE, BUILT, LONG = sys.argv[1], sys.argv[2], sys.argv[3] == "1", "long" in sys.argv[4:]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests

WORK = tempfile.TemporaryDirectory(prefix="hypura-cluster-test-")
EMBEDDED = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
MPIRUN = shutil.which("mpirun")
# Open MPI wants root to confirm twice.
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "HYPURA_GPU": "none", "HYPURA_HOSTS": "all",
               "XDG_CACHE_HOME": os.path.join(WORK.name, "cache"), "XDG_STATE_HOME": os.path.join(WORK.name, "state")}
WITHIN = 15  # seconds from a rank's end to the end of all


def path(name):
    return os.path.join(WORK.name, name)


def missing():
    """Returns why the tests cannot run, or None."""
    if not MPIRUN:
        return "mpirun is missing"
    if b"Open MPI" not in subprocess.run([MPIRUN, "--version"], capture_output=True).stdout:
        return "mpirun is not from Open MPI"
    return None if BUILT else "this build has no MPI"


# Each rank writes its status to a file, since mpirun passes on only one.
SCRIPT = 'trap : TERM; "$@"; status=$?; echo $status > "$STATUS.$OMPI_COMM_WORLD_RANK"; exit $status'


def mpirun(ranks, *arguments):
    return [MPIRUN, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), "-x", "STATUS", "sh", "-c", SCRIPT, "sh", *arguments]


def mpirun_each(*commands):
    """One rank per command."""
    line = [MPIRUN, "--oversubscribe", "--bind-to", "none", "-x", "STATUS"]
    for rank, command in enumerate(commands):
        line += ([":"] if rank else []) + ["-n", "1", "sh", "-c", SCRIPT, "sh", *command]
    return line


def text(size):
    with open(os.path.join(SOURCE, "models", "val.txt")) as file:
        return file.read(size)


def answer(ranks, *options):
    with open(path("prompt"), "w") as file:
        file.write(text(3000))
    command = [HYPURA, "run", EMBEDDED, "--raw", "--file", path("prompt"), "--max-tokens", "40", "--ignore-eos", "--context", "2048",
               "--no-state", *options]
    done = subprocess.run(mpirun(ranks, *command) if ranks > 1 else command, capture_output=True, timeout=100 * PATIENCE,
                          stdin=subprocess.DEVNULL, env={**ENVIRONMENT, "STATUS": path("status")})
    assert done.returncode == 0, (ranks, options, done)
    return done.stdout


def several_ranks_answer_like_one():
    if missing():
        return missing()
    alone = answer(1)
    assert len(alone) > 60, alone
    for ranks in (2, 4) if LONG else (2,):
        for options in ([], ["--memory", "48M"], ["--memory", "48M", "--chunk", "32"], ["--threads", "1"]) if LONG else ([],):
            assert answer(ranks, *options) == alone, (ranks, options)
    return None


def every_rank_computes_its_share():
    if missing():
        return missing()
    answer(2, "--stats", path("stats"))
    with open(path("stats")) as file:
        hosts = json.load(file)["hosts"]
    assert [host["rank"] for host in hosts] == [0, 1], hosts
    assert hosts[1]["experts_computed"] > 100 and hosts[1]["bytes_sent"] > 10000 and hosts[1]["bytes_received"] > 10000, hosts
    return None


def links_are_measured_and_planned_with():
    if missing():
        return missing()
    command = [HYPURA, "run", EMBEDDED, "--raw", "--prompt", "ls - list", "--max-tokens", "2", "--context", "256", "--no-state", "--stats",
               path("stats")]
    done = subprocess.run(mpirun(2, *command), capture_output=True, timeout=100 * PATIENCE, stdin=subprocess.DEVNULL,
                          env={**ENVIRONMENT, "STATUS": path("status"), "HYPURA_HOSTS": ""})
    assert done.returncode == 0, done
    with open(path("stats")) as file:
        stats = json.load(file)
    hosts = stats["hosts"]
    assert hosts[0]["link_seconds"] == 0, hosts
    assert 1e-7 < hosts[1]["link_seconds"] < 1 and 1e5 < hosts[1]["link_bytes_per_second"] < 1e12, hosts
    assert stats["hosts_expected_tokens_per_second"] > 0, stats
    return None


def dense_layers_are_computed_elsewhere():
    if missing():
        return missing()
    model = path("dense.gguf")
    subprocess.run([HYPURA, "synth", "--preset", "tiny-dense", "--layers", "8", "--embedding", "512", "--heads", "8", "--kv-heads", "2",
                    "--feed-forward", "2048", "--vocabulary", "2048", "--type", "Q8_0", "--no-check", model], check=True, env=ENVIRONMENT,
                   stdout=subprocess.DEVNULL)

    def run(ranks, hosts, *options):
        command = [HYPURA, "run", model, "--raw", "--prompt", text(600), "--max-tokens", "12", "--ignore-eos", "--context", "1024",
                   "--temperature", "0", "--chunk", "64", "--no-state", "--stats", path("stats"), *options]
        done = subprocess.run(mpirun(ranks, *command) if ranks > 1 else command, capture_output=True, timeout=100 * PATIENCE,
                              stdin=subprocess.DEVNULL, env={**ENVIRONMENT, "STATUS": path("status"), "HYPURA_HOSTS": hosts})
        assert done.returncode == 0, done
        with open(path("stats")) as file:
            return done.stdout, json.load(file)

    alone, _ = run(1, "")
    shared, stats = run(3, "all")
    assert shared == alone and len(alone) > 10, (shared, alone)
    layers = [host["layers"] for host in stats["hosts"]]
    assert sum(layers) == 8 and layers[1] and layers[2], layers
    assert all(host["bytes_received"] > 10000 for host in stats["hosts"][1:]), stats["hosts"]
    # Experts that stream on one host are in memory on two.
    one, little = run(1, "", "--memory", "38M")
    two, both = run(2, "", "--memory", "38M")
    assert one == two == alone
    assert "streaming" in little["mode"] and both["mode"] == "full-resident" and both["hosts"][1]["layers"], (little["mode"], both)
    assert both["hosts_expected_tokens_per_second"] > 0, both


def a_gpu_computes_next_to_other_ranks():
    """A GPU of rank 0, its cores, and the same of another rank compute experts of the same layers. GPUs round in another way."""
    if missing():
        return missing()
    with open(path("text"), "w") as file:
        file.write(text(1500))

    def perplexity(ranks, *options):
        command = [HYPURA, "perplexity", EMBEDDED, path("text"), "--window", "128", "--no-state", "--json", *options]
        done = subprocess.run(mpirun(ranks, *command) if ranks > 1 else command, capture_output=True, timeout=100 * PATIENCE,
                              stdin=subprocess.DEVNULL, env={**ENVIRONMENT, "STATUS": path("status")})
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr.decode()

    room = ("--gpu", "0", "--gpu-memory", "12M")
    exact = perplexity(1)["perplexity"]
    alone = perplexity(1, *room)
    if isinstance(alone, str):
        assert "GPU" in alone or "Vulkan" in alone, alone
        return "no GPU"
    if not alone["gpus"]:
        return "no GPU"
    shared = perplexity(2, *room)
    assert abs(shared["perplexity"] / exact - 1) < 0.02, (shared, exact)
    for options in (["--memory", "48M"], ["--chunk", "32"]) if LONG else ():
        assert abs(perplexity(3, *room, *options)["perplexity"] / exact - 1) < 0.02, options
    assert shared["gpus"][0]["bytes"] > 1 << 20 and shared["hosts"][1]["gpu_experts_computed"] > 100, shared
    assert all(host["experts_computed"] > 100 for host in shared["hosts"]), shared
    return None


def divergence(exact, other, vocabulary):
    """Returns the mean KL divergence of rows of logits."""
    total = 0
    for first in range(0, len(exact), vocabulary):
        rows = [values[first:first + vocabulary] for values in (exact, other)]
        p, q = ([value - most for value in row] for row, most in ((row, max(row)) for row in rows))
        of_p, of_q = (math.log(math.fsum(map(math.exp, row))) for row in (p, q))
        total += sum(math.exp(a - of_p) * (a - of_p - b + of_q) for a, b in zip(p, q))
    return total / (len(exact) // vocabulary)


def a_rank_computes_experts_on_its_gpu():
    """Rank 1 has some of its experts on a GPU, and computes others with its cores at the same time."""
    if missing():
        return missing()
    tokens = [str(token) for token in range(100, 148)]
    logits = [HYPURA, "logits", EMBEDDED, "--tokens", ",".join(tokens), "--context", "256", "--no-state", "--out", path("logits")]
    command = [HYPURA, "run", EMBEDDED, "--raw", "--prompt", text(400), "--max-tokens", "24", "--ignore-eos", "--context", "512", "--no-state",
               "--temperature", "0"]
    with open(path("text"), "w") as file:
        file.write(text(900))
    long = [HYPURA, "perplexity", EMBEDDED, path("text"), "--window", "128", "--no-state", "--json"]
    some = ["--gpu", "0", "--gpu-memory", "3M"]

    def run(line, separate=False):
        environment = {**ENVIRONMENT, "STATUS": path("status"), **({"HYPURA_GPU_SEPARATE": "1"} if separate else {})}
        return subprocess.run(line, capture_output=True, timeout=100 * PATIENCE, stdin=subprocess.DEVNULL, env=environment)

    def computed(line):
        done = run(line)
        assert done.returncode == 0, done
        with open(path("logits"), "rb") as file:
            return array.array("f", file.read())

    def perplexity(line):
        return json.loads(run(line, separate=True).stdout)["perplexity"]

    def counts(options):
        done = run(mpirun_each([*command, "--gpu", "none", "--stats", path("stats")], [*command, *options]))
        assert done.returncode == 0, done
        with open(path("stats")) as file:
            host = json.load(file)["hosts"][1]
        return done.stdout, host["experts_computed"], host["gpu_experts_computed"]

    first = counts(some)
    if first[2] == 0:
        assert run([*command, *some]).stderr.count(b"computing on the CPU"), "a rank did not use its GPU"
        return "no GPU"
    exact = computed([*logits, "--gpu", "none"])
    line = mpirun_each([*logits, "--gpu", "none"], [*logits, *some])
    shared = computed(line)
    assert shared != exact and computed(line) == shared
    assert divergence(exact, shared, len(exact) // len(tokens)) < 3e-2
    exact = perplexity([*long, "--gpu", "none"])  # with more than 8 rows, the GPU uses other kernels
    line = mpirun_each([*long, "--gpu", "none"], [*long, *some])
    shared = perplexity(line)
    assert 0 < abs(shared / exact - 1) < 0.02 and perplexity(line) == shared, (shared, exact)
    second = counts(some)
    assert first == second and 100 < first[2] < first[1] - 100, (first, second)  # experts have moved
    _, all_of_them, there = counts(["--gpu", "0"])
    assert there == all_of_them, (there, all_of_them)
    lost = run(mpirun_each([*command, "--gpu", "none"], ["env", "HYPURA_GPU_FAULT=submit:40", *command, *some]))
    assert lost.returncode == 1 and re.search(rb"hypura: host \S+ \(rank 1 of 2\): GPU: the device was lost", lost.stderr), lost
    return None


def importance_is_the_same_as_on_one_host():
    """Of experts and layers that other ranks compute, too: the same sums to the last bit, whatever the chunks."""
    if missing():
        return missing()
    with open(path("watched"), "w") as file:
        file.write(text(6000))

    def collect(model, ranks, *options):
        command = [HYPURA, "imatrix", "--text", path("watched"), "--window", "256", "--no-state", *options, model, path("imatrix.gguf")]
        done = subprocess.run(mpirun(ranks, *command) if ranks > 1 else command, capture_output=True, timeout=100 * PATIENCE,
                              stdin=subprocess.DEVNULL, env={**ENVIRONMENT, "STATUS": path("status")})
        assert done.returncode == 0 and b"importance for" in done.stdout, (model, ranks, done)
        with open(path("imatrix.gguf"), "rb") as file:
            return file.read()

    dense = path("watched-dense.gguf")
    subprocess.run([HYPURA, "synth", "--preset", "tiny-dense", "--layers", "4", "--vocabulary", "2048", "--type", "Q8_0", "--no-check", dense],
                   check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    for model in (EMBEDDED, dense):
        alone = collect(model, 1)
        assert len(alone) > 30000, len(alone)
        assert collect(model, 3) == alone, model
        assert collect(model, 2, "--chunk", "48") == alone, model
    assert collect(EMBEDDED, 2, "--memory", "26M") == collect(EMBEDDED, 1)
    return None


def ranks_of(process):
    """Returns {rank: process id} of the program's processes under mpirun."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                environment = dict(pair.split(b"=", 1) for pair in file.read().split(b"\0") if b"=" in pair)
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                program = file.read().split(b"\0")[0].decode()
            if program == HYPURA and environment.get(b"STATUS", b"").decode() == process.status:
                found[int(environment[b"OMPI_COMM_WORLD_RANK"])] = int(entry)
        except OSError:
            pass
    return found


def start(ranks, number):
    command = [HYPURA, "run", EMBEDDED, "--raw", "--prompt", text(500), "--max-tokens", "1000000", "--ignore-eos", "--context", "4096",
               "--no-state"]
    status = path(f"status{number}")
    process = subprocess.Popen(mpirun(ranks, *command), stdin=subprocess.DEVNULL, stdout=open(path("output"), "wb"),
                               stderr=open(path("errors"), "wb"), env={**ENVIRONMENT, "STATUS": status})
    process.status = status
    until = time.time() + 20 * PATIENCE
    while os.path.getsize(path("output")) < 100:
        assert process.poll() is None and time.time() < until, open(path("errors")).read()
        time.sleep(0.02)
    found = ranks_of(process)
    assert sorted(found) == list(range(ranks)), found
    return process, found


def ends_well(process, found, victim, began, sentence):
    process.wait(timeout=WITHIN * PATIENCE)
    took = time.time() - began
    with open(path("errors")) as file:
        errors = file.read()
    said = re.findall(r"^hypura: (.*)$", errors, re.M)
    assert len(said) == 1 and re.fullmatch(sentence, said[0]), (said, errors)
    assert process.returncode != 0, errors
    assert took < WITHIN + (0 if PATIENCE == 6 else 30), took
    # All ranks end before mpirun kills the remaining ones. On a very slow machine, mpirun may be first.
    statuses = {rank: open(f"{process.status}.{rank}").read().strip() for rank in found
                if rank != victim and os.path.exists(f"{process.status}.{rank}")}
    assert statuses == dict.fromkeys(set(found) - {victim}, "1") or PATIENCE > 6 and "1" in statuses.values(), (statuses, errors)
    until = time.time() + 2 * PATIENCE
    while ranks_of(process):
        assert time.time() < until, (ranks_of(process), errors)
        time.sleep(0.05)


def a_killed_rank_ends_all_with_one_message():
    if missing():
        return missing()
    for number in range(20 if LONG else 1):
        ranks = 4 if LONG else 3
        process, found = start(ranks, number)
        if LONG:
            time.sleep(random.uniform(0, 3))
        victim = random.randrange(1, ranks)
        began = time.time()
        os.kill(found[victim], signal.SIGKILL)
        ends_well(process, found, victim, began, rf"host \S+ \(rank {victim} of {ranks}\) has ended, and with it the request")
    return None


def a_stalled_rank_ends_all_with_one_message():
    if missing():
        return missing()
    process, found = start(3, "stalled")
    began = time.time()
    os.kill(found[2], signal.SIGSTOP)
    ends_well(process, found, 2, began, r"host \S+ \(rank 2 of 3\) has said nothing for 10 seconds: the request ends")
    return None


def another_rank_reports_a_lost_rank_0():
    if missing():
        return missing()
    process, found = start(3, "first")
    began = time.time()
    os.kill(found[0], signal.SIGKILL)
    ends_well(process, found, 0, began, r"host \S+ \(rank 0 of 3\) has ended, and with it the request")
    return None


def ask(address):
    """Sends a request. Returns (status, body)."""
    request = urllib.request.Request(address + "/api/generate", json.dumps({"model": os.path.basename(EMBEDDED)[:-5], "prompt": "ls",
                                     "stream": False, "options": {"num_predict": 8}}).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20 * PATIENCE) as answered:
            return answered.status, answered.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def a_server_that_lost_a_rank_says_503():
    if missing():
        return missing()
    status = path("status-server")
    process = subprocess.Popen(mpirun(2, HYPURA, "serve", EMBEDDED, "--port", "0", "--no-state"), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=open(path("errors"), "wb"), env={**ENVIRONMENT, "STATUS": status}, text=True)
    process.status = status
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), open(path("errors")).read()
        code, body = ask(address)
        assert code == 200 and json.loads(body)["response"], (code, body)
        os.kill(ranks_of(process)[1], signal.SIGSTOP)
        for _ in range(2):
            code, body = ask(address)
            assert code == 503 and re.search(r"host \S+ \(rank 1 of 2\) has said nothing for 10 seconds", body), (code, body)
    finally:
        process.terminate()
        process.wait(timeout=WITHIN * PATIENCE)
    until = time.time() + 2 * PATIENCE
    while ranks_of(process):
        assert time.time() < until, ranks_of(process)
        time.sleep(0.05)
    return None


def a_rank_serves_from_a_file_of_its_parts():
    if missing():
        return missing()
    model, parts = path("parted.gguf"), path("parted.gguf.parts")
    shutil.copyfile(EMBEDDED, model)
    hosts = {"memory_bytes_per_second": 1e10, "drive_bytes_per_second": 1e8, "link_bits_per_second": 1e12, "link_seconds": 1e-6,
             "hosts": [{"memory": "11M"}, {"name": "box", "memory": "100M"}]}
    with open(path("hosts.json"), "w") as file:
        json.dump(hosts, file)
    subprocess.run([HYPURA, "inspect", model, "--hosts", path("hosts.json"), "--parts", "box=" + parts], check=True, env=ENVIRONMENT,
                   stdout=subprocess.DEVNULL)
    command = [HYPURA, "run", model, "--raw", "--prompt", "ls - list", "--max-tokens", "40", "--ignore-eos", "--context", "256", "--no-state",
               "--stats", path("stats.json")]
    def run(ranks):
        return subprocess.run(mpirun(ranks, *command) if ranks > 1 else command, capture_output=True, timeout=100 * PATIENCE,
                              stdin=subprocess.DEVNULL, env={**ENVIRONMENT, "STATUS": path("status")})
    alone, shared = run(1), run(2)
    assert alone.returncode == 0 and shared.returncode == 0 and alone.stdout == shared.stdout, (alone, shared)
    with open(path("stats.json")) as file:
        assert json.load(file)["hosts"][1]["experts_computed"] > 0
    with open(parts, "rb") as file:
        whole = bytearray(file.read())
    for damage, expected in ((lambda d: d[:len(d) - 100], b"missing at the end"), (lambda d: d[:-200] + bytes([d[-200] ^ 1]) + d[-199:], b"damaged")):
        with open(parts, "wb") as file:
            file.write(damage(whole))
        done = run(2)
        assert done.returncode == 1 and expected in done.stderr, done


def models_that_cannot_be_divided_are_refused():
    if missing():
        return missing()
    done = subprocess.run(mpirun(2, HYPURA, "run", path("nothing.gguf"), "--prompt", "x"), capture_output=True, text=True,
                          timeout=100 * PATIENCE, stdin=subprocess.DEVNULL, env={**ENVIRONMENT, "STATUS": path("status")})
    assert done.returncode != 0 and done.stderr.count("nothing.gguf") == 1, done
    subprocess.run([HYPURA, "synth", "--preset", "tiny-dense", "--no-check", path("tiny.gguf")], check=True, env=ENVIRONMENT,
                   stdout=subprocess.DEVNULL)
    done = subprocess.run(mpirun(2, HYPURA, "run", path("tiny.gguf"), "--prompt", "x", "--gpu", "0"), capture_output=True, text=True,
                          timeout=100 * PATIENCE, stdin=subprocess.DEVNULL, env={**ENVIRONMENT, "STATUS": path("status")})
    assert done.returncode != 0 and done.stderr.count("GPUs cannot be used for dense models with several ranks") == 1, done
    return None


def without_mpi_it_says_so():
    if BUILT:
        return "this build has MPI"
    done = subprocess.run([HYPURA, "run", EMBEDDED, "--prompt", "x"], capture_output=True, text=True,
                          env={**ENVIRONMENT, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"})
    assert done.returncode == 1 and "built without MPI" in done.stderr, done
    return None


QUICK = [several_ranks_answer_like_one, every_rank_computes_its_share, links_are_measured_and_planned_with,
         dense_layers_are_computed_elsewhere, a_gpu_computes_next_to_other_ranks, a_rank_computes_experts_on_its_gpu, importance_is_the_same_as_on_one_host,
         a_killed_rank_ends_all_with_one_message,
         a_rank_serves_from_a_file_of_its_parts, models_that_cannot_be_divided_are_refused, without_mpi_it_says_so]

if __name__ == "__main__":
    sys.exit(1 if run_tests(QUICK + ([a_stalled_rank_ends_all_with_one_message, another_rank_reports_a_lost_rank_0,
                                a_server_that_lost_a_rank_says_503] if LONG else [])) else 0)
