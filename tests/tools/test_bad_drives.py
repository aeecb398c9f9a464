#!/usr/bin/env python3
"""hypura quantize and optimize on failing drives: reads and writes that fail midway, a full drive, a source that changes, and a
split model. Each failure gives one message and leaves no incomplete result, and the next start continues. Prints TAP.

    test_bad_drives.py HYPURA SOURCE_FOLDER SHIM
"""
import os
import subprocess
import sys
import tempfile
import time

HYPURA, SOURCE, SHIM = sys.argv[1:4]
sys.path += [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "tests", "faults"), os.path.join(SOURCE, "tests", "server")]
import gguf_file
from faults import READING, WRITING, Faults
from patience import PATIENCE, is_instrumented
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-bad-drives-test-")
FAULTS = Faults(SHIM)
# The commands that make a new file from a mixture.
WORKS = {"quantize": ["--type", "Q8_0", "--threads", "2"], "optimize": ["--threads", "2"]}


def path(name):
    return os.path.join(WORK.name, name)


def run(work, source, out, environment={}):
    return subprocess.run([HYPURA, work, source, out, *WORKS[work]], capture_output=True, text=True, timeout=120 * PATIENCE,
                          env={**os.environ, **environment})


def content(name):
    with open(name, "rb") as file:
        return file.read()


def model():
    name = path("model.gguf")
    if not os.path.exists(name):
        subprocess.run([HYPURA, "synth", "--preset", "tiny-mixtral", "--type", "F16", "--no-check", name], check=True,
                       capture_output=True)
    return name


def expect_one_message(done, *names):
    text = done.stderr
    assert done.returncode in (1, 2) and text.startswith("hypura: ") and text.count("\n") == 1, (done.returncode, text)
    assert any(name in text for name in names), (names, text)


def whole(work):
    out = path(work + "-whole")
    if not os.path.exists(out):
        done = run(work, model(), out)
        assert done.returncode == 0, done.stderr
    return content(out)


def fails_in_the_middle(kind, *names):
    if is_instrumented():
        return "sanitizers must be loaded before the shim"
    source = model()
    before = content(source)
    for work in WORKS:
        expected, out = whole(work), path(work + "-broken")
        FAULTS.arm(kind, 0)
        assert run(work, source, out, FAULTS.environment).returncode == 0
        calls, failed = FAULTS.disarm()
        assert calls > 8 and failed == 0, (work, calls)
        os.remove(out)
        failures = 0
        for part in (0.3, 0.5, 0.7):
            FAULTS.arm(kind, int(calls * part), lasting=kind == READING)  # writes include standard output
            done = run(work, source, out, FAULTS.environment)
            failed = FAULTS.disarm()[1]
            if done.returncode == 0:  # progress varies: the call was not to the file, or was not reached
                assert (kind == WRITING or not failed) and content(out) == expected, (work, part)
                os.remove(out)
                continue
            failures += 1
            assert not os.path.exists(out), (work, part)
            expect_one_message(done, source, out, *names)
        assert failures > 0, (work, failures)
        assert content(source) == before
        done = run(work, source, out)
        assert done.returncode == 0 and content(out) == expected, done.stderr
        assert not [name for name in os.listdir(WORK.name) if ".partial" in name]
        os.remove(out)


def a_read_error_in_the_middle_is_reported():
    return fails_in_the_middle(READING)


def a_write_error_in_the_middle_is_reported():
    return fails_in_the_middle(WRITING)


def a_full_drive_is_reported_before_writing():
    if os.geteuid():
        return "only root can mount a small drive"
    point = path("small")
    os.mkdir(point)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", point], capture_output=True).returncode:
        return "drives cannot be mounted here"
    try:
        for work in WORKS:
            done = run(work, model(), os.path.join(point, "out"))
            expect_one_message(done, "free")
            assert "out" not in os.listdir(point)
    finally:
        subprocess.run(["umount", point], check=True)


def a_split_model_gives_the_same_result():
    os.mkdir(path("split"))
    parts = gguf_file.split(model(), path("split"), "m", 3)
    before = [content(part) for part in parts]
    for work in WORKS:
        out = path(work + "-split")
        done = run(work, parts[0], out)
        assert done.returncode == 0, done.stderr
        # optimize notes where the experts come from, which are three files here.
        assert work == "optimize" or content(out) == whole(work)
        assert [content(part) for part in parts] == before
        os.rename(parts[1], parts[1] + ".gone")
        expect_one_message(run(work, parts[0], out + "-2"), "00002-of-00003")
        os.rename(parts[1] + ".gone", parts[1])
        assert not os.path.exists(out + "-2")


def a_changing_source_is_reported():
    source = path("changing.gguf")
    subprocess.run([HYPURA, "synth", "--preset", "tiny-moe", "--type", "Q8_0", "--experts", "64", "--layers", "6", "--no-check",
                    source], check=True, capture_output=True)
    out = path("changed")
    process = subprocess.Popen([HYPURA, "optimize", source, out, "--threads", "1"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60 * PATIENCE
    while not os.path.exists(out + ".partial.pieces") and process.poll() is None and time.time() < deadline:
        time.sleep(0.001)
    os.utime(source, ns=(1, 1))
    error = process.communicate(timeout=120 * PATIENCE)[1]
    assert "changed while it was read" in error and error.count("\n") == 1 and process.returncode == 2, error
    assert not os.path.exists(out)


sys.exit(1 if run_tests(tests_of(globals(), [path, run, content, model, expect_one_message, whole, fails_in_the_middle, run_tests, tests_of,
                                             is_instrumented])) else 0)
