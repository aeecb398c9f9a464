#!/usr/bin/env python3
"""hypura batch: order, errors per line, continuing after any interruption, and the same bits whatever else is in the batch. Prints TAP.

    test_batch.py HYPURA SOURCE_FOLDER
"""
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

HYPURA, SOURCE = sys.argv[1], sys.argv[2]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests, tests_of

MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
WORK = tempfile.TemporaryDirectory(prefix="hypura-batch-test-")
COMMANDS = ["ls", "cp", "mv", "rm", "cat", "sort", "uniq", "head", "tail", "wc", "cut", "tr"]
LINES = [{"prompt": f"What does the {name} command do?"} for name in COMMANDS]
ENDLESS = {"prompt": "What does ls do?", "max_tokens": 100000, "logit_bias": {str(i): -100 for i in range(6140, 6144)}}


def path(name):
    return os.path.join(WORK.name, name)


def write(name, lines):
    if name == "in":  # remove another test's files
        for old in ("in", "out"):
            if os.path.exists(path(old)):
                os.remove(path(old))
    with open(path(name), "w") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return path(name)


def read(name):
    with open(path(name)) as file:
        return [json.loads(line) for line in file]


def command(source, target, *more):
    return [HYPURA, "batch", MODEL, "--input", source, "--output", path(target), "--context", "256", *map(str, more)]


def environment():
    return {**os.environ, "XDG_CACHE_HOME": path("cache"), "XDG_STATE_HOME": path("state")}


def batch(source, target, *more, status=0, before=None, stdin=None):
    result = subprocess.run(command(source, target, *more), capture_output=True, timeout=120 * PATIENCE, env=environment(),
                            preexec_fn=before, input=stdin)
    assert result.returncode == status, (result.returncode, result.stderr[-600:])
    assert result.stdout == b"", result.stdout
    return result.stderr.decode()


def start(source, target, *more):
    return subprocess.Popen(command(source, target, *more), stderr=subprocess.PIPE, env=environment())


def wait_for(condition, process):
    end = time.time() + 60 * PATIENCE
    while not condition():
        assert process.poll() is None and time.time() < end, process.poll()
        time.sleep(0.01)


def count(name):
    with open(path(name), "rb") as file:
        return file.read().count(b"\n")


def answers_keep_the_input_order_and_match_hypura_run():
    # The first answer is the last to be complete.
    source = write("in", [{**ENDLESS, "max_tokens": 60}, "", *LINES[1:]])
    err = batch(source, "out", "--max-tokens", 4, "--parallel", 4, "--set", "temperature=0")
    assert "4 answers at once" in err and "12 lines done" in err, err
    out = read("out")
    assert [line["line"] for line in out] == [1, *range(3, 14)]
    assert [line["completion_tokens"] for line in out] == [60] + [4] * 11
    assert {line["finish_reason"] for line in out} == {"length"}
    alone = subprocess.run([HYPURA, "run", MODEL, LINES[5]["prompt"], "--temperature", "0", "--max-tokens", "4"],
                           capture_output=True, env=environment(), stdin=subprocess.DEVNULL).stdout.decode()
    assert out[5]["answer"].strip() == alone.strip(), (out[5], alone)


def a_seed_gives_the_same_bits_in_any_batch_and_memory():
    source = write("in", LINES)
    more = ["--max-tokens", 12, "--set", "temperature=2"]
    batch(source, "four", *more, "--parallel", 4, "--seed", 7)
    batch(source, "one", *more, "--parallel", 1, "--seed", 7, "--memory", "9M")
    batch(source, "other", *more, "--parallel", 4, "--seed", 8)
    assert read("four") == read("one") != read("other")


def an_answer_may_have_any_character():
    source = write("in", [{"prompt": "a", "max_tokens": 2, "logit_bias": {"0": 100}}, LINES[0]])  # token 0 is the byte 0
    batch(source, "out", "--max-tokens", 2)
    assert read("out")[0]["answer"] == "\0\0" and read("out")[0]["finish_reason"] == "length", read("out")
    assert "already answered" in batch(source, "out")


def errors_of_a_line_are_in_its_answer_and_others_continue():
    wrong = ["no JSON", "[1]", {"prompt": 3}, {}, {"prompt": "x", "messages": []}, {"messages": []}, {"prompt": "x", "temperature": "hot"},
             {"prompt": "x " * 3000}, {"prompt": "x", "n": 2}, {"prompt": "x", "system": 1},
             {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}},
             {"prompt": "\u0000", "stop": 3}, '{"prompt": "\udcff"}'.encode("utf-8", "surrogateescape").decode("latin-1"),
             "[" * 3000]
    err = batch(write("in", [LINES[0], *wrong, LINES[1]]), "out", "--max-tokens", 4)
    out = read("out")
    assert [line["line"] for line in out] == list(range(1, len(wrong) + 3))
    assert "answer" in out[0] and "answer" in out[-1] and "error" not in out[0], out
    for line in out[1:12]:
        assert "answer" not in line and isinstance(line["error"], str) and line["error"], line
    assert "2 lines" not in err and " refused" in err
    before = open(path("out")).read()
    assert "already answered" in batch(path("in"), "out")  # errors are not retried
    assert open(path("out")).read() == before


def openai_requests_are_answered_in_its_format():
    chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What does ls do?"}], "max_tokens": 6}
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}}
    lines = [{"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": {**chat, "n": 2, "stream": True}},
             {"custom_id": "schema", "url": "/v1/chat/completions", "body": {**chat, "max_tokens": 40, "response_format": schema}},
             {"custom_id": "text", "url": "/v1/completions", "body": {"prompt": "ls", "max_tokens": 5}},
             {"custom_id": "vector", "url": "/v1/embeddings", "body": {"input": ["a", "b"] * 512}},
             {"custom_id": "response", "url": "/v1/responses", "body": {"input": "What does ls do?", "max_output_tokens": 5}},
             {"custom_id": "wrong", "url": "/v1/chat/completions", "body": {"messages": "x"}},
             {"custom_id": "get", "method": "GET", "url": "/v1/chat/completions", "body": chat},
             {"custom_id": "nowhere", "url": "/v1/nothing", "body": {}}]
    batch(write("in", lines), "out")
    out = {line["custom_id"]: line for line in read("out")}
    assert list(out) == [line["custom_id"] for line in lines]
    body = {name: line["response"] and line["response"]["body"] for name, line in out.items()}
    assert len(body["chat"]["choices"]) == 2 and out["chat"]["response"]["status_code"] == 200
    assert isinstance(json.loads(body["schema"]["choices"][0]["message"]["content"])["a"], bool)
    assert body["text"]["usage"]["completion_tokens"] == 5
    assert len(body["vector"]["data"]) == 1024 and abs(sum(x * x for x in body["vector"]["data"][1023]["embedding"]) - 1) < 1e-5
    assert body["response"]["usage"]["output_tokens"] == 5
    assert out["wrong"]["response"]["status_code"] == 400 and body["wrong"]["error"]["message"]
    assert out["get"]["response"] is None and "POST" in out["get"]["error"]["message"]
    assert out["nowhere"]["response"] is None and "/v1/responses" in out["nowhere"]["error"]["message"]


def null_counts_as_absent():
    nothing = dict.fromkeys(["system", "messages", "n", "max_tokens", "seed", "temperature", "url", "body"])
    batch(write("in", [LINES[0], {**LINES[0], **nothing}]), "out", "--max-tokens", 8, "--set", "temperature=2", "--seed", 3)
    first, second = read("out")
    assert first["answer"] == second["answer"] and second["completion_tokens"] == 8, (first, second)
    assert "several answers" in (batch(path("in"), "two", "--set", "n=2") and read("two")[0]["error"])


def after_an_interrupt_nothing_is_lost_or_repeated():
    source = write("in", [*LINES[:6], ENDLESS, *LINES[6:]])
    process = start(source, "out", "--max-tokens", 8, "--parallel", 2, "--context", 100000)
    wait_for(lambda: os.path.exists(path("out")) and count("out") == 12, process)  # all but the endless answer
    process.send_signal(signal.SIGINT)
    begun = time.time()
    err = process.communicate(timeout=30 * PATIENCE)[1].decode()
    assert process.returncode == 130 and "the same command continues" in err, err
    assert time.time() - begun < 10 * PATIENCE
    kept = open(path("out")).readlines()
    assert len(kept) == 12 and all(json.loads(line)["answer"] for line in kept)
    # As if killed in the middle of a line, before the lines were put in order.
    with open(path("out"), "a") as file:
        file.write('{"line":7,"dig')
    process = start(source, "out", "--max-tokens", 8, "--context", 100000)
    assert "12 lines are already answered" in [process.stderr.readline().decode() for _ in range(2)][1]
    process.kill()
    process.communicate()
    assert open(path("out")).readlines() == kept
    with open(path("in"), "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in [*LINES[:6], {**ENDLESS, "max_tokens": 8}, *LINES[6:]])
    batch(source, "out", "--max-tokens", 8)
    out = read("out")
    assert [line["line"] for line in out] == list(range(1, 14))
    assert all(line in map(json.loads, kept) for line in out if line["line"] != 7)


def a_full_disk_leaves_only_whole_lines():
    source = write("in", LINES)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
    err = batch(source, "out", "--max-tokens", 20, "--set", "temperature=0", status=1, before=limit)
    assert "out" in err and "too large" in err and "continues from there" in err, err
    kept = read("out")
    assert 0 < len(kept) < len(LINES)
    batch(source, "out", "--max-tokens", 20, "--set", "temperature=0")
    batch(source, "whole", "--max-tokens", 20, "--set", "temperature=0")
    assert read("out") == read("whole") and all(line in read("out") for line in kept)


def another_input_or_output_is_not_continued():
    source = write("in", LINES)
    batch(source, "out", "--max-tokens", 2)
    before = open(path("out")).read()
    write("edited", [LINES[1], *LINES[1:]])
    os.replace(path("edited"), source)
    assert "line 1 of the input" in batch(source, "out", status=2)
    for content in ("something\n", '{"prompt": "x"}', "{}\n"):
        with open(path("theirs"), "w") as file:
            file.write(content)
        assert "was not written by hypura batch" in batch(source, "theirs", status=2)
        assert open(path("theirs")).read() == content
    assert "was not written by hypura batch" in batch(source, "in", status=2)
    with open(path("out")) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process" in batch(source, "out", status=2)
    assert open(path("out")).read() == before


def a_byte_order_mark_is_not_part_of_the_first_line():
    mark, text = "\ufeff".encode(), "\n".join(map(json.dumps, LINES[:2])).encode()
    openai = json.dumps({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "ls", "max_tokens": 2}}).encode()
    for number, beginning in enumerate((text, mark + text, mark[:2] + text, mark + mark + text, mark + openai, mark + b" \n" + text, mark)):
        write("in", [])
        with open(path("in"), "wb") as file:
            file.write(beginning)
        err = batch(path("in"), "out", "--max-tokens", 2)
        batch("-", "piped", "--max-tokens", 2, stdin=beginning)
        out = read("out")
        assert [line["digest"] for line in out] == [line["digest"] for line in read("piped")], (number, out)
        os.remove(path("piped"))
        if number == 0:
            plain = out
        if number < 2:
            assert out == plain and "2 lines done" in err, (err, out)
        if number in (2, 3):
            assert "error" in out[0] and out[1] == plain[1], out
        if number == 4:
            assert out[0]["custom_id"] == "a" and out[0]["response"]["status_code"] == 200, out
        if number == 5:
            assert [line["line"] for line in out] == [2, 3] and "error" not in out[0], out
    assert out == [] and "already answered" in err, (out, err)
    # The mark may arrive in pieces.
    process = subprocess.Popen(command("-", "pieces", "--max-tokens", 2), stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=environment())
    for piece in (mark[:1], mark[1:], text):
        process.stdin.write(piece)
        process.stdin.flush()
        time.sleep(0.1)
    process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0 and read("pieces") == plain


def a_pipe_and_a_link_work():
    text = "\n".join(map(json.dumps, LINES[:3])).encode()  # no newline after the last line
    batch("-", "from-pipe", "--max-tokens", 4, stdin=text)
    os.symlink(path("linked"), path("link"))
    batch("-", "link", "--max-tokens", 4, "--parallel", 1, stdin=text)
    assert os.path.islink(path("link")) and read("linked") == read("from-pipe") and len(read("linked")) == 3
    out = subprocess.run([*command("-", "x", "--max-tokens", 4)[:-4], "--output", "/dev/stdout", "--max-tokens", "4"], input=text,
                         capture_output=True, env=environment(), timeout=60 * PATIENCE)
    assert out.returncode == 0 and len(out.stdout.splitlines()) == 3, out


def answers_may_go_to_standard_output():
    def to_standard_output(output, status=0):
        result = subprocess.run([os.path.abspath(HYPURA), "batch", MODEL, "--input", source, "--output", "-", "--max-tokens", "4", "--parallel", "1"],
                                stdout=output, stderr=subprocess.PIPE, env=environment(), cwd=WORK.name, timeout=60 * PATIENCE)
        assert result.returncode == status, result
        return result
    source = write("in", LINES[:3])
    batch(source, "out", "--max-tokens", 4, "--parallel", 1)
    expected = open(path("out")).read()
    assert to_standard_output(subprocess.PIPE).stdout.decode() == expected
    for mode in "w", "a":  # a file that a shell would open
        with open(path("redirected"), mode) as file:
            to_standard_output(file)
        assert open(path("redirected")).read() == expected
        os.remove(path("redirected"))
    assert not os.path.exists(path("-"))
    # The command does not see what an earlier run wrote to standard output.
    with open(path("out"), "a") as file:
        assert b"--output instead of -" in to_standard_output(file, 2).stderr
    assert open(path("out")).read() == expected
    with open("/dev/full", "w") as full:
        err = to_standard_output(full, 1).stderr.decode()
    assert "standard output" in err and "space" in err and "continues from there" not in err, err
    help = subprocess.run([HYPURA, "batch", "--help"], capture_output=True).stdout.decode()
    assert "- is standard output" in " ".join(help.split("--output", 2)[2].split("--parallel")[0].split()), help


def answers_are_written_while_a_pipe_waits():
    write("in", [])
    process = subprocess.Popen(command("-", "slow", "--max-tokens", 4), stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=environment())
    line = json.dumps(LINES[0]).encode() + b"\n"
    process.stdin.write(line + line[:5])
    process.stdin.flush()
    wait_for(lambda: os.path.exists(path("slow")) and count("slow") == 1, process)
    process.stdin.write(line[5:])
    process.stdin.flush()
    wait_for(lambda: count("slow") == 2, process)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30 * PATIENCE)
    assert process.returncode == 130 and len(read("slow")) == 2


def a_line_that_is_too_long_takes_no_more_memory():
    with open(write("in", []), "wb") as file:
        file.write(json.dumps(LINES[0]).encode() + b"\n")
        file.seek(100 << 20)
        file.write(b"\n" + json.dumps(LINES[1]).encode())
    batch(path("in"), "out", "--max-tokens", 2, "--memory", "14M")
    assert ["answer" in line for line in read("out")] == [True, False, True] and "bytes" in read("out")[1]["error"]


def memory_changes_while_it_runs():
    write("in", [ENDLESS, *LINES])
    write("budget", ["14M"])
    process = start(path("in"), "changed", "--memory-file", path("budget"), "--context", 512, "--parallel", 1)
    process.stderr.readline()
    write("budget", ["12M"])
    process.send_signal(signal.SIGUSR1)
    line = process.stderr.readline()
    assert b"the memory budget is now 12.0 MiB" in line, line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30 * PATIENCE)
    assert process.returncode == 130


def errors_are_reported_before_the_batch_begins():
    source = write("in", LINES)
    assert "smallest that works" in batch(source, "none", "--memory", "1M", status=1)
    assert "cannot open" in batch(path("missing"), "none", status=1)
    assert "NAME=VALUE" in batch(source, "none", "--set", "x", status=2)
    result = subprocess.run([HYPURA, "batch", MODEL, "--input", source], capture_output=True)
    assert result.returncode == 2 and b"--output" in result.stderr


if __name__ == "__main__":
    helpers = [path, write, read, command, environment, batch, start, wait_for, count]
    failed = run_tests(tests_of(globals(), helpers))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
