#!/usr/bin/env python3
"""Sparse attention on texts longer than the reference's: the program chooses the same positions as the formulas. Prints TAP.

    test_long_contexts.py HYPURA SOURCE_FOLDER

The programs in float64/ of the whole reference set (HYPURA_ORACLE) compute the formulas. They need numpy.
"""
import array
import os
import random
import subprocess
import sys
import tempfile

HYPURA, SOURCE = os.path.abspath(sys.argv[1]), sys.argv[2]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests, tests_of

ORACLE = os.environ.get("HYPURA_ORACLE", "")
WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")
TOKENS = 900  # three times the longest reference
MOST_APART = 1e-3  # for logits with a standard deviation of 2.5; choosing one other position changes them by some tenths

EXACT = """
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import numpy, sparse
model = sparse.Mod(sys.argv[2])
tokens = numpy.array([int(token) for token in sys.argv[4].split(",")])
sparse.F[model.arch](model, tokens).astype("<f4").tofile(sys.argv[3])
"""


def interpreter():
    """Returns a Python interpreter with numpy, or None."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if subprocess.run([python, "-c", "import numpy"], capture_output=True, timeout=60).returncode == 0:
                return python
        except OSError:
            pass
    return None


def software_gpu():
    """Whether GPU 0 computes only in floats. Matrix units use halves in attention, which may lead to other choices."""
    found = subprocess.run([HYPURA, "profile", "--gpu", "0", "--json"], capture_output=True, text=True, timeout=60 * PATIENCE)
    return found.returncode == 0 and "llvmpipe" in found.stdout


def read(path):
    values = array.array("f")
    with open(path, "rb") as file:
        values.frombytes(file.read())
    return values


def compare(name):
    model = os.path.join(ORACLE, "models", name + ".gguf")
    programs, python = os.path.join(ORACLE, "float64"), interpreter()
    if not ORACLE or not os.path.exists(model) or not os.path.isdir(programs):
        return "the whole reference set is missing"
    if not python:
        return "no Python with numpy was found"
    numbers = random.Random(name)
    tokens = ",".join(str(numbers.randrange(14, 340)) for _ in range(TOKENS))
    exact, found = os.path.join(WORK.name, "exact"), os.path.join(WORK.name, "found")
    subprocess.run([python, "-c", EXACT, programs, model, exact, tokens], check=True, timeout=300 * PATIENCE)
    expected = read(exact)
    width = len(expected) // TOKENS
    for options in (["--gpu", "none"], ["--gpu", "none", "--chunk", "7"], ["--gpu", "0"], ["--gpu", "0", "--chunk", "7"]):
        if "0" in options and not software_gpu():
            continue
        subprocess.run([HYPURA, "logits", model, "--tokens", tokens, "--out", found, "--context", str(TOKENS), "--kv-type", "f32",
                        "--no-state", *options], check=True, capture_output=True, timeout=60 * PATIENCE)
        logits = read(found)
        assert len(logits) == len(expected), (len(logits), len(expected))
        apart = [abs(a - b) for a, b in zip(logits, expected)]
        worst = max(apart)
        print(f"# {name} {' '.join(options)}: differs by {worst:.2g} at position {apart.index(worst) // width}", flush=True)
        assert worst < MOST_APART, (name, options, worst, apart.index(worst) // width)
    return None


def deepseek4_chooses_compressed_blocks():
    return compare("deepseek4")


def deepseek32_and_glm_choose_positions():
    return compare("deepseek32") or compare("glm-dsa")


def hunyuan4_chooses_positions():
    return compare("hy-v4")


def minimax_m3_chooses_blocks():
    return compare("minimax-m3")


def qwen4_chooses_pooled_blocks():
    return compare("qwen4exp")


sys.exit(1 if run_tests(tests_of(globals(), [compare, read, interpreter, software_gpu, run_tests, tests_of])) else 0)
