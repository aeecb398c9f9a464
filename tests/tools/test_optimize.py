#!/usr/bin/env python3
"""hypura optimize: experts in a separate file. They have the same bits as in the model and the order of a trace. The file is complete
or absent, a killed run is continued, and a file of another model is not used. Prints TAP.

    test_optimize.py HYPURA SOURCE_FOLDER [KILLS]
"""
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HYPURA, SOURCE = sys.argv[1:3]
KILLS = int(sys.argv[3]) if len(sys.argv) > 3 else 4
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-optimize-test-")
TOKENS = "1,306,443,55,12,78,90,4,5,6,7,8,9,10"


def path(name):
    return os.path.join(WORK.name, name)


def start(*arguments, **more):
    return subprocess.Popen([HYPURA, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def hypura(*arguments, status=0, **more):
    process = start(*arguments, **more)
    out, err = process.communicate(timeout=120 * PATIENCE)
    assert process.returncode == status, (arguments, process.returncode, out, err)
    return out, err


def model(preset="tiny-moe"):
    name = path(f"{preset}.gguf")
    if not os.path.exists(name):
        hypura("synth", "--preset", preset, "--type", "Q4_K", "--no-check", name)
    return name


def content(name):
    with open(name, "rb") as file:
        return file.read()


def optimize(source, out, *more, **rest):
    return json.loads(hypura("optimize", source, path(out), "--json", *more, **rest)[0])


def logits(name, *more):
    err = hypura("logits", name, "--tokens", TOKENS, "--out", path("logits"), "--gpu", "none", *more)[1]
    return content(path("logits")), err


def experts_in_a_separate_file_give_the_same_bits():
    """Experts give the same bits streamed and in memory, named directly or found next to the model."""
    for preset in ("tiny-moe", "tiny-mixtral"):
        source = model(preset)
        expected, before = logits(source)[0], content(source)
        told = optimize(source, "experts")
        assert told["gain"]["after"]["reads"] * 3 == told["gain"]["before"]["reads"], told
        assert content(source) == before
        for more in ([], ["--memory", "20M"], ["--memory", "20M", "--reader", "threads"]):
            found, err = logits(path("experts"), *more)
            assert found == expected and not err, (preset, more, err)
        assert path("experts") in hypura("inspect", path("experts"))[0]
        hypura("optimize", source)
        shown = json.loads(hypura("inspect", source, "--memory", "20M", "--json", "--tensors")[0])
        assert shown["expert_file"] == source + ".experts" and "optimize" not in shown
        of_expert = [t for t in shown["tensors"] if t["layer"] == 1 and t["expert"] == 1]
        first = min(t["offset"] for t in of_expert)
        assert len(of_expert) == 3 and first % 4096 == 0
        assert max(t["offset"] + t["bytes"] for t in of_expert) - first < sum(t["bytes"] for t in of_expert) + 128
        assert logits(source, "--memory", "20M") == (expected, "")
        # The file is really read: changed bytes, where checks by sample miss them, change the answer.
        whole = content(source + ".experts")
        with open(source + ".experts", "r+b") as file:
            for tensor in shown["tensors"]:
                if tensor["expert"] >= 0 and "gate" in tensor["name"]:
                    file.seek(tensor["offset"])
                    file.write(bytes(8))
        found, err = logits(source)
        assert found != expected and not err, err
        with open(source + ".experts", "r+b") as file:
            file.seek(len(whole) // 2)
            file.write(bytes(len(whole) // 2))
        found, err = logits(source)
        assert found == expected and "has other bytes than the model" in err, err
        os.remove(source + ".experts")


def a_copy_of_both_is_a_mirror_of_both():
    source = model()
    hypura("optimize", source)
    os.makedirs(path("second"), exist_ok=True)
    for name in (source, source + ".experts"):
        shutil.copy2(name, path("second"))
    expected = logits(source)[0]
    for mirror in (path("second"), os.path.join(path("second"), os.path.basename(source))):
        assert logits(source, "--memory", "20M", "--mirror", mirror) == (expected, ""), mirror
    # If only the model has a copy, experts come from a single drive.
    os.remove(os.path.join(path("second"), os.path.basename(source) + ".experts"))
    assert logits(source, "--memory", "20M", "--mirror", path("second")) == (expected, "")
    os.remove(source + ".experts")


def files_of_another_model_are_ignored_with_a_warning():
    source = path("moving.gguf")
    shutil.copy(model(), source)
    expected = logits(source)[0]
    hypura("optimize", source)
    shutil.copy2(source, path("copied.gguf"))
    shutil.copy2(source + ".experts", path("copied.gguf.experts"))
    assert logits(path("copied.gguf")) == (expected, "")
    os.utime(source, ns=(1, 1))
    found, err = logits(source)
    assert found == expected and "was made before the model was changed" in err and err.count("\n") == 1, err
    found, err = logits(source + ".experts")
    assert found == expected and "was made before the model was changed" in err, err
    shutil.copy(model("tiny-mixtral"), source)
    found, err = logits(source)
    assert found == logits(model("tiny-mixtral"))[0] and "was made of another model" in err, err
    for bad in (b"", b"GGUF", content(model())):
        with open(source + ".experts", "wb") as file:
            file.write(bad)
        found, err = logits(source)
        assert found == logits(model("tiny-mixtral"))[0] and "is not used" in err, err
    os.rename(path("copied.gguf.experts"), path("alone.experts"))
    os.remove(path("copied.gguf"))
    os.remove(source)
    assert "which does not exist" in hypura("inspect", path("alone.experts"), status=1)[1]


def a_trace_puts_its_most_used_experts_first():
    source = model()
    hypura("run", source, "--prompt", "hello", "--max-tokens", 8, "--trace", path("trace"), "--temperature", 0, "--gpu", "none")
    trace = content(path("trace"))
    layers, experts, used, name = struct.unpack_from("<IIII", trace, 12)
    at = 28 + name
    numbers = [struct.unpack_from("<IQ", trace, at + 12 * i)[0] for i in range(layers)]
    at += 12 * layers
    counts = [[0] * experts for _ in range(layers)]
    while at < len(trace):
        tokens = struct.unpack_from("<I", trace, at)[0]
        at += 4
        for layer in counts:
            for expert in struct.unpack_from(f"<{tokens * used}H", trace, at):
                layer[expert] += 1
            at += 2 * tokens * used
    optimize(source, "hot", "--trace", path("trace"))
    whole, of_model = content(path("hot")), json.loads(hypura("inspect", path("hot"), "--json", "--tensors")[0])
    for number, layer in zip(numbers, counts):
        places = [min(t["offset"] for t in of_model["tensors"] if t["layer"] == number and t["expert"] == e) for e in range(experts)]
        order = sorted(range(experts), key=lambda e: places[e])
        assert order == sorted(range(experts), key=lambda e: (-layer[e], e)), (number, order, layer)
    assert len(set(map(tuple, counts))) > 1 and len(whole) > 0
    assert logits(path("hot"), "--memory", "20M") == (logits(source)[0], "")
    refused = hypura("optimize", model("tiny-mixtral"), path("x"), "--trace", path("trace"), status=2)[1]
    assert "belongs to another model" in refused


def wrong_usage_is_refused_with_a_message():
    source = model()
    before = content(source)
    assert "no experts" in hypura("optimize", model("tiny-dense"), path("x"), status=2)[1]
    assert "the model itself" in hypura("optimize", source, source, status=2)[1]
    assert "MODEL is missing" in hypura("optimize", status=2)[1]
    os.symlink(source, path("x.partial"))
    assert "the model itself" in hypura("optimize", source, path("x"), status=2)[1]
    os.remove(path("x.partial"))
    assert "no option" in hypura("optimize", source, "--in-place", status=2)[1]
    told = optimize(source, "x", "--dry-run")
    assert told["bytes"] > 0 and "seconds" not in told
    assert content(source) == before and not [name for name in os.listdir(WORK.name) if name.startswith("x")]


def a_limit_on_file_size_is_reported():
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    source = model("tiny-mixtral")
    optimize(source, "whole")
    error = hypura("optimize", source, path("short"), "--threads", 1, status=1, preexec_fn=limit)[1]
    assert error.startswith("hypura: ") and error.count("\n") == 1 and "short.partial" in error, error
    assert not os.path.exists(path("short"))
    optimize(source, "short")
    assert content(path("short")) == content(path("whole"))


def after_any_kill_the_next_start_continues():
    source = path("large.gguf")
    hypura("synth", "--preset", "tiny-moe", "--type", "Q8_0", "--experts", 64, "--layers", 6, "--no-check", source)
    before = content(source)
    begin = time.time()
    optimize(source, "unbroken", "--threads", 1)
    takes, chance = time.time() - begin, random.Random(7)
    whole = content(path("unbroken"))
    for kill in range(KILLS):
        process = start("optimize", source, path("broken"), "--threads", 1)
        time.sleep(takes * chance.random())
        process.kill()
        process.communicate()
        if os.path.exists(path("broken")):
            assert content(path("broken")) == whole, kill
            os.remove(path("broken"))
        elif chance.random() < 0.3 and os.path.exists(path("broken.partial")):  # as if the drive had also lost data
            with open(path("broken.partial"), "r+b") as file:
                file.seek(chance.randrange(max(os.path.getsize(path("broken.partial")), 1)))
                file.write(b"\xff" * 100)
        if chance.random() < 0.3 or kill == KILLS - 1:
            optimize(source, "broken", "--threads", 1)
            assert content(path("broken")) == whole, kill
            assert not os.path.exists(path("broken.partial")) and not os.path.exists(path("broken.partial.pieces"))
            os.remove(path("broken"))
    assert content(source) == before


sys.exit(1 if run_tests(tests_of(globals(), [path, start, hypura, model, content, optimize, logits, run_tests, tests_of])) else 0)
