#!/usr/bin/env python3
"""The program as a user sees it: commands, exit statuses, answers, budgets, interrupts. Prints TAP.

    test_cli.py HYPURA SOURCE_FOLDER [long]
"""
import fcntl
import hashlib
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

HYPURA, SOURCE = sys.argv[1], sys.argv[2]
# With sanitizers, most of the resident memory is theirs.
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE, is_instrumented
SANITIZED = is_instrumented()
from tap import run_tests, tests_of
from terminal import Terminal
sys.path.append(os.path.join(SOURCE, "tests", "server"))
import gguf_file

MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")
QUESTION = "What does the ls command do?"
COMMANDS = ["run", "inspect", "bench", "plot", "profile", "iobench", "replay", "logits", "embed", "synth", "tokenize", "template",
            "perplexity", "completion", "manual", "serve", "batch", "list", "pull", "rm", "ps", "stop",
            "quantize", "imatrix", "compare", "estimate", "optimize"]


def path(name):
    return os.path.join(WORK.name, name)


def hypura(*arguments, stdin="", status=0, timeout=120, environment=None):
    result = subprocess.run([HYPURA, *map(str, arguments)], input=stdin.encode(), capture_output=True, timeout=timeout * PATIENCE,
                            env={**os.environ, "XDG_CACHE_HOME": path("cache"), "XDG_STATE_HOME": path("state"),
                                 **(environment or {})})
    assert result.returncode == status, \
        f"{arguments}: exit {result.returncode}, expected {status}: {result.stderr.decode()[-600:]}"
    return result.stdout.decode(), result.stderr.decode()


def answer(*arguments, **options):
    return hypura("run", MODEL, "--temperature", 0, "--max-tokens", 24, "--prompt", QUESTION, *arguments, **options)[0]


def smallest_budget():
    return json.loads(hypura("inspect", MODEL, "--json", "--context", 128)[0])["plan"]["smallest_budget_bytes"]


def options_of(command):
    return set(re.findall(r"^  --([a-z-]+)", hypura(command, "--help")[0], re.M)) - {"help"}


def every_command_explains_itself():
    assert set(re.findall(r"^  ([a-z]+) +[a-z]", hypura("--help")[0].split("Start here")[0], re.M)) == set(COMMANDS)
    for command in COMMANDS:
        out, _ = hypura(command, "--help")
        assert out.startswith(f"Usage: hypura {command}"), out[:80]
        assert hypura("help", command)[0] == out
    hypura("help", "no-such-command", status=2)


def reports_are_machine_readable():
    for command in ("inspect", "bench", "profile", "iobench", "replay", "embed", "synth", "perplexity", "list", "ps"):
        assert "json" in options_of(command), command
    presets = json.loads(hypura("synth", "--list", "--json")[0])
    assert any(preset["name"] == "tiny-mixtral" for preset in presets), presets


def documents_name_options_that_exist():
    clients = {"auth-type", "now", "user", "add-host", "no-escape", "device", "bind-to"}  # options of other programs in the manual
    # Lines with these programs are skipped.
    others = r"\b(docker|podman|brew|apt-get|git|systemctl|debootstrap|meson|numactl|pkg-config|mpirun|rsync)\b"
    known = {"help", "version"}.union(clients, *map(options_of, COMMANDS))
    pages = [os.path.join("docs", name) for name in os.listdir(os.path.join(SOURCE, "docs")) if name.endswith(".md")]
    assert len(pages) > 15
    for name in ("README.md", *pages):
        with open(os.path.join(SOURCE, name)) as file:
            lines = [line for line in file if not re.search(others, line)]
        named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", "".join(lines)))
        assert named <= known, (name, named - known)


def wrong_usage_exits_with_2():
    for arguments in (["no-such-command"], ["run", "--no-such-option"], ["run", "--memory", "lots"], ["run", "--memory"],
                      ["run", "--threads", "-1"], ["run", "--memory", "0"], ["run", "--gpu-memory", "0"], ["logits"], ["run", "--kv-type", "q2_k", "--prompt", "x"],
                      ["run", "--overlap", "perhaps", "--prompt", "x"], ["iobench", "--depth", 3, MODEL]):
        out, err = hypura(*arguments, status=2)
        assert out == "" and err.startswith("hypura"), err


def options_with_fixed_values_list_them():
    for option, words in {"--reader": "auto, io_uring or threads", "--prefetch": "auto, on or off", "--fill": "on or off",
                          "--overlap": "on or off", "--drafting": "auto, on or off",
                          "--kv-type": "f32, f16, bf16, q8_0 or q4_0"}.items():
        for given in ("perhaps", "", "of"):
            _, err = hypura("run", option, given, "--prompt", "x", status=2)
            assert err == f"hypura: {option} {given}: expected {words}\n", err
        for given in words.replace(" or", ",").split(", "):
            _, err = hypura("run", path("none.gguf"), option, given, "--prompt", "x", status=1)
            assert "none.gguf" in err and "expected" not in err, err
    _, err = hypura("run", "--guess", "perhaps", "--prompt", "x", status=2)  # the former name of the option
    assert err == "hypura: --prefetch perhaps: expected auto, on or off\n", err


def options_of_llama_cpp_are_understood_or_explained():
    expected = answer("--context", 128, "--threads", 1)
    assert hypura("run", "-m", MODEL, "-p", QUESTION, "-n", 24, "-c", 128, "-t", 1, "--temp", 0)[0] == expected
    assert hypura("run", QUESTION, "--n-predict=24", "--ctx-size", 128, "--temp", 0, f"--model={MODEL}")[0] == expected
    assert hypura("run", "-p", QUESTION, "-n", -1, "--temp", 0, "--top-k", -1)[0] == hypura("run", "-p", QUESTION, "--temp", 0)[0]
    result = json.loads(hypura("bench", "-m", MODEL, "-p", 8, "-n", 4, "-r", 1, "--json")[0])
    assert (result["prompt_tokens"], result["generated_tokens"], result["repeat"]) == (8, 4, 1), result
    for given, hint in {"-ngl": "--gpu-memory", "--mlock": "--memory", "-hf": "hypura pull", "--threadz": "--threads",
                        "--max_tokens": "--max-tokens", "--mem": "--memory", "--tempreature": "--temperature",
                        "--think": "--var", "-ctk": "keys and values"}.items():
        _, err = hypura("run", given, 3, status=2)
        assert given in err and hint in err, err
    _, err = hypura("run", "--xyzzy", status=2)
    assert "perhaps" not in err and "hypura run --help" in err, err
    for given, hint in {"rum": "hypura run", "chat": "hypura run", "insepct": "hypura inspect", "-m": "after a command",
                        "x.gguf": "hypura run x.gguf"}.items():
        _, err = hypura(given, status=2)
        assert given in err and hint in err, err
    assert hypura("-v")[0] == hypura("--version")[0]


def help_fits_eighty_columns():
    for command in COMMANDS:
        long = [line for line in hypura(command, "--help")[0].splitlines() if len(line) > 80]
        assert not long, long


def failed_writes_are_errors():
    for arguments in (["run", MODEL, "--prompt", QUESTION, "--max-tokens", 4], ["inspect", MODEL, "--json"], ["list"], ["--help"]):
        with open("/dev/full", "w") as full:
            result = subprocess.run([HYPURA, *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, timeout=60 * PATIENCE)
        assert result.returncode == 1 and b"standard output" in result.stderr, (arguments, result)
    for option in ("--stats", "--trace"):
        _, err = hypura("run", MODEL, "--prompt", QUESTION, "--max-tokens", 4, option, "/dev/full", status=1)
        assert "/dev/full" in err and "space" in err, err
    # A model may replace a file, but not a device or a folder.
    os.mkfifo(path("pipe.gguf"))
    for there in ("pipe.gguf", "."):
        assert "not be replaced" in hypura("synth", path(there), status=2)[1]
    # Limit files to one kilobyte.
    result = subprocess.run([HYPURA, "synth", path("limited.gguf")], capture_output=True, timeout=60 * PATIENCE,
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)))
    assert result.returncode == 1 and b"too large" in result.stderr, result
    assert not os.path.exists(path("limited.gguf"))


def the_map_fits_every_terminal():
    for locale, marks in (("C", "#."), ("C.UTF-8", "█·"), ("", "█·")):
        out, _ = hypura("inspect", MODEL, "--memory", "10M", environment={"LC_ALL": locale, "LC_CTYPE": "", "LANG": ""})
        rows = re.findall(r"^  (?:embedding|layer \d+) .*", out, re.M)
        assert len(rows) == 9 and max(map(len, rows)) <= 80, rows
        assert all(mark in rows[1] for mark in marks) and "\x1b" not in out, rows


def a_size_without_a_unit_is_refused_with_a_hint():
    _, err = hypura("run", "--memory", "16", "--prompt", "x", status=2)
    assert "16G" in err, err


def the_embedded_model_answers():
    assert answer().startswith("ls - list directory contents"), answer()
    assert answer("--kv-type", "bf16").startswith("ls - list"), answer("--kv-type", "bf16")
    # Without a model's name, the command uses the embedded one.
    assert hypura("run", "--temperature", 0, "--max-tokens", 24, "--prompt", QUESTION)[0] == answer()


def a_prompt_comes_from_a_pipe_or_a_file():
    expected = answer()
    out, _ = hypura("run", MODEL, "--temperature", 0, "--max-tokens", 24, stdin=QUESTION)
    assert out == expected
    with open(path("prompt"), "w") as file:
        file.write(QUESTION)
    out, _ = hypura("run", MODEL, "--temperature", 0, "--max-tokens", 24, "--file", path("prompt"))
    assert out == expected


def models_have_names():
    """Models can be named as "hypura list" shows them, followed by a prompt."""
    name = os.path.basename(MODEL)[:-len(".gguf")]
    out, _ = hypura("run", name, QUESTION, "--temperature", 0, "--max-tokens", 24)
    assert out == answer()
    folder = path("named")
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(os.path.join(folder, "team+mine@v1.gguf")):
        os.symlink(os.path.abspath(MODEL), os.path.join(folder, "team+mine@v1.gguf"))
    environment = {"HYPURA_MODELS": folder}
    assert "team/mine:v1" in hypura("list", environment=environment)[0]
    assert json.loads(hypura("inspect", "team/mine:v1", "--json", environment=environment)[0])["architecture"] == "qwen3moe"
    assert hypura("tokenize", "team/mine:v1", stdin="ls", environment=environment)[0]
    _, err = hypura("run", "nothing", "--prompt", "x", status=1)
    assert '"nothing"' in err and "hypura list" in err and "hypura pull nothing" in err, err
    assert "--prompt" in hypura("run", "Why is that?", stdin="x", status=1)[1]
    assert "hypura pull https://" in hypura("run", "https://example.org/x.gguf", "--prompt", "x", status=2)[1]
    assert "empty" in hypura("run", "", "--prompt", "x", status=2)[1]
    assert "is a model" in hypura("perplexity", MODEL, status=2)[1]
    hypura("serve", "nothing", status=1)
    hypura("serve", path("nothing.gguf"), status=1)
    hypura("serve", folder, status=2, timeout=20)
    hypura("run", name, "one", "--prompt", "two", status=2)


def a_conversation_ends_on_request():
    out, err = hypura("run", MODEL, "--interactive", "--temperature", 0, "--max-tokens", 8, stdin=QUESTION + "\n/bye\nAnd rm?\n")
    assert out.count("ls - list directory") == 1 and "rm - " not in out and "/bye" in err, (out, err)
    _, err = hypura("show", status=2)
    assert "hypura inspect" in err, err


def a_conversation_accepts_every_letter():
    sent, master, slave = "Grüße, 日本\r", *pty.openpty()
    environment = {**os.environ, "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8", "TERM": "xterm"}
    process = subprocess.Popen([HYPURA, "run", MODEL, "--max-tokens", "1", "--no-state"], stdin=slave, stdout=slave,
                               stderr=subprocess.DEVNULL, env=environment)
    while termios.tcgetattr(slave)[3] & termios.ECHO:  # wait until the line editor takes over
        assert process.poll() is None
        time.sleep(0.01)
    os.write(master, sent.encode())
    shown = b""
    while shown.count(b"> ") < 2:
        shown += os.read(master, 4096)
    os.write(master, b"/bye\r")
    process.wait(timeout=60 * PATIENCE)
    os.close(master)
    os.close(slave)
    assert sent.strip() in shown.decode(), shown


def terminal(*arguments, columns=80):
    return Terminal([HYPURA, *arguments], {"XDG_STATE_HOME": path("state"), "XDG_CACHE_HOME": path("cache")}, columns)


def a_terminal_shows_what_the_program_waits_for():
    hypura("synth", "--preset", "llama-8b", "--layers", 2, "--vocabulary", 2000, "--type", "Q4_K", path("slow.gguf"))
    with open(path("slow.txt"), "w") as file:
        file.write("A long prompt of many words. " * (5 if SANITIZED else 100))
    arguments = ["run", path("slow.gguf"), "--file", path("slow.txt"), "--interactive", "--max-tokens", 1, "--context", 2048,
                 "--threads", 1, "--memory", "130M", "--gpu", "none"]
    talk = terminal(*arguments, columns=40)
    assert talk.end("/bye\r") == 0
    assert re.search(r"streaming in 130 MiB: about [0-9.]+( to [0-9.]+)? tokens/s.*, bound by", talk.greeting, re.S), talk.greeting
    lines = re.findall(r"\x1b\[K((?:loading|reading)[^\x1b\n]*)", talk.greeting)
    assert any(re.match(r"reading the prompt: \d+ of \d+ tokens", line) for line in lines), talk.greeting
    assert max(map(len, lines)) < 40, lines  # longer lines would leave remains when redrawn
    os.remove(path("slow.gguf"))


def a_conversation_in_a_terminal():
    talk = terminal("run", MODEL, "--temperature", 0, "--max-tokens", 24)
    assert "ls - list directory" in talk.say(QUESTION + "\n")
    assert "/set" in talk.say("/?\n") and "/bye" in talk.say("/no-such\n")
    assert "no parameter" in talk.say("/set parameter nothing 3\n")
    assert "out of range" in talk.say("/set parameter top_p 7\n")
    assert "--context" in talk.say("/set parameter num_ctx 7\n")
    talk.say("/clear\n")
    talk.say("/set parameter num_predict 2\n")
    assert "list" not in talk.say(QUESTION + "\n").replace(QUESTION, "")
    assert "whole number" in talk.say("/set parameter num_predict -x\n")
    talk.say("/set parameter num_predict -1\n")
    assert "ls - list directory" in talk.say(QUESTION + "\n")
    talk.say("/set parameter num_predict 24\n")
    talk.say("/system Be brief.\n")
    assert "Be brief." in talk.say("/show system\n")
    assert "qwen3moe" in talk.say("/show\n") and "layer 0" in talk.say("/show map\n")
    talk.say("/system\n")
    assert "no system message" in talk.say("/show system\n")
    # Ask for a JSON object, then for free text again.
    talk.say("/clear\n")
    talk.say("/set format json\n")
    assert "\n{" in talk.say(QUESTION + "\n")
    talk.say("/set noformat\n")
    talk.say("/clear\n")
    # Lines between triple quotes, and pasted lines, are one message. Characters stay whole.
    talk.say('"""\n', "  ")
    assert talk.say('What does the\nls command do?"""\n').count("\n> ") == 1
    assert talk.say("Grüße,\nls and\nrm?\n").count("\n> ") == 1
    assert "Grüße" in talk.say("\x10\n")
    # Ctrl-C drops a line, and the conversation continues.
    assert "/bye" in talk.say("\x03")
    talk.say("/set verbose\n")
    assert "tokens/s" in talk.say("rm?\n")
    assert talk.end("\x04") == 0


def ctrl_c_ends_an_answer_and_the_conversation_continues():
    talk = terminal("run", MODEL, "--temperature", 0, "--ignore-eos")
    talk.say(QUESTION + "\n", r"ls - list directory")
    talk.interrupt()
    assert "no system message" in talk.say("/show system\n")
    talk.say("/set parameter num_predict 24\n")
    assert "rm - " in talk.say("And what does rm do?\n")
    assert talk.end("\x04") == 0


def ctrl_c_ends_an_answer_that_waits_for_the_terminal():
    talk = terminal("run", MODEL, "--temperature", 0, "--ignore-eos")
    talk.say(QUESTION + "\n", r"ls - list directory")
    os.write(talk.file, b"\x13")  # Ctrl-S
    time.sleep(0.2)
    talk.interrupt()
    talk.say("/set parameter num_predict 24\n")
    assert "rm - " in talk.say("And what does rm do?\n")
    assert talk.end("\x04") == 0


def a_conversation_longer_than_the_context_continues():
    talk = terminal("run", MODEL, "--temperature", 0, "--max-tokens", 24, "--context", 128)
    shown = "".join(talk.say(QUESTION + "\n") for _ in range(4))
    assert "oldest part is left out" in shown and shown.count("ls - list directory") >= 3, shown
    assert "no room for an answer" in talk.say("word " * 300 + "\n")
    assert "ls - list directory" in talk.say(QUESTION + "\n")
    assert talk.end("/bye\n") == 0


def answers_that_are_cut_short_say_so():
    _, err = hypura("run", MODEL, "--raw", "--prompt", "The", "--ignore-eos", "--context", 40)
    assert "context of 40 tokens is full" in err and "--context" in err, err
    assert hypura("run", MODEL, "--raw", "--prompt", "The", "--ignore-eos", "--context", 40, "--max-tokens", 4)[1] == ""
    _, err = hypura("run", MODEL, "--prompt", "word " * 300, "--context", 128, status=2)
    assert "--context" in err and "trained for 2048" in err, err


def piped_text_comes_before_the_prompt():
    expected = answer()
    assert hypura("run", MODEL, "does the ls", "command do?", "--temperature", 0, "--max-tokens", 24, stdin="What\n")[0] == \
        hypura("run", MODEL, "--prompt", "What\ndoes the ls command do?", "--temperature", 0, "--max-tokens", 24)[0]
    assert answer(stdin="something else") == expected
    with open(path("empty"), "w"):
        pass
    for arguments in (["--prompt", ""], ["--raw", "--prompt", ""], ["--file", path("empty")], []):
        _, err = hypura("run", MODEL, *arguments, status=2)
        assert "prompt is empty" in err, err


def same_answer_from_every_budget_thread_count_and_reader():
    expected = answer("--context", 128)
    smallest = smallest_budget()
    for arguments in (["--memory", smallest], ["--memory", smallest + (1 << 20)], ["--memory", smallest + (4 << 20)],
                      ["--threads", 1], ["--threads", 2], ["--memory", smallest, "--reader", "threads"],
                      ["--memory", smallest, "--reader", "threads", "--threads", 1], ["--chunk", 1], ["--chunk", 7],
                      ["--memory", smallest + (2 << 20), "--prefetch", "on", "--no-state"],
                      ["--memory", smallest + (2 << 20), "--prefetch", "off"]):
        assert answer("--context", 128, *arguments) == expected, arguments


def same_logits_from_every_budget():
    digests = set()
    smallest = smallest_budget()
    for arguments in ([], ["--memory", smallest], ["--memory", smallest + (3 << 20), "--threads", 1], ["--chunk", 3]):
        hypura("logits", MODEL, "--tokens", "10,200,3000,17,18,19,900,5,5,5", "--out", path("logits"), "--context", 128,
               *arguments)
        with open(path("logits"), "rb") as file:
            data = file.read()
        assert len(data) == 10 * 6144 * 4, len(data)
        digests.add(hashlib.sha256(data).hexdigest())
    assert len(digests) == 1, digests


def a_budget_is_held():
    size = os.path.getsize(MODEL)
    for budget in (smallest_budget(), size // 2):
        answer("--memory", budget, "--context", 128, "--stats", path("stats"))
        with open(path("stats")) as file:
            stats = json.load(file)
        assert stats["budget_bytes"] == budget
        # Budgets below 256 MiB exclude code and libraries.
        if not SANITIZED:
            assert 0 < stats["code_on_top_bytes"] < 16 << 20, stats
            assert stats["peak_rss_bytes"] - stats["code_on_top_bytes"] <= budget, stats
        assert stats["bytes_storage"] > 0 and stats["expert_misses"] > 0, stats


def a_budget_that_is_too_small_says_what_works():
    _, err = hypura("run", MODEL, "--memory", "1M", "--context", 128, "--prompt", "x", status=1)
    found = re.search(r"works is (\d+) bytes", err)
    assert found, err
    answer("--memory", found.group(1), "--context", 128)
    hypura("run", MODEL, "--memory", int(found.group(1)) - (512 << 10), "--context", 128, "--prompt", "x", status=1)


def statistics_have_their_keys():
    answer("--stats", path("stats"))
    with open(path("stats")) as file:
        stats = json.load(file)
    told = re.search(r"\.SH STATISTICS\n.*?keys: (.*?)\.\n", hypura("manual")[0], re.S).group(1)
    assert set(stats) == set(re.split(r",\s+", told)), set(stats) ^ set(re.split(r",\s+", told))
    assert stats["generated_tokens"] > 0 and stats["prompt_tokens"] > 0
    assert stats["guess_precision"] is None and stats["guess_recall"] is None, stats  # the whole model is in memory
    _, err = hypura("run", MODEL, "--prompt", QUESTION, "--memory", "10M", "--context", 256, "--prefetch", "on", "--map",
                    "--stats", path("stats"), "--max-tokens", 40)
    with open(path("stats")) as file:
        stats = json.load(file)
    assert 0 <= stats["guess_precision"] <= 1 and 0 <= stats["guess_recall"] <= 1, stats
    # Without measurements, the bound is the planned one.
    assert stats["share_of_limit"] is None and stats["bound"] == "disk" and "limit         unknown" in err, (stats, err)
    assert re.search(r"prefetches +\d+ % of \d+ were needed; they covered \d+ % of the missing experts; .* wasted", err), err


def a_mirror_gives_the_same_text():
    """A copy in memory replaces one on another drive. A copy with other bytes, or a missing one, is not used."""
    folder = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    asked = ("run", MODEL, "--prompt", QUESTION, "--memory", "10M", "--context", 256, "--max-tokens", 24, "--stats", path("stats"))
    try:
        copy = os.path.join(folder, os.path.basename(MODEL))
        shutil.copy(MODEL, copy)
        text, _ = hypura(*asked)
        for mirror in (folder, copy):
            out, err = hypura(*asked, "--mirror", mirror, "--map")
            with open(path("stats")) as file:
                stats = json.load(file)
            assert out == text and "is not used" not in err, err
            assert sum(drive["bytes_read"] for drive in stats["drives"]) <= stats["bytes_read"], stats
            if os.stat(folder).st_dev != os.stat(MODEL).st_dev:
                assert len(stats["drives"]) == 2 and all(drive["bytes_read"] for drive in stats["drives"]), stats
                assert re.search(r"drives +\S+ \S+ of that \(\d+ %\) from ", err), err
                plan = json.loads(hypura("inspect", MODEL, "--memory", "10M", "--json", "--mirror", mirror)[0])
                assert abs(sum(drive["share"] for drive in plan["drives"]) - 1) < 1e-6, plan["drives"]
        with open(copy, "r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)[0]
            file.seek(-1, 2)
            file.write(bytes([last ^ 1]))
        for mirror, why in ((folder, "has other bytes"), (os.path.join(folder, "none"), "cannot be opened"), (MODEL, "is the model itself")):
            out, err = hypura(*asked, "--mirror", mirror)
            assert out == text and why in err and "is not used" in err, err
    finally:
        shutil.rmtree(folder)
    hypura(*asked, *(["--mirror", folder] * 8), status=2)


def the_same_seed_gives_the_same_text():
    def sampled(seed):
        return hypura("run", MODEL, "--temperature", 1.2, "--seed", seed, "--max-tokens", 24, "--ignore-eos", "--raw",
                      "--prompt", "The kernel")[0]
    texts = [sampled(seed) for seed in (1, 2, 3)]
    assert len(set(texts)) == 3 and texts[0] == sampled(1)


def a_stop_text_ends_the_answer():
    assert "list directory" in answer()
    out = answer("--stop", "directory")
    assert out.rstrip().endswith("list"), out


def special_tokens_in_a_prompt_are_text():
    out, _ = hypura("tokenize", MODEL, stdin="a<|im_end|>b\n")
    assert 6143 not in json.loads(out)
    out, _ = hypura("tokenize", MODEL, "--special", stdin="a<|im_end|>b\n")
    assert 6143 in json.loads(out)


def tokens_turn_back_into_text():
    text = "Grüße, open(2) \t returns -1; 你好 🙂\n"
    ids, _ = hypura("tokenize", MODEL, stdin=text)
    out, _ = hypura("tokenize", MODEL, "--decode", stdin=ids)
    assert out == text, out
    hypura("tokenize", MODEL, "--decode", stdin="[1, 999999]\n", status=2)
    hypura("tokenize", MODEL, "--decode", stdin="nonsense\n", status=2)


def messages_become_a_prompt():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    out, _ = hypura("template", MODEL, stdin=json.dumps(messages))
    assert out == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", out
    # A trailing answer is continued, unless --no-generation-prompt is given.
    messages.append({"role": "assistant", "content": "Hello"})
    out, _ = hypura("template", MODEL, stdin=json.dumps(messages))
    assert out.endswith("<|im_start|>assistant\nHello"), out
    out, _ = hypura("template", MODEL, "--no-generation-prompt", stdin=json.dumps(messages))
    assert out.endswith("<|im_start|>assistant\nHello<|im_end|>\n"), out
    hypura("template", MODEL, stdin="{", status=2)


def answers_keep_to_a_grammar():
    with open(path("schema"), "w") as file:
        json.dump({"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
                                                    "level": {"type": "integer", "minimum": 1, "maximum": 9}},
                   "required": ["name", "level"]}, file)
    for seed in range(3):
        arguments = ["--max-tokens", 200, "--temperature", 2, "--top-k", 0, "--seed", seed, "--prompt", QUESTION]
        value = json.loads(hypura("run", MODEL, "--format", path("schema"), *arguments)[0])
        assert set(value) == {"name", "level"} and 1 <= value["level"] <= 9, value
    with open(path("grammar"), "w") as file:
        file.write('root ::= "yes" | "no"\n')
    assert hypura("run", MODEL, "--grammar", path("grammar"), "--prompt", QUESTION)[0] in ("yes\n", "no\n")
    assert hypura("run", MODEL, "--format", "json", "--max-tokens", 8, "--prompt", QUESTION)[0].startswith("{")
    with open(path("grammar"), "w") as file:
        file.write("root ::= (\n")
    assert path("grammar") in hypura("run", MODEL, "--grammar", path("grammar"), "--prompt", "x", status=1)[1]
    hypura("run", MODEL, "--grammar", path("schema"), "--format", "json", "--prompt", "x", status=2)


def tokens_are_biased():
    first = json.loads(hypura("tokenize", MODEL, stdin="ls")[0])[0]
    usual = answer()
    assert answer("--logit-bias", f"{first}:-inf")[:2] != "ls" and usual[:2] == "ls"
    assert answer("--logit-bias", f"{first}:0") == usual
    for wrong in ("x:1", "3", "3:y", "-1:2", "99999999:1"):
        hypura("run", MODEL, "--logit-bias", wrong, "--prompt", "x", status=2)


def templates_take_variables():
    messages = '[{"role": "user", "content": "Hi"}]'
    plain = hypura("template", MODEL, stdin=messages)[0]
    assert hypura("template", MODEL, "--var", "unused=1", stdin=messages)[0] == plain
    hypura("template", MODEL, "--var", "nonsense", stdin=messages, status=2)


def inspect_shows_the_plan():
    out, _ = hypura("inspect", MODEL)
    assert "full-resident" in out and "qwen3moe" in out, out
    plan = json.loads(hypura("inspect", MODEL, "--json", "--tensors", "--memory", "10M")[0])
    assert plan["plan"]["bytes_storage"] > 0 and len(plan["tensors"]) > 100
    assert plan["plan"]["mode"] == "expert-streaming", plan["plan"]
    parts = ["resident", "ring", "expert_cache", "kv", "scratch", "table", "overhead", "reserve"]
    given = sum(plan["plan"][part + "_bytes"] for part in parts)
    assert 0.99 * plan["plan"]["budget_bytes"] < given <= plan["plan"]["budget_bytes"], plan["plan"]
    assert plan["metadata"]["qwen3moe.block_count"] > 1 and plan["metadata"]["qwen3moe.rope.freq_base"] > 1, plan
    assert "qwen3moe.block_count                         %d\n" % plan["metadata"]["qwen3moe.block_count"] in out, out
    kept, info = plan["plan"]["kv_cache_bytes"], plan["plan"]  # this model keeps only data that grows with the context
    assert kept["keys_per_position"] * info["context"] == info["kv_bytes"] and kept["windows"] == kept["states"] == 0, kept
    assert "keys and values" in out and " per position\n" in out, out
    out, _ = hypura("inspect", MODEL, "--memory", "1G")
    assert re.search(r"not needed +9\d\d MiB", out), out
    assert "not needed" not in hypura("inspect", MODEL, "--memory", "10M")[0]
    if os.path.isdir("/dev/shm"):
        with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=".gguf") as copy:
            with open(MODEL, "rb") as file:
                copy.write(file.read())
            copy.flush()
            assert "direct I/O is not possible" in hypura("inspect", copy.name, "--memory", "10M")[0]
            assert "does not support direct I/O" in hypura("run", copy.name, "--prompt", "x", "--max-tokens", 2)[1]
    out, err = hypura("inspect", MODEL, "--gpu", 1000)  # one message, and a plan without a GPU
    assert err.startswith("hypura: computing on the CPU: ") and err.count("\n") == 1 and "on the GPU" not in out, err


def inspect_shows_what_layers_do():
    out, _ = hypura("inspect", MODEL, "--layers", "--gpu", "none")
    assert re.search(r"\nLayers 0, .*, each, on the CPU\n  norm +hidden -> normed: rms norm of 256\n +attn_norm.weight +F32", out), out
    assert "route          normed -> 2 of 12 experts\n" in out and "output         normed -> logits\n" in out, out
    one, _ = hypura("inspect", MODEL, "--layers", 3, "--gpu", "none")
    assert "\nLayer 3, on the CPU\n" in one and "token_embd" not in one, one
    assert "\nLayer 3, on the CPU\n" in hypura("inspect", "--layers=3", "--gpu", "none", MODEL)[0]
    steps = json.loads(hypura("inspect", MODEL, "--layers", "--json", "--gpu", "none")[0])["steps"]
    assert len(steps["layers"]) == 8 and steps["layers"][7]["place"] == "CPU", steps
    assert steps["layers"][0]["steps"][1]["tensors"][0]["name"] == "blk.0.attn_q.weight", steps["layers"][0]
    assert [step["step"] for step in steps["after"]] == ["norm", "output"], steps["after"]
    _, err = hypura("inspect", MODEL, "--layers", 8, status=2)
    assert "there is no layer 8; the model has layers 0 to 7" in err, err
    hypura("inspect", MODEL, "--layers=x", status=2)


def texts_become_vectors():
    encoder = os.path.join(SOURCE, "tests/data/embed/nomic-bert.gguf")
    with open(encoder.replace(".gguf", ".json")) as file:
        reference = json.load(file)
    found = json.loads(hypura("embed", encoder, *reference["texts"], "--json")[0])
    for expected, vector in zip(reference["embeddings"], found, strict=True):
        assert max(abs(a - b) for a, b in zip(expected, vector, strict=True)) < 1e-5
    lines = hypura("embed", encoder, stdin="\n".join(reference["texts"]))[0].splitlines()
    for line, vector in zip(lines, found, strict=True):
        assert max(abs(float(x) - y) for x, y in zip(line.split(), vector, strict=True)) < 1e-8
    assert len(json.loads(hypura("embed", MODEL, "a text", "--json")[0])[0]) > 64
    assert "is an encoder" in hypura("run", encoder, "--prompt", "x", status=1)[1]
    hypura("embed", encoder, "x " * 1000, status=2)


def a_damaged_file_gives_a_message():
    with open(MODEL, "rb") as file:
        data = file.read()
    cases = {"empty": b"", "text": b"hello, this is no model", "cut": data[:100000], "no-data": data[:1000000]}
    for name, content in cases.items():
        with open(path(name), "wb") as file:
            file.write(content)
        for command in (["run", "--prompt", "x"], ["inspect"], ["tokenize"]):
            _, err = hypura(command[0], path(name), *command[1:], status=1)
            assert err.count("\n") == 1 and name in err, err
    hypura("run", path("not-there.gguf"), "--prompt", "x", status=1)
    # A draft model with another vocabulary.
    values, tensors = gguf_file.read(MODEL)
    key = gguf_file.text("tokenizer.ggml.tokens")
    few = key + struct.pack("<IIQ", 9, 8, 6) + b"".join(map(gguf_file.text, "abcdef"))
    kept = [value for value in values if b"tokenizer.ggml.token" not in value and b"_token" not in value[:48]]
    gguf_file.write(path("few.gguf"), [*kept, few], tensors)
    _, err = hypura("run", path("few.gguf"), "--prompt", "x", status=1)
    assert "6 tokens" in err and "6144" in err, err
    hypura("run", WORK.name, "--prompt", "x", status=2)


def names_in_a_file_cannot_control_a_terminal():
    with open(MODEL, "rb") as file:
        data = bytearray(file.read())
    at = data.index(b"general.name") + len("general.name") + 12
    data[at:at + 4] = b"\x1b[\xff\n"
    with open(path("obeyed.gguf"), "wb") as file:
        file.write(data)
    out, _ = hypura("inspect", path("obeyed.gguf"))
    assert out.startswith(" [? ") and "\x1b" not in out, out[:200]
    assert json.loads(hypura("inspect", path("obeyed.gguf"), "--json")[0])["model"].startswith(" [? ")


def interrupted(*arguments, answering):
    """Returns the seconds from SIGINT, during the answer or the prompt, to the program's end."""
    process = subprocess.Popen([HYPURA, "run", "--progress", *map(str, arguments)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout.read(20) if answering else b"tokens/s" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 130, process.returncode
    return time.monotonic() - start


def an_interrupt_ends_an_answer_and_a_long_prompt_within_a_tenth_of_a_second():
    answering = [MODEL, "--ignore-eos", "--raw", "--prompt", "The", "--context", 2048]
    most = 3 if SANITIZED else 0.1  # sanitizers are slow and do extra work at exit
    # The machine may carry other load: take the best of several.
    assert any(interrupted(*answering, answering=True) < most for _ in range(12))
    # One layer of this prompt takes longer than that.
    hypura("synth", "--preset", "llama-8b", "--layers", 2, "--vocabulary", 2000, "--type", "Q4_K", path("wide.gguf"))
    with open(path("long.txt"), "w") as file:
        file.write("A long prompt of many words. " * 300)
    reading = [path("wide.gguf"), "--raw", "--file", path("long.txt"), "--context", 8192, "--memory", "1G", "--threads", 2]
    assert any(interrupted(*reading, answering=False) < most for _ in range(12))


def memory_changes_while_it_runs():
    with open(path("budget"), "w") as file:
        file.write("14M\n")
    arguments = ["run", MODEL, "--raw", "--prompt", "The", "--ignore-eos", "--max-tokens", 400, "--temperature", 0,
                 "--context", 512, "--no-state"]
    expected, _ = hypura(*arguments)
    process = subprocess.Popen([HYPURA, *map(str, arguments), "--memory-file", path("budget"), "--stats", path("changed"), "--map"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = process.stdout.read(20)
    with open(path("budget"), "w") as file:
        file.write("12M")
    process.send_signal(signal.SIGUSR1)
    line = process.stderr.readline()
    assert b"the memory budget is now 12.0 MiB" in line, line
    with open(path("budget"), "w") as file:
        file.write("1K")
    process.send_signal(signal.SIGUSR1)
    line = process.stderr.readline()
    assert b"stays as it is" in line, line
    rest, figures = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0
    held = rb"budget 12.0 MiB; .*; the budget was up to 14.0 MiB: held"
    assert re.search(held, figures) or SANITIZED, figures
    assert (out + rest).decode() == expected
    assert json.load(open(path("changed")))["budget_bytes"] == 12 << 20
    # A model that is entirely in memory can give up only memory that it does not need.
    with open(path("budget"), "w") as file:
        file.write("2G")
    process = subprocess.Popen([HYPURA, *map(str, arguments), "--memory-file", path("budget")], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout.read(20)
    for size, told in (("1G", b"the memory budget is now 1.00 GiB"), ("8M", b"all weights are pinned in memory")):
        with open(path("budget"), "w") as file:
            file.write(size)
        process.send_signal(signal.SIGUSR1)
        line = process.stderr.readline()
        assert told in line, line
    process.communicate(timeout=60 * PATIENCE)
    # A signal while the program waits for the prompt takes effect once the model is open.
    with open(path("budget"), "w") as file:
        file.write("14M\n")
    early = [HYPURA, "run", MODEL, "--raw", "--context", "512", "--memory-file", path("budget"), "--max-tokens", "4"]
    process = subprocess.Popen(early, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while os.path.exists("/proc/self/status") and "State:\tS" not in open(f"/proc/{process.pid}/status").read():
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(b"The", timeout=60 * PATIENCE)
    assert process.returncode == 0 and b"the memory budget is now 14.0 MiB" in err, (process.returncode, err)
    # Without a file, the budget follows the free memory.
    process = subprocess.Popen([HYPURA, *map(str, arguments), "--memory", "10M"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout.read(20)
    process.send_signal(signal.SIGUSR1)
    assert b"budget is now" in process.stderr.readline()
    process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0


def more_memory_is_worth_something():
    plan = json.loads(hypura("inspect", MODEL, "--json", "--memory", "10M", "--context", 128)[0])["plan"]
    assert plan["decode_tokens_per_second_with_one_more_gib"] > plan["decode_tokens_per_second"]
    assert "one more GiB would bring" in hypura("inspect", MODEL, "--memory", "10M", "--context", 128)[0]


def usage_is_remembered_unless_disabled():
    fresh = {"XDG_STATE_HOME": path("fresh-state")}
    answer("--memory", "8M", "--context", 128, "--no-state", environment=fresh)
    assert not os.path.exists(path("fresh-state"))
    answer("--memory", "8M", "--context", 128, environment=fresh)
    found = [name for _, _, names in os.walk(path("fresh-state")) for name in names]
    assert len(found) == 1, found


def a_recorded_routing_replays():
    answer("--trace", path("trace"))
    result = json.loads(hypura("replay", path("trace"), "--memory", "2M,6M,20M", "--json")[0])
    rates = {(row["policy"], row["cache_bytes"] >> 20): row["hit_rate"] for row in result["results"]}
    policies = {policy for policy, _ in rates}
    assert "belady" in policies and len(policies) > 2, policies
    for policy in policies:
        assert rates[policy, 2] <= rates[policy, 6] <= rates[policy, 20], rates
        assert rates[policy, 6] <= rates["belady", 6] + 1e-9, rates
    assert "belady" in hypura("replay", path("trace"))[0]
    hypura("replay", MODEL, status=1)


def a_full_disk_ends_the_trace_but_not_the_answer():
    arguments = ["run", MODEL, "--prompt", QUESTION, "--max-tokens", 12, "--ignore-eos", "--temperature", 0, "--trace"]
    whole = hypura(*arguments, path("whole"))[0]
    passes = lambda name: json.loads(hypura("replay", path(name), "--memory", "6M", "--json")[0])["tokens"]
    most = os.path.getsize(path("whole")) * 3 // 4
    result = subprocess.run([HYPURA, *map(str, arguments), path("cut")], capture_output=True, timeout=60 * PATIENCE, stdin=subprocess.DEVNULL,
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    assert result.stdout.decode() == whole and result.returncode == 1, result
    assert b"cut" in result.stderr and b"too large" in result.stderr, result
    assert 0 < passes("cut") < passes("whole")


def a_synthetic_model_runs():
    hypura("synth", "--preset", "tiny-mixtral", "--type", "Q8_0", "--seed", 3, path("tiny.gguf"))
    one = hypura("run", path("tiny.gguf"), "--raw", "--prompt", "a", "--max-tokens", 8, "--ignore-eos")[0]
    hypura("synth", "--preset", "tiny-mixtral", "--type", "Q8_0", "--seed", 3, path("tiny.gguf"))
    assert hypura("run", path("tiny.gguf"), "--raw", "--prompt", "a", "--max-tokens", 8, "--ignore-eos")[0] == one
    assert "mixtral-8x7b" in hypura("synth", "--list")[0]
    hypura("synth", "--preset", "nothing", path("x.gguf"), status=2)
    hypura("synth", "--heads", 7, path("x.gguf"), status=2)
    assert not os.path.exists(path("x.gguf"))


def sequences_are_measured_together():
    result = json.loads(hypura("bench", MODEL, "--json", "--prompt-tokens", 8, "--gen-tokens", 8, "--context-fill", 5,
                               "--repeat", 1, "--parallel", 3)[0])
    assert result["parallel"] == 3 and result["generated_tokens"] == 8, result
    assert result["decode_tokens_per_second"] > 0, result
    assert "3 sequences" in hypura("bench", MODEL, "--prompt-tokens", 0, "--gen-tokens", 4, "--repeat", 1, "--parallel", 3)[0]
    hypura("bench", MODEL, "--parallel", 0, status=2)
    hypura("bench", MODEL, "--parallel", 65, status=2)


def progress_is_shown_next_to_the_answer():
    out, err = hypura("run", MODEL, "--raw", "--prompt", "The", "--ignore-eos", "--max-tokens", 60, "--memory", "10M",
                      "--context", 256, "--progress", "--no-state")
    assert "tokens/s, disk" in err and "expert hits" in err, err
    assert "tokens/s, disk" not in out


def progress_in_a_terminal_leaves_the_answer_alone():
    arguments = [HYPURA, "run", MODEL, "--raw", "--prompt", "The", "--ignore-eos", "--max-tokens", "400", "--memory", "12M",
                 "--context", "512", "--no-state", "--threads", "1"]
    expected = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen([*arguments, "--progress"], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
                               env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"})
    os.close(slave)
    shown = b""
    while select.select([master], [], [], 60)[0]:
        try:
            got = os.read(master, 4096)
        except OSError:
            got = b""
        if not got:
            break
        shown += got
    assert process.wait() == 0
    os.close(master)
    # Down and up, save, the row below, restore: the cursor returns to the answer.
    below = rb"\x1bD\x1bM\x1b7\x1b\[B\r\x1b\[K([^\x1b]*)\x1b8"
    lines = re.findall(below, shown)
    assert any(re.match(rb"[0-9.]+ tokens/s, disk .*, waiting for it .*, expert hits [0-9]+ %$", line) for line in lines), lines
    assert max(map(len, lines)) < 80, lines
    left = re.sub(below, b"", shown).replace(b"\x1b[J", b"").replace(b"\r\n", b"\n")
    left = re.sub(rb"\n(\r\x1b\[K[0-9.]+ tokens/s[^\x1b\r\n]*)+\r\x1b\[K", b"\n", left)  # progress in a row that the answer has not reached
    assert expected in left, left
    # While the user types a question, nothing moves.
    talk = terminal("run", MODEL, "--progress", "--memory", "10M", "--context", 256, "--max-tokens", 8)
    assert not select.select([talk.file], [], [], 0.8)[0], os.read(talk.file, 4096)
    talk.say(QUESTION + "\n")
    talk.end("/bye\r")


def a_drive_and_a_machine_are_measured():
    profile = json.loads(hypura("profile", MODEL, "--json")[0])
    assert profile["memory_bytes_per_second"] > 1e8 and profile["storage"]["bytes_per_second"] > 1e5
    assert 0 < profile["storage"]["reading_beside"] <= 1 and 0 < profile["storage"]["computing_beside"] <= 1, profile["storage"]
    start = time.monotonic()
    text = hypura("profile", MODEL)[0]
    assert "Memory" in text and "Reading and computing at once" in text, text
    assert time.monotonic() - start < 2 * PATIENCE, "the profile was not cached"


def a_budget_beyond_the_memory_gives_one_warning():
    with open("/proc/meminfo" if os.path.exists("/proc/meminfo") else os.devnull) as file:
        free = re.search(r"MemAvailable: *(\d+) kB", file.read())
    if not free or int(free[1]) > 300 << 20:
        return "the machine has more memory than the model needs"
    _, err = hypura("inspect", "--preset", "glm-5", "--memory", "300G")
    assert err.count("are free here") == 1, err


def shares_of_the_limit_go_up_to_one():
    hypura("profile", MODEL)
    folder = path("cache/hypura")
    name = next(os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("profile-"))
    with open(name) as file:
        text = file.read()
    try:
        for quicker in (1, 1000):
            profile = json.loads(text)
            profile["storage"]["bytes_per_second"] /= quicker
            profile["kernels"] = {kernel: speed / quicker for kernel, speed in profile["kernels"].items()}
            with open(name, "w") as file:
                json.dump(profile, file)
            _, err = hypura("run", MODEL, "--prompt", "x", "--max-tokens", 8, "--ignore-eos", "--memory", "10M", "--context", 128,
                            "--no-state", "--map", "--stats", path("stats"))
            with open(path("stats")) as file:
                stats = json.load(file)
            assert 0 < stats["share_of_limit"] <= 1 and 0 < stats["share_side_by_side"] <= 1, stats
            assert stats["bound"] in ("disk", "compute", "memory"), stats
            if quicker > 1:
                assert stats["share_of_limit"] == 1 and "faster than its profile" in err, (stats, err)
    finally:
        with open(name, "w") as file:
            file.write(text)


def completions_and_manual_name_every_option():
    bash, zsh, fish = (hypura("completion", shell)[0] for shell in ("bash", "zsh", "fish"))
    for command in COMMANDS:
        options = options_of(command)
        words = re.search(rf'^ +{command}\) words="(.*)" ;;$', bash, re.M).group(1)
        assert set(words.split()) == {"--" + option for option in options | {"help"}}, (command, words)
        words = re.search(rf"^    {command}\) _arguments (.*?) ;;$", zsh, re.M | re.S).group(1)
        assert set(re.findall(r'^ +"\*?--([a-z-]+)', words, re.M)) == options, (command, words)
        words = re.findall(rf"^complete .*_subcommand_from {command}' -l ([a-z-]+)", fish, re.M)
        assert set(words) == options | {"help"}, (command, words)
        page = hypura("manual", command)[0].replace("\\-", "-")
        told = set(re.findall(r"^\\fB--([a-z-]+)", page, re.M))
        assert told == options | {"help"}, (command, told ^ options)
    subprocess.run(["bash", "-n"], input=bash.encode(), check=True)


def a_statistics_file_that_cannot_be_written_is_an_error():
    _, err = hypura("run", MODEL, "--prompt", "x", "--max-tokens", 2, "--stats", "/nowhere/file", status=1)
    assert "/nowhere/file" in err


def reading_one_by_one_and_waiting_for_all_change_no_answer():
    assert answer("--memory", "12M", "--context", 512, "--depth", 1, "--overlap", "off", "--guess", "off") == answer()


def a_single_block_size_can_be_measured():
    assert json.loads(hypura("iobench", MODEL, "--block", "64K", "--depth", 4, "--seconds", 0.05, "--json")[0])[
        "bytes_per_second"] > 1e6
    hypura("iobench", MODEL, "--block", "63K", status=2)


def an_installed_copy_works_elsewhere():
    prefix = path("prefix")
    build = os.path.dirname(os.path.abspath(HYPURA))
    subprocess.run(["meson", "install", "-C", build, "--destdir", path("destdir"), "--no-rebuild", "--quiet"], check=True,
                   capture_output=True)
    found = {}
    for folder, _, names in os.walk(path("destdir")):
        for name in names:
            found[name] = os.path.join(folder, name)
    for name in ("hypura", "hypura.h", "error.h", "hypura.pc", "hypura.1", "_hypura", "hypura.fish",
                 os.path.basename(MODEL)):
        assert name in found, (name, sorted(found))
    out = subprocess.run([found["hypura"], "run", "--temperature", "0", "--max-tokens", "24", "--prompt", QUESTION],
                         capture_output=True, cwd="/", check=True).stdout.decode()
    assert out == answer(), (out, prefix)


if __name__ == "__main__":
    long = [a_drive_and_a_machine_are_measured, shares_of_the_limit_go_up_to_one]
    quick = tests_of(globals(), [path, hypura, answer, smallest_budget, options_of, interrupted, terminal, *long])
    failed = run_tests(long if sys.argv[3:] == ["long"] else quick)
    WORK.cleanup()
    sys.exit(1 if failed else 0)
