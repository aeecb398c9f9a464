#!/usr/bin/env python3
"""hypura quantize: the same bits as llama.cpp for types that only round, errors no greater than llama.cpp's for others, and the same
bits for any number of threads. The file is complete or absent, and a killed run is continued. Prints TAP.

    test_quantize.py HYPURA SOURCE_FOLDER QUANTIZE_ERRORS [KILLS]

HYPURA_LLAMA_QUANTIZE names llama-quantize. Without it, the test compares only digests of its results.
"""
import hashlib
import json
import os
import random
import resource
import shlex
import subprocess
import sys
import tempfile
import time

HYPURA, SOURCE, ERRORS = sys.argv[1:4]
KILLS = int(sys.argv[4]) if len(sys.argv) > 4 else 4
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-quantize-test-")
PEER = shlex.split(os.environ.get("HYPURA_LLAMA_QUANTIZE", ""))
if not PEER and os.access(os.path.expanduser("~/.cache/llama-peer/run"), os.X_OK):
    PEER = [os.path.expanduser("~/.cache/llama-peer/run"), "llama-quantize"]
EMBEDDED = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")

# Digests of the tensors' data that llama-quantize --pure makes from the synthetic model below.
DIGESTS = {"Q8_0": "5628fc42f351ef11", "Q4_0": "d23e02b32e76afc4", "Q4_1": "aab61a31514cfb1f", "Q5_0": "252f47ed74c8bc22",
           "Q5_1": "e06ce3c1899bf15e", "F16": "67cf5e2116cac500", "BF16": "c2d9fce3f1552b86", "TQ1_0": "0715fe39573d1685",
           "TQ2_0": "9d444589f6964210"}


def path(name):
    return os.path.join(WORK.name, name)


def start(*arguments, **more):
    return subprocess.Popen([HYPURA, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def hypura(*arguments, status=0, **more):
    process = start(*arguments, **more)
    out, err = process.communicate(timeout=120 * PATIENCE)
    assert process.returncode == status, (arguments, process.returncode, out, err)
    return out, err


def model(preset, type="F32"):
    name = path(f"{preset}-{type}.gguf")
    if not os.path.exists(name):
        hypura("synth", "--preset", preset, "--type", type, "--no-check", name)
    return name


def content(name):
    with open(name, "rb") as file:
        return file.read()


def quantize(source, out, type, *more, **rest):
    return json.loads(hypura("quantize", source, path(out), "--type", type, "--json", *more, **rest)[0])


def peer(source, out, type, *more):
    if not os.path.exists(path(out)):
        subprocess.run([*PEER, *more, source, path(out), type, "2"], check=True, capture_output=True, timeout=120 * PATIENCE)
    return path(out)


def errors(*files):
    lines = subprocess.run([ERRORS, *files], check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[0]: [float(word) for word in line.split()[1:]] for line in lines}


def rounding_gives_known_bits():
    for type, digest in DIGESTS.items():
        told = quantize(model("tiny-dense"), f"pure-{type}", type, "--pure")
        found = hashlib.sha256(content(path(f"pure-{type}"))[-told["bytes"]:]).hexdigest()[:16]
        assert found == digest, (type, found)
    assert len(DIGESTS) == 9


def rounding_gives_the_files_of_llama_cpp():
    if not PEER:
        return "llama-quantize is missing: name it in HYPURA_LLAMA_QUANTIZE"
    for preset in ("tiny-dense", "tiny-mixtral"):
        for type in ("F16", "BF16", "Q8_0"):
            quantize(model(preset), "ours", type)
            assert content(path("ours")) == content(peer(model(preset), f"{preset}-{type}", type)), (preset, type)
        for type in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
            quantize(model(preset), "ours", type, "--pure")
            assert content(path("ours")) == content(peer(model(preset), f"{preset}-{type}", type, "--pure")), (preset, type)
    quantize(model("tiny-mixtral"), "ours", "MXFP4_MOE")
    assert content(path("ours")) == content(peer(model("tiny-mixtral"), "mxfp4", "MXFP4_MOE"))


def mixtures_match_llama_cpp_with_no_greater_errors():
    if not PEER:
        return "llama-quantize is missing: name it in HYPURA_LLAMA_QUANTIZE"
    for preset in ("tiny-dense", "tiny-mixtral"):
        for type in ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_S", "IQ4_NL"):
            quantize(model(preset), "ours", type)
            found = errors(model(preset), path("ours"), peer(model(preset), f"{preset}-{type}", type))
            for name, (_, _, ours, theirs, _, _) in found.items():
                assert ours <= theirs, (preset, type, name, ours, theirs)


def threads_change_no_bit():
    for type in ("Q4_K_M", "IQ4_XS"):
        quantize(model("tiny-dense"), "one", type, "--threads", 1)
        quantize(model("tiny-dense"), "three", type, "--threads", 3)
        quantize(model("tiny-dense"), "small", type, "--threads", 8, "--memory", "32M")
        assert content(path("one")) == content(path("three")) == content(path("small")), type


def a_quantised_model_predicts_as_before():
    """Quantises the embedded model again, to its own mixture of types."""
    text = path("text")
    with open(os.path.join(SOURCE, "models", "val.txt")) as file, open(text, "w") as out:
        out.write(file.read(12000))
    quantize(EMBEDDED, "f16", "F16", "--allow-requantize")
    quantize(path("f16"), "again", "Q5_K_M")
    found = [json.loads(hypura("perplexity", name, text, "--window", 256, "--json")[0])["perplexity"]
             for name in (EMBEDDED, path("again"))]
    assert abs(found[1] / found[0] - 1) < 0.02, found


def make_floats_and_importance():
    if not os.path.exists(path("f16")):
        quantize(EMBEDDED, "f16", "F16", "--allow-requantize")
    if not os.path.exists(path("im")):
        with open(os.path.join(SOURCE, "models", "val.txt")) as file, open(path("some"), "w") as out:
            out.write(file.read(6000))
        hypura("imatrix", EMBEDDED, path("im"), "--text", path("some"), "--window", 128)


def steps_of_a_model_that_was_quantised_before_are_found_again():
    """Most of the earlier steps are found again. When the codes of a part had to begin with 0, the squared errors were 1.54."""
    make_floats_and_importance()
    quantize(path("f16"), "again", "Q4_K_M")
    _, _, ours, _, _, _ = errors(path("f16"), path("again"), path("again"))["Q4_K"]
    assert 0 < ours < 1.4, ours


def importance_gives_no_greater_errors_than_llama_cpp():
    if not PEER:
        return "llama-quantize is missing: name it in HYPURA_LLAMA_QUANTIZE"
    make_floats_and_importance()
    for type in ("Q4_K_M", "Q5_K_S"):
        quantize(path("f16"), "ours", type, "--imatrix", path("im"))
        found = errors(path("f16"), path("ours"), peer(path("f16"), f"im-{type}", type, "--imatrix", path("im")), path("im"))
        for name, (_, _, ours, theirs, _, _) in found.items():
            assert ours <= theirs, (type, name, ours, theirs)


def importance_is_the_same_streamed_and_comparisons_rank_results():
    """Also checks that a streaming model gives the same importance as one in memory."""
    make_floats_and_importance()
    hypura("imatrix", EMBEDDED, path("im2"), "--text", path("some"), "--window", 128, "--memory", "40M", "--threads", 1)
    assert content(path("im")) == content(path("im2"))
    if PEER:
        peer(path("f16"), "q2-peer", "Q2_K_S", "--imatrix", path("im"))
    quantize(path("f16"), "q2", "Q2_K_S", "--imatrix", path("im"))
    same = json.loads(hypura("compare", EMBEDDED, path("f16"), "--text", path("some"), "--window", 128, "--json")[0])
    less = json.loads(hypura("compare", EMBEDDED, path("q2"), "--text", path("some"), "--window", 128, "--json")[0])
    assert same["divergence"]["value"] < 0.01 < less["divergence"]["value"], (same, less)
    assert same["agreement"]["value"] > less["agreement"]["value"] and same["counted_tokens"] == less["counted_tokens"]
    assert less["divergence_median"] <= less["divergence_99"] <= less["divergence_greatest"]


def tensors_get_the_requested_types():
    told = quantize(model("tiny-dense"), "mixed", "Q4_K_M", "--tensor-type", r"ffn_(up|gate)=q8_0", "--tensor-type", "ffn=Q6_K")
    types = {tensor["name"]: tensor["to"] for tensor in told["tensors"]}
    assert types["blk.0.ffn_up.weight"] == types["blk.1.ffn_gate.weight"] == "Q8_0" and types["blk.0.ffn_down.weight"] == "Q6_K"
    plan = json.loads(hypura("quantize", model("tiny-dense"), "--type", "Q4_K_M", "--dry-run", "--json")[0])
    assert plan["bytes"] < told["bytes"] < plan["source_bytes"]


def wrong_usage_is_refused_with_a_message():
    source = model("tiny-dense")
    before = content(source)

    def refused(*arguments, status=1, **more):
        return hypura("quantize", *arguments, status=status, **more)[1]

    assert "there is no type" in refused(source, path("x"), "--type", "Q9_K", status=2)
    assert "--type is missing" in refused(source, path("x"), status=2)
    assert "quantised already" in refused(EMBEDDED, path("x"), "--type", "Q4_0", status=2)
    assert "useless without an importance matrix" in refused(source, path("x"), "--type", "IQ2_XXS", status=2)
    assert "the model itself" in refused(source, source, "--type", "Q4_0", status=2)
    os.symlink(source, path("x.partial"))
    assert "the model itself" in refused(source, path("x"), "--type", "Q4_0", status=2)
    os.remove(path("x.partial"))
    assert "regular expression" in refused(source, path("x"), "--type", "Q4_0", "--tensor-type", "(=F16", status=2)
    assert "there is no tensor type" in refused(source, path("x"), "--type", "Q4_0", "--tensor-type", "a=Q11", status=2)
    assert "at least" in refused(source, path("x"), "--type", "Q4_0", "--memory", "1M")
    assert "absent" in refused(path("absent"), path("x"), "--type", "Q4_0")
    assert content(source) == before and not [name for name in os.listdir(WORK.name) if name.startswith("x")]


def a_limit_on_file_size_is_reported():
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    source = model("tiny-dense")
    quantize(source, "whole", "Q8_0")
    error = hypura("quantize", source, path("short"), "--type", "Q8_0", "--threads", 1, status=1, preexec_fn=limit)[1]
    assert error.startswith("hypura: ") and error.count("\n") == 1 and "short.partial" in error, error
    assert not os.path.exists(path("short"))
    quantize(source, "short", "Q8_0")
    assert content(path("short")) == content(path("whole"))


def a_changing_source_is_reported():
    source = path("changing")
    with open(source, "wb") as file:
        file.write(content(model("tiny-dense")))
    process = start("quantize", source, path("changed"), "--type", "IQ3_S", "--pure", "--threads", 1)
    deadline = time.time() + 60 * PATIENCE
    while not os.path.exists(path("changed.partial.pieces")) and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    os.utime(source, ns=(1, 1))
    assert "changed while it was read" in process.communicate(timeout=120 * PATIENCE)[1]
    assert process.returncode == 2 and not [name for name in os.listdir(WORK.name) if name.startswith("changed")]


def after_any_kill_the_next_start_continues():
    source = model("tiny-dense")
    before = content(source)
    begin = time.time()
    quantize(source, "unbroken", "Q4_K_M", "--threads", 1)
    takes, chance = time.time() - begin, random.Random(7)
    for kill in range(KILLS):
        process = start("quantize", source, path("broken"), "--type", "Q4_K_M", "--threads", 1)
        time.sleep(takes * chance.random())
        process.kill()
        process.communicate()
        if os.path.exists(path("broken")):
            assert content(path("broken")) == content(path("unbroken")), kill
            os.remove(path("broken"))
        elif chance.random() < 0.3 and os.path.exists(path("broken.partial")):  # as if the drive had also lost data
            with open(path("broken.partial"), "r+b") as file:
                file.seek(chance.randrange(os.path.getsize(path("broken.partial"))))
                file.write(b"\xff" * 100)
        if chance.random() < 0.3 or kill == KILLS - 1:
            quantize(source, "broken", "Q4_K_M", "--threads", 1)
            assert content(path("broken")) == content(path("unbroken")), kill
            assert not os.path.exists(path("broken.partial")) and not os.path.exists(path("broken.partial.pieces"))
            os.remove(path("broken"))
    assert content(source) == before


sys.exit(1 if run_tests(tests_of(globals(), [path, start, hypura, model, content, quantize, peer, errors, run_tests, tests_of])) else 0)
