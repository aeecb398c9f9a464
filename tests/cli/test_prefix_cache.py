#!/usr/bin/env python3
"""The prefix cache on a drive, as a user sees it: after a restart, with a limited size, and after the program is killed at any
moment. Prints TAP.

    test_prefix_cache.py HYPURA SOURCE_FOLDER [long]
"""
import glob
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

HYPURA, SOURCE, LONG = sys.argv[1], sys.argv[2], sys.argv[3:] == ["long"]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-prefix-test-")
WORDS = "ls lists files and cp copies them while rm removes what a user wants to lose for good".split()
KILLS = 100 if LONG else 5


def path(name):
    return os.path.join(WORK.name, name)


def text(number, words=400):
    chosen = random.Random(number)
    return " ".join(chosen.choice(WORDS) for _ in range(words))


def run(prompt, *options):
    """Runs the program. Returns the answer and the statistics."""
    done = subprocess.run([HYPURA, "run", "--prompt", prompt, "-n", "8", "--temperature", "0", "--context", "2048",
                           "--stats", path("stats"), *options],
                          capture_output=True, timeout=120 * PATIENCE, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    with open(path("stats")) as file:
        return done.stdout, json.load(file)


def a_text_is_not_read_again_after_a_restart():
    folder = path("restart")
    cold, statistics = run(text(1))
    assert statistics["prefix_tokens"] == 0 and statistics["prompt_tokens"] > 400
    first, statistics = run(text(1), "--prefix-cache", folder + ":1G")
    assert first == cold and statistics["prefix_tokens"] == 0
    again, statistics = run(text(1), "--prefix-cache", folder + ":1G")
    assert again == cold
    assert statistics["prompt_tokens"] + statistics["generated_tokens"] < 20, statistics
    assert statistics["prefix_bytes_read"] > 0 and statistics["prefix_bytes_written"] == 0, statistics
    assert os.stat(folder).st_mode & 0o077 == 0 and len(glob.glob(folder + "/*.prefix")) == 1
    # Texts stored with another type of the cache are not used.
    other, statistics = run(text(1), "--prefix-cache", folder, "--kv-type", "q8_0")
    assert statistics["prefix_tokens"] == 0


def the_folder_stays_within_its_limit():
    folder = path("bounded")
    for number in range(6):
        run(text(number, 300), "--prefix-cache", folder + ":8M")
        taken = sum(os.stat(name).st_size for name in glob.glob(folder + "/*"))
        assert taken <= 8 << 20, taken
    _, statistics = run(text(5, 300), "--prefix-cache", folder + ":8M")
    assert statistics["prefix_tokens"] > 200, statistics


def wrong_options_are_refused():
    for options, expected in ((["--prefix-cache", "/dev/null/x"], b"/dev/null/x"),
                              (["--prefix-cache", path("x"), "--no-prefixes"], b"exclude each other"),
                              (["--prefix-memory", "much"], b"much")):
        done = subprocess.run([HYPURA, "run", "--prompt", "x", *options], capture_output=True, timeout=60 * PATIENCE)
        assert done.returncode in (1, 2) and expected in done.stderr, (options, done)


def each_restart_after_a_kill_answers_like_a_cold_run():
    folder, chosen = path("killed"), random.Random(1)
    with open(path("lines"), "w") as file:
        for number in range(6):
            file.write(json.dumps({"prompt": text(number), "max_tokens": 4, "temperature": 0}) + "\n")
    cold = {number: run(text(number), "--no-prefixes")[0] for number in range(6)}
    command = [HYPURA, "batch", "--input", path("lines"), "--output", "-", "--parallel", "1", "--context", "2048", "--prefix-cache",
               folder + ":24M", "--prefix-memory", "6M"]
    start = time.time()
    subprocess.run(command, check=True, capture_output=True, timeout=120 * PATIENCE)
    whole = time.time() - start
    partial = restored = 0
    for kill in range(KILLS):
        for name in glob.glob(folder + "/*.prefix"):
            if chosen.random() < 0.5:  # gives the next run something to write
                os.unlink(name)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chosen.random() * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        partial += len(glob.glob(folder + "/*.partial"))
        number = chosen.randrange(6)
        answer, statistics = run(text(number), "--prefix-cache", folder + ":24M")
        assert answer == cold[number], (kill, number, answer, cold[number])
        restored += statistics["prefix_tokens"] > 0
        taken = sum(os.stat(name).st_size for name in glob.glob(folder + "/*.prefix"))
        assert taken <= 24 << 20, taken
    print(f"# {KILLS} kills within {whole:.2f} s, {partial} in the middle of a file; {restored} answers from the cache")
    assert restored


if __name__ == "__main__":
    sys.exit(bool(run_tests(tests_of(globals(), {path, text, run, run_tests, tests_of}))))
