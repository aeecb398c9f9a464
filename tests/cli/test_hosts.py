#!/usr/bin/env python3
"""hypura inspect --hosts: plans for hosts described in a file. Prints TAP.

    test_hosts.py HYPURA SOURCE_FOLDER
"""
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile

HYPURA, SOURCE = os.path.abspath(sys.argv[1]), sys.argv[2]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-hosts-test-")
FILE = os.path.join(WORK.name, "hosts.json")
HOST = {"memory": "64G", "memory_bytes_per_second": 8e10, "drive_bytes_per_second": 5e9, "link_bits_per_second": 25e9}

TWO = {"memory_bytes_per_second": 1e10, "drive_bytes_per_second": 1e8, "link_bits_per_second": 1e12, "link_seconds": 1e-6,
       "hosts": [{"name": "desk", "memory": "11M"}, {"name": "box", "memory": "100M"}]}
PROFILE = {"cpu": "a processor", "instructions": "AVX2", "cores": 16, "cache_l1_bytes": 49152, "cache_l2_bytes": 2097152,
           "cache_l3_bytes": 33554432, "memory_bytes": 64 << 30, "memory_available_bytes": 60 << 30, "cgroup_limit_bytes": None,
           "memory_bytes_per_second": 7e10, "compute_bytes_per_second": 6e10, "multiply_adds_per_second": 1e12,
           "kernels": {"Q4_K": 6e10, "Q8_0": 6.5e10, "MXFP4": 5e10}, "measured": True, "gpus": [],
           "storage": {"path": ".", "file_system": "ext4", "device": "nvme0n1", "direct_supported": True, "direct_pays": True,
                       "alignment": 512, "block_bytes": 1048576, "depth": 8, "bytes_per_second": 6e9, "latency_seconds": 8e-5,
                       "reading_beside": 0.9, "computing_beside": 0.9,
                       "samples": [{"block_bytes": 1048576, "depth": 1, "direct": True, "sequential": False,
                                    "bytes_per_second": 2.5e9}]}}


def inspect(hosts, *options, preset="deepseek-v4-flash"):
    with open(FILE, "w") as file:
        file.write(hosts if isinstance(hosts, str) else json.dumps(hosts))
    return subprocess.run([HYPURA, "inspect", *(["--preset", preset] if preset else []), "--hosts", FILE, "--context", "2048",
                           *options], capture_output=True, text=True, timeout=60 * PATIENCE, env=os.environ | {"HYPURA_GPU": "none"})


def plan(hosts, **more):
    done = inspect(hosts, "--json", **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def a_file_of_hosts_is_planned_for():
    shown = plan({**HOST, "hosts": [{"name": "desk"}, {"name": "box", "count": 3, "memory": 48 << 30}]})
    assert [host["name"] for host in shown["hosts"]] == ["desk", "box 1", "box 2", "box 3"], shown["hosts"]
    assert shown["hosts"][0]["memory_bytes"] == 64 << 30 and shown["hosts"][3]["memory_bytes"] == 48 << 30
    assert abs(sum(host["share"] for host in shown["hosts"]) - 1) < 1e-6
    assert shown["decode_tokens_per_second"] > 1.5 * shown["decode_tokens_per_second_alone"], shown
    assert shown["hosts_used"] == 4 and shown["bound"] in shown["decode_tokens_per_second_without"]
    text = inspect({**HOST, "hosts": [{"name": "desk"}, {"name": "box", "count": 3}]})
    assert text.returncode == 0 and "box 1 and 2 more" in text.stdout and "tokens/s, bound by" in text.stdout, text


def dense_layers_go_to_hosts_with_room():
    hosts = {**HOST, "link_seconds": 5e-5, "hosts": [{"name": "desk", "memory": "16G"}, {"name": "box", "count": 3, "memory": "12G"}]}
    shown = plan(hosts, preset="llama-70b")
    layers = [host["layers"] for host in shown["hosts"]]
    assert sum(layers) == 80 and min(layers[:3]) > 10, layers
    assert shown["decode_tokens_per_second"] > 3 * shown["decode_tokens_per_second_alone"], shown
    assert all(host["held_bytes"] <= host["memory_bytes"] for host in shown["hosts"]), shown
    # The rest streams at no cost, since the drive reads while the processors compute.
    assert shown["decode_tokens_per_second_without"]["drives"] < 1.05 * shown["decode_tokens_per_second"], shown
    assert shown["messages_per_token"] == 4 * sum(layers[1:]) and shown["prompt_tokens_per_second"] > 0, shown
    # A host with room for the whole model keeps all of it.
    shown = plan({**HOST, "hosts": [{"name": "desk"}, {"name": "box"}]}, preset="llama-8b")
    assert [host["layers"] for host in shown["hosts"]] == [32, 0] and shown["hosts_used"] == 1, shown
    text = inspect(hosts, preset="llama-70b")
    assert text.returncode == 0 and "layers" in text.stdout, text


def slower_links_give_fewer_tokens():
    speeds = [plan({**HOST, "link_bits_per_second": link, "hosts": [{}, {"count": 7}]})["decode_tokens_per_second"]
              for link in (1e6, 1e9, 1e10, 1e11)]
    assert speeds == sorted(speeds) and speeds[3] > 1.5 * speeds[0], speeds


def a_host_behind_a_slow_link_gets_only_what_pays():
    first = {"memory": "120G", "memory_bytes_per_second": 3e11}
    shown = plan({**HOST, "link_bits_per_second": 1e9, "hosts": [first, {"memory": "56G"}]})
    assert 0 < shown["hosts"][1]["share"] < 0.2, shown
    assert shown["decode_tokens_per_second"] > 1.02 * shown["decode_tokens_per_second_alone"], shown


def a_profile_describes_a_host():
    with open(os.path.join(WORK.name, "box.json"), "w") as file:
        json.dump(PROFILE, file)
    read = plan({"hosts": [{"profile": "box.json", "memory": "32G"}]})
    inside = plan({"hosts": [{"profile": PROFILE, "memory": "32G"}]})
    assert 0.98 < read["decode_tokens_per_second"] / inside["decode_tokens_per_second"] < 1.02, (read, inside)
    half = dict(PROFILE, storage=dict(PROFILE["storage"], bytes_per_second=PROFILE["storage"]["bytes_per_second"] / 2, samples=[]))
    slower = plan({"hosts": [{"profile": half, "memory": "32G"}]})
    assert slower["decode_tokens_per_second"] < 0.8 * read["decode_tokens_per_second"], (read, slower)
    more = plan({"link_bits_per_second": 1e11, "hosts": [{"profile": "box.json", "memory": "32G"},
                                                         {"profile": "box.json", "memory": "160G"}]})
    assert more["decode_tokens_per_second"] >= read["decode_tokens_per_second"] and more["hosts"][1]["share"] > 0, more
def parts(hosts, wanted, *options, model="m.gguf"):
    with open(FILE, "w") as file:
        json.dump(hosts, file)
    return subprocess.run([HYPURA, "inspect", model, "--hosts", FILE, "--context", "256", "--parts", wanted, *options], text=True,
                          capture_output=True, cwd=WORK.name, timeout=60 * PATIENCE, env=os.environ | {"HYPURA_GPU": "none"})


def parts_hold_only_what_a_host_serves():
    source = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
    model, out = (os.path.join(WORK.name, name) for name in ("m.gguf", "m.gguf.parts"))
    shutil.copyfile(source, model)
    before = os.stat(model)
    done = parts(TWO, "box=m.gguf.parts", "--json")
    assert done.returncode == 0, done.stderr
    share = json.loads(done.stdout)["hosts"][1]["share"]
    with open(model, "rb") as whole, open(out, "rb") as written:
        whole, written = whole.read(), written.read()
    assert os.stat(model).st_mtime_ns == before.st_mtime_ns and len(written) > len(whole) and 0.2 < share < 0.95
    assert written[:4] == b"GGUP" and written[4:4096] == whole[4:4096]
    same = sum(a == b for a, b in zip(written, whole)) / len(whole)
    assert share * 0.7 < same < share * 1.1 + 0.1, (share, same)  # experts are 0.86 of the file; holes read as zeros
    assert all(a == b or a == 0 for a, b in zip(written[4:], whole[4:])), "the part has other bytes than the model"
    assert not os.path.exists(out + ".partial")
    done = subprocess.run([HYPURA, "inspect", out], capture_output=True, text=True)
    assert done.returncode == 1 and "only the tensors" in done.stderr and done.stderr.count("\n") == 1, done


def impossible_parts_are_refused():
    for hosts, wanted, expected in ((TWO, "desk=x", "needs the whole model"), (TWO, "none=x", "no host"), (TWO, "box", "HOST=FILE"),
                                    (TWO, "box=m.gguf", "the model itself"), (TWO, "box=/dev/null", "/dev/null"),
                                    (TWO, "box=no/x", "no/x.partial"),
                                    ({**TWO, "link_bits_per_second": 100}, "box=x", "no experts in this plan")):
        done = parts(hosts, wanted)
        assert done.returncode in (1, 2) and expected in done.stderr and done.stderr.count("\n") == 1, (wanted, done)
        assert not os.path.exists(os.path.join(WORK.name, "x")) and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    done = inspect({"hosts": [HOST, HOST]}, "--parts", "host 2=x")
    assert done.returncode == 2 and "preset" in done.stderr, done
    done = subprocess.run([HYPURA, "inspect", "--parts", "a=b"], capture_output=True, text=True)
    assert done.returncode == 2 and "--hosts" in done.stderr, done
    open(os.path.join(WORK.name, "y.partial"), "w").close()
    done = parts(TWO, "box=y")
    assert done.returncode == 2 and "already exists" in done.stderr, done


def bad_files_give_one_message():
    host = {key: HOST[key] for key in HOST}
    def without(key):
        return {name: value for name, value in host.items() if name != key}
    cases = [("", "is not JSON"), ("[]", '"hosts"'), ("{}", '"hosts"'), ({"hosts": []}, "at least one"), ({"hosts": {}}, "list"),
             ({"hosts": [3]}, "host 1"), ({"hosts": [without("memory")]}, '"memory" is missing'),
             ({"hosts": [host, without("link_bits_per_second")]}, 'host 2: "link_bits_per_second" is missing'),
             ({"hosts": [without("memory_bytes_per_second")]}, '"memory_bytes_per_second" is missing'),
             ({"hosts": [without("drive_bytes_per_second")]}, '"drive_bytes_per_second" is missing'),
             ({"hosts": [{**host, "memory": -5}]}, '"memory"'), ({"hosts": [{**host, "memory": "much"}]}, '"memory"'),
             ({"hosts": [{**host, "memory": True}]}, '"memory"'), ({"hosts": [{**host, "name": 7}]}, '"name"'),
             ({"hosts": [{**host, "drive_bytes_per_second": 0}]}, '"drive_bytes_per_second" is 0'),
             ({"hosts": [{**host, "drive_bytes_per_second": "7G"}]}, '"drive_bytes_per_second" must be a number'),
             ({"hosts": [{**host, "memory_bytes_per_second": 1e300}]}, '"memory_bytes_per_second"'),
             ({"hosts": [{**host, "count": 1.5}]}, '"count"'), ({"hosts": [{**host, "count": 65}]}, '"count"'),
             ({"hosts": [{**host, "count": 60}, {**host, "count": 5}]}, "more than 64"),
             ({"hosts": [host] * 65}, "more than 64"), ({"hosts": [{**host, "memmory": 1}]}, 'unknown key "memmory"'),
             ({"hosts": [{**host, "profile": "no.json"}]}, "exclude each other"),
             ({"hosts": [{"memory": "1G", "profile": "no.json"}]}, "cannot read"),
             ({"hosts": [{"memory": "1G", "profile": {}}]}, "not a complete profile"),
             ({"hosts": [{"memory": "1G", "profile": 3}]}, '"profile"'),
             ({"hosts": [{**host, "memory": 1000}]}, "too small"), ('{"hosts": [], "hosts": []}', "is not JSON")]
    for hosts, expected in cases:
        done = inspect(hosts, preset=None)
        assert done.returncode == 1 and done.stdout == "" and expected in done.stderr, (hosts, done)
        assert done.stderr.startswith("hypura: ") and done.stderr.count("\n") == 1, (hosts, done.stderr)


def wrong_usage_is_refused():
    for options, expected in ((["--memory", "1G"], "--memory"), (["--tensors"], "--tensors")):
        done = inspect({"hosts": [HOST]}, *options)
        assert done.returncode == 2 and expected in done.stderr, done
    done = subprocess.run([HYPURA, "inspect", "--hosts", FILE + ".no"], capture_output=True, text=True)
    assert done.returncode == 1 and "cannot read" in done.stderr, done


if __name__ == "__main__":
    sys.exit(run_tests(tests_of(globals(), (inspect, parts, plan))) > 0)
