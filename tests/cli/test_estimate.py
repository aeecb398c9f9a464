#!/usr/bin/env python3
"""hypura estimate: the planner's figures from a header alone, for files, URLs and presets, and for this machine and others.
Prints TAP.

    test_estimate.py HYPURA SOURCE_FOLDER
"""
import http.server
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time

HYPURA, SOURCE = sys.argv[1:3]
sys.path += [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "tests", "server")]
import gguf_file
from patience import PATIENCE, is_instrumented
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-estimate-test-")
MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
MIB = 1 << 20
with open(MODEL, "rb") as opened:
    BYTES = opened.read()
# Independent of this machine and of earlier runs.
ENVIRONMENT = {**os.environ, "XDG_CACHE_HOME": WORK.name + "/cache", "XDG_STATE_HOME": WORK.name + "/state", "HYPURA_GPU": "none",
               "TMPDIR": WORK.name + "/tmp"}
os.mkdir(ENVIRONMENT["TMPDIR"])


def hypura(*arguments, status=0):
    done = subprocess.run([HYPURA, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=60 * PATIENCE)
    assert done.returncode == status, (arguments, done.returncode, done.stderr)
    assert not os.listdir(ENVIRONMENT["TMPDIR"]), os.listdir(ENVIRONMENT["TMPDIR"])
    return done.stdout if status == 0 else done.stderr


def estimate(*arguments):
    return json.loads(hypura("estimate", *arguments, "--json"))


def same_rows(here, there):
    """Checks that rows are equal, except for the process's own memory."""
    assert here["bytes"] == there["bytes"] and len(here["rows"]) == len(there["rows"])
    for one, other in zip(here["rows"], there["rows"]):
        for key in one:
            assert one[key] == other[key] or key == "smallest_budget_bytes", (key, one, other)


class Server(http.server.ThreadingHTTPServer):
    """A server with one file per path. It counts the bytes sent of each."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            site, asked = self.server, self.headers.get("Range")
            data = site.files.get(self.path)
            if data is None or site.broken:
                self.send_response(site.broken or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            total, start, end = site.totals.get(self.path, len(data)), 0, len(data)
            if asked and site.ranges:
                first, last = asked[6:].split("-")
                start, end = int(first), min(int(last) + 1, total) if last else total
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            sent = data[start:end] + bytes(max(0, end - max(start, len(data))))
            site.asked.append((self.path, start, end))
            try:
                self.wfile.write(sent)
            except OSError:
                self.close_connection = True

        def log_message(self, *arguments):
            pass

    def __init__(self, ranges=True, broken=0, totals=None, **files):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.files = {"/" + name.replace("__", "-") + ".gguf": data for name, data in files.items()}
        self.totals = {"/" + name + ".gguf": total for name, total in (totals or {}).items()}
        self.ranges, self.broken, self.asked = ranges, broken, []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *arguments):
        self.shutdown()
        self.server_close()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}.gguf"

    def sent(self):
        return sum(end - start for _, start, end in self.asked)


def the_rows_match_the_plan_of_inspect():
    rows = estimate(MODEL, "--memory", "12M,15M", "--context", "512")["rows"]
    for row, memory in zip(rows, ("12M", "15M")):
        plan = json.loads(hypura("inspect", MODEL, "--memory", memory, "--context", "512", "--json"))["plan"]
        assert row["mode"] == plan["mode"] and row["memory_bytes"] == plan["budget_bytes"], (row, plan)
        for key in ("decode_tokens_per_second", "decode_tokens_per_second_even"):
            # The resident code of a process varies by some hundreds of KiB.
            assert abs(row[key] / plan[key] - 1) < 0.15, (key, row[key], plan[key])
        assert row["first_token_seconds_500"] > 0 and row["prompt_tokens_per_second"] > 0, row
    assert rows[0]["bytes_per_token_storage"] > rows[1]["bytes_per_token_storage"], rows


def a_row_reports_too_little_memory():
    rows = estimate("llama-70b", "--machine", "m1-max-32gb", "--memory", "100M,64G")["rows"]
    assert not rows[0]["possible"] and "too small" in rows[0]["why_not"], rows
    assert rows[1]["possible"] and rows[1]["mode"] == "full-resident", rows


def a_preset_of_hundreds_of_gigabytes_needs_no_file_little_memory_and_no_time():
    begin = time.time()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    found = estimate("glm-5", "--type", "Q8_0", "--machine", "m5-max-128gb")
    took, peak = time.time() - begin, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert found["bytes"] > 700e9 and len(found["rows"]) > 3, found["bytes"]
    assert took < PATIENCE, took
    assert is_instrumented() or max(before, peak) < 100 * 1024, peak  # KiB
    speeds = [row["decode_tokens_per_second"] for row in found["rows"] if row["possible"]]
    assert speeds == sorted(speeds) and speeds[0] > 0, speeds


def a_url_costs_only_its_header_and_gives_the_same_figures():
    here = estimate(MODEL, "--machine", "pc-64gb-24gb", "--memory", "64M")
    with Server(model=BYTES, totals={"model": len(BYTES)}) as server:
        there = estimate(server.url("model"), "--machine", "pc-64gb-24gb", "--memory", "64M")
        assert server.sent() < 2 * MIB and there["header_bytes_read"] == server.sent(), server.asked
    same_rows(here, there)


def a_long_header_is_fetched_in_growing_ranges():
    values, tensors = gguf_file.read(MODEL)
    values.append(gguf_file.array_value("test.filler", 5, range(1 << 20)))
    path = WORK.name + "/long.gguf"
    gguf_file.write(path, values, tensors)
    with open(path, "rb") as file:
        long = file.read()
    with Server(model=long) as server:
        there = estimate(server.url("model"), "--machine", "m1-max-32gb", "--memory", "64M")
        ends = [end for _, _, end in server.asked]
        assert len(ends) > 1 and ends == sorted(ends) and server.asked[0][1] == 0, server.asked
        assert all(begin == end for (_, begin, _), end in zip(server.asked[1:], ends)), server.asked
        assert server.sent() < 9 * MIB, server.sent()
    assert [row["decode_tokens_per_second"] for row in there["rows"]] == [
        row["decode_tokens_per_second"] for row in estimate(MODEL, "--machine", "m1-max-32gb", "--memory", "64M")["rows"]]


def a_split_model_is_read_part_by_part():
    paths = gguf_file.split(MODEL, WORK.name, "split", 3)
    files = {}
    for path in paths:
        with open(path, "rb") as file:
            files[os.path.basename(path)[:-5].replace("-", "__")] = file.read()
    here = estimate(paths[0], "--machine", "m1-max-32gb", "--memory", "64M")
    with Server(**files) as server:
        there = estimate(server.url("split-00001-of-00003"), "--machine", "m1-max-32gb", "--memory", "64M")
        assert len({path for path, _, _ in server.asked}) == 3, server.asked
    same_rows(here, there)


def errors_of_a_server_give_one_message():
    def complaint(server, name="model"):
        text = hypura("estimate", server.url(name), "--memory", "64M", status=1)
        assert text.count("\n") == 1, text
        return text
    with Server(ranges=False, model=BYTES) as server:
        assert "range requests" in complaint(server)
    with Server(model=b"<html>" + bytes(4096)) as server:
        assert "not a GGUF file" in complaint(server)
    with Server(model=BYTES[:20000]) as server:
        assert "truncated" in complaint(server)
    with Server(model=BYTES) as server:
        assert "404" in complaint(server, "another")
    with Server(broken=500, model=BYTES) as server:
        assert "500" in complaint(server)
    with Server(model=BYTES[:24] + b"\xff" * 64 + BYTES[88:]) as server:
        text = complaint(server)
        assert "truncated" in text and server.sent() == len(BYTES), (text, server.asked)


# A profile as written by "hypura profile --json".
PROFILE = {"cpu": "a processor", "instructions": "AVX2", "cores": 8, "cache_l1_bytes": 32768, "cache_l2_bytes": 1 << 20,
           "cache_l3_bytes": 1 << 25, "memory_bytes": 16 << 30, "memory_available_bytes": 15 << 30, "cgroup_limit_bytes": None,
           "memory_bytes_per_second": 4e10, "compute_bytes_per_second": 3e10, "multiply_adds_per_second": 1e12,
           "kernels": {"Q4_K": 3e10}, "measured": True, "gpus": [],
           "storage": {"path": ".", "file_system": "ext4", "device": "nvme0n1", "direct_supported": True, "direct_pays": True,
                       "alignment": 512, "block_bytes": 1 << 20, "depth": 8, "bytes_per_second": 3e9, "latency_seconds": 8e-5,
                       "samples": [], "reading_beside": 1.0, "computing_beside": 1.0}}


def a_machine_may_be_a_profile_from_elsewhere():
    path = WORK.name + "/machine.json"

    def write(content):
        with open(path, "w") as file:
            file.write(content)
    write(json.dumps(PROFILE))
    found = estimate("llama-8b", "--memory", "3G", "--machine", path)
    quick = found["rows"][0]
    assert found["machine"]["cpu"] == "a processor" and quick["bound"] == "disk", found
    # The drive has to read what is not in memory, and everything else is faster.
    floor = 3e9 / quick["bytes_per_token_storage"]
    assert 0.8 * floor < quick["decode_tokens_per_second"] <= floor, (floor, quick)
    write(json.dumps({**PROFILE, "storage": {**PROFILE["storage"], "bytes_per_second": 3e7}}))
    slow = estimate("llama-8b", "--memory", "3G", "--machine", path)["rows"][0]
    assert abs(slow["decode_tokens_per_second"] / quick["decode_tokens_per_second"] * 100 - 1) < 0.2, (slow, quick)
    write(json.dumps({**PROFILE, "multiply_adds_per_second": 1e11}))
    weak = estimate("llama-8b", "--memory", "3G", "--machine", path)["rows"][0]
    assert weak["first_token_seconds_500"] > 2 * quick["first_token_seconds_500"], (weak, quick)
    assert weak["first_token_seconds_500"] >= 500 * 6.5e9 / 1e11 and weak["decode_tokens_per_second"] > 0.9 * quick["decode_tokens_per_second"]
    for wrong, said in (("{", "not JSON"), ("{}", "not a complete profile"), (json.dumps({**PROFILE, "cores": 0}), "not a complete profile")):
        write(wrong)
        assert said in hypura("estimate", MODEL, "--machine", path, status=1)
    assert "neither a machine" in hypura("estimate", MODEL, "--machine", "abacus", status=2)


def memory_of_a_driver_is_not_for_weights():
    path = WORK.name + "/with-gpu.json"
    gpu = {"name": "a card", "kind": "discrete", "memory_bytes": 4 << 30, "max_allocation_bytes": 4 << 30, "cooperative_matrix": True,
           "memory_bytes_per_second": 1e12, "upload_bytes_per_second": 1e10, "turn_seconds": 2e-5, "layer_seconds": 2e-5,
           "float_layer_seconds": 2e-5, "router_seconds": 2e-5, "share_seconds": 4e-5, "multiply_adds_per_second": 1e13,
           "kernels": {"Q4_K": 1e12}}

    def of_drive(held):
        with open(path, "w") as file:
            json.dump({**PROFILE, "gpus": [{**gpu, **held}]}, file)
        row = estimate("mixtral-8x7b", "--machine", path, "--memory", "12G", "--context", "2048")["rows"][0]
        return row["bytes_gpu"], row["bytes_memory"]
    there, before = of_drive({})
    if there == 0:
        return "this build has no GPU tier"
    assert abs(before - of_drive({"host_bytes": 700 * MIB})[1] - 700 * MIB) < 40 * MIB, (before, of_drive({"host_bytes": 700 * MIB}))


def optimize_is_recommended_if_it_helps():
    path = WORK.name + "/slow.json"

    def row(storage, model, memory, **more):
        with open(path, "w") as file:
            json.dump({**PROFILE, **more, "storage": {**PROFILE["storage"], **storage}}, file)
        found = estimate(model, "--machine", path, "--memory", memory, "--context", "256")["rows"][0]
        assert found["optimize_worth_it"] == (found["optimize_faster"] >= 0.05), found
        return found, "hypura optimize" in hypura("estimate", model, "--machine", path, "--memory", memory, "--context", "256")
    few = {"latency_seconds": 5e-4, "bytes_per_second": 1e8,  # 2,000 small reads per second
           "samples": [{"block_bytes": 4096 << i, "depth": depth, "direct": True, "sequential": False,
                        "bytes_per_second": min(1e8, 2000.0 * (4096 << i))} for i in range(9) for depth in (1, 4, 16, 64)]}
    found, said = row(few, MODEL, "10M")
    assert said and 0.05 < found["optimize_faster"] < 1, found
    for storage, model, memory in ((few, "mixtral-8x7b", "8G"), ({}, "mixtral-8x7b", "8G"), (few, MODEL, "200M"), (few, "llama-8b", "4G")):
        found, said = row(storage, model, memory)
        assert not said and found["optimize_faster"] < 0.05, (storage, found)


def every_named_machine_says_where_its_figures_are_from():
    machines = json.loads(hypura("estimate", "--list-machines", "--json"))
    assert {"m1-max-32gb", "m5-pro-24gb", "m5-pro-48gb", "m3-max-48gb", "m5-max-128gb", "pc-64gb-24gb"} <= {m["name"] for m in machines}
    for machine in machines:
        found = estimate("mixtral-8x22b", "--machine", machine["name"], "--memory", "8G,16G")
        assert found["machine"]["source"] == machine["source"] and "Assumed" in machine["source"], machine
        assert found["rows"][0]["decode_tokens_per_second"] < found["rows"][1]["decode_tokens_per_second"], found


def a_gpu_of_another_machine_takes_its_share():
    with_gpu = estimate("llama-8b", "--machine", "pc-64gb-24gb", "--memory", "8G")["rows"][0]
    without = estimate("llama-8b", "--machine", "pc-64gb-24gb", "--memory", "8G", "--gpu", "none")["rows"][0]
    if with_gpu["bytes_gpu"] == 0:
        return "this build has no GPU tier"
    assert with_gpu["bytes_per_token_gpu"] > 4e9 and without["bytes_per_token_gpu"] == 0, (with_gpu, without)
    assert with_gpu["decode_tokens_per_second"] > 3 * without["decode_tokens_per_second"], (with_gpu, without)
    assert with_gpu["first_token_seconds_500"] < without["first_token_seconds_500"], (with_gpu, without)


def only_the_last_token_passes_the_end_of_the_last_layer():
    sys.path.append(os.path.join(SOURCE, "bench"))
    from estimate import write_header
    seconds = []
    for layers in (1, 2):
        path = f"{WORK.name}/{layers}.gguf"
        write_header(path, layers, 2048, 32, 2, 64, 64, 8, 2048, 4096)
        rows = estimate(path, "--machine", "m1-max-32gb", "--memory", "16G", "--context", "1024")["rows"]
        seconds.append(rows[0]["first_token_seconds_500"])
        os.remove(path)
    # The first model's only layer computes experts for one token, and queries, keys and values for all tokens.
    assert seconds[1] > 4 * seconds[0], seconds


def a_trace_replaces_typical_routing():
    trace = WORK.name + "/trace"
    hypura("run", MODEL, "--memory", "64M", "--raw", "--prompt", "The kernel keeps a table", "--max-tokens", "40", "--ignore-eos",
           "--trace", trace, "--context", "256")
    usual = estimate(MODEL, "--memory", "10M", "--context", "256")["rows"][0]
    shown = estimate(MODEL, "--memory", "10M", "--context", "256", "--trace", trace)["rows"][0]
    assert shown["decode_tokens_per_second"] == shown["decode_tokens_per_second_even"], shown
    assert usual["expert_hit_rate"] != shown["expert_hit_rate"] and 0 < shown["expert_hit_rate"] < 1, (usual, shown)
    cache = json.loads(hypura("inspect", MODEL, "--memory", "10M", "--context", "256", "--json"))["plan"]["expert_cache_bytes"]
    replayed = json.loads(hypura("replay", trace, "--memory", str(cache), "--warm", "1", "--json"))["results"][0]
    assert abs(replayed["hit_rate"] - shown["expert_hit_rate"]) < 0.08, (replayed, shown)
    assert "another model" in hypura("estimate", "mixtral-8x7b", "--trace", trace, status=2)


def quantisations_fall_in_size_and_quality_and_one_suits():
    found = estimate("llama-8b", "--machine", "m1-max-32gb", "--memory", "4G", "--quantisations")
    rows = {row["quantisation"]: row for row in found["quantisations"]}
    for larger, smaller in (("Q8_0", "Q6_K"), ("Q6_K", "Q4_K_M"), ("Q4_K_M", "Q2_K")):
        assert rows[larger]["bytes"] > rows[smaller]["bytes"] and rows[larger]["divergence"] < rows[smaller]["divergence"], rows
    assert abs(rows["Q4_K_M"]["bytes"] / found["bytes"] - 1) < 0.02, (rows["Q4_K_M"], found["bytes"])
    assert sum(row["suits"] for row in found["quantisations"]) == 1 and "llama.cpp" in found["quality_source"], found


def the_text_names_the_bound_and_draws_the_rows():
    text = hypura("estimate", "mixtral-8x7b", "--machine", "m1-max-32gb", "--memory", "8G,40G")
    assert "expert-streaming" in text and "full-resident" in text and "disk" in text and "Assumed" in text, text
    assert "tokens/s" in text and ("█" in text or "#" in text), text


sys.exit(run_tests(tests_of(globals(), [hypura, estimate, same_rows, run_tests, tests_of, is_instrumented])))
