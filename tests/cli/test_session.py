#!/usr/bin/env python3
"""Conversations saved in a file: hypura run --session, and /save and /load in a terminal. Prints TAP.

    test_session.py HYPURA SOURCE_FOLDER [long]
"""
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import time

HYPURA, SOURCE, LONG = sys.argv[1], sys.argv[2], sys.argv[3:] == ["long"]
sys.path += [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "tests", "server")]
import byte_model
from patience import PATIENCE
from tap import run_tests, tests_of
from terminal import Terminal

WORK = tempfile.TemporaryDirectory(prefix="hypura-session-test-")
EMBEDDED = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
QUESTIONS = ["What does the ls command do?", "And what does rm do?", "Tell me more."]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"


def path(name):
    return os.path.join(WORK.name, name)


def contents(name):
    with open(path(name), "rb") as file:
        return file.read()


def write(name, data):
    with open(path(name), "wb") as file:
        file.write(data)


def run(model, *arguments, stdin=None, status=0, before=None):
    done = subprocess.run([HYPURA, "run", model, "--temperature", "0", "--max-tokens", "40", "--context", "512", "--stats", path("stats"),
                           *map(str, arguments)], input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True,
                          timeout=120 * PATIENCE, preexec_fn=before,
                          env={**os.environ, "XDG_CACHE_HOME": path("cache"), "XDG_STATE_HOME": path("state")})
    assert done.returncode == status, (arguments, done)
    return done.stdout.decode(), done.stderr.decode()


def computed():
    """Returns the number of prompt tokens that the last run computed."""
    with open(path("stats")) as file:
        return json.load(file)["prompt_tokens"]


def in_one_run(model, *arguments):
    return run(model, "--interactive", *arguments, stdin="".join(question + "\n" for question in QUESTIONS).encode())[0]


def in_many_runs(model, session, *arguments):
    """Returns the answers, and the number of tokens computed for each question."""
    said, took = [], []
    for question in QUESTIONS:
        said.append(run(model, "--session", path(session), *arguments, "--prompt", question)[0])
        took.append(computed())
    return "".join(said), took


def a_conversation_continues_in_another_run():
    """For each kind of layer, nothing is computed again, and the text is the same as in a single run."""
    write("letters.gbnf", b'root ::= [a-z ]{39}')
    models = [EMBEDDED]
    for name in ("qwen3moe", "qwen3next", "gpt-oss", "mamba-rms", "deepseek2-v3"):
        models.append(path(name + ".gguf"))
        byte_model.of(os.path.join(SOURCE, "tests", "data", "oracle", "models", name + ".gguf"), models[-1], TEMPLATE)
    for model in models:
        form = () if model == EMBEDDED else ("--grammar", path("letters.gbnf"))
        session = os.path.basename(model) + ".session"
        whole = in_one_run(model, *form)
        said, took = in_many_runs(model, session, *form)
        assert said == whole, (model, said, whole)
        # The question, the marks around it, and the last token of the previous answer.
        new = [len(question) + (12 if model == EMBEDDED else len("\n[user]\n[assistant]") + 2) for question in QUESTIONS]
        assert all(0 < tokens <= most for tokens, most in zip(took[1:], new[1:])), (model, took, new)
        assert stat.S_IMODE(os.stat(path(session)).st_mode) == 0o600


def other_files_are_left_alone():
    for data in (b"", b"a shopping list\n", b"hypura session \n", b"hypura session x"):
        write("list", data)
        said = run(EMBEDDED, "--session", path("list"), "--prompt", "x", status=1)[1]
        assert "not a conversation of hypura" in said and contents("list") == data, said
    write("later", b"hypura session 99 5 0\n{}   \n")
    assert "another version" in run(EMBEDDED, "--session", path("later"), "--prompt", "x", status=1)[1]
    assert "--raw" in run(EMBEDDED, "--session", path("x"), "--raw", "--prompt", "x", status=2)[1]
    # Without a message, nothing is written.
    run(EMBEDDED, "--session", path("nothing"), "--interactive", stdin=b"/bye\n")
    assert not os.path.exists(path("nothing"))


def a_conversation_with_another_model_is_refused():
    in_many_runs(EMBEDDED, "ours")
    before = contents("ours")
    subprocess.run([HYPURA, "synth", "--preset", "tiny-dense", "--no-check", path("other.gguf")], check=True, capture_output=True)
    said = run(path("other.gguf"), "--session", path("ours"), "--prompt", "x", status=2)[1]
    assert "Manpage MoE 24M" in said and "another file" in said and contents("ours") == before, said


def other_options_read_it_again():
    write("again", contents("ours"))
    said, told = run(EMBEDDED, "--session", path("again"), "--kv-type", "q8_0", "--prompt", "Thanks.")
    assert "read again" in told and computed() > 60, (told, computed())
    # With the same options, the next run continues from there.
    run(EMBEDDED, "--session", path("again"), "--kv-type", "q8_0", "--prompt", "Thanks.")
    assert computed() < 20, computed()


def a_file_of_an_older_version_is_read_again():
    whole = contents("ours")
    assert whole.startswith(b"hypura session 2 ")
    right = run(EMBEDDED, "--session", path("ours"), "--prompt", "Go on.")[0]
    write("ours", whole)
    write("old", whole.replace(b"hypura session 2 ", b"hypura session 1 ", 1))
    text, said = run(EMBEDDED, "--session", path("old"), "--prompt", "Go on.")
    assert text == right and "older version" in said and computed() > 60, (text, said)


def damage_is_reported_and_loses_no_text():
    whole = contents("ours")
    begin = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    right = run(EMBEDDED, "--session", path("ours"), "--prompt", "Go on.")[0]
    places = [20, begin - 3, begin + 5, len(whole) // 2, len(whole) - 3]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 4
        cut = whole[:place]
        for data in (bytes(damaged), cut):
            write("damaged", data)
            if place < begin:
                said = run(EMBEDDED, "--session", path("damaged"), "--prompt", "Go on.", status=1)[1]
                assert "damaged" in said or "version" in said or "not a conversation" in said, (place, said)
                assert contents("damaged") == data
            else:
                text, said = run(EMBEDDED, "--session", path("damaged"), "--prompt", "Go on.")
                assert text == right and "read again" in said, (place, text, said)
                run(EMBEDDED, "--session", path("damaged"), "--prompt", "Go on.")
                assert computed() < 20, computed()  # the file is complete again


def a_full_disk_keeps_the_old_file():
    write("full", contents("ours"))
    before, most = contents("full"), len(contents("full")) // 2
    names = set(os.listdir(WORK.name))
    for size in (most, 100, 0):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, 1), max(size, 1)))
        done = subprocess.run([HYPURA, "run", EMBEDDED, "--context", "512", "--session", path("full"), "--prompt", "x", "--max-tokens", "4"],
                              capture_output=True, stdin=subprocess.DEVNULL, preexec_fn=limit, timeout=60 * PATIENCE)
        assert done.returncode == 1 and b"could not be saved" in done.stderr and done.stdout, done
        assert contents("full") == before and set(os.listdir(WORK.name)) == names, size
    said = run(EMBEDDED, "--session", path("no-such-folder/x"), "--prompt", "x", status=1)[1]
    assert "could not be saved" in said and "no-such-folder" in said, said


def a_link_stays_a_link():
    write("target", contents("ours"))
    os.symlink("target", path("link"))
    run(EMBEDDED, "--session", path("link"), "--prompt", "x")
    assert os.path.islink(path("link")) and contents("target") != contents("ours")


def a_kill_keeps_earlier_answers():
    process = subprocess.Popen([HYPURA, "run", EMBEDDED, "--context", "512", "--interactive", "--session", path("killed"), "--max-tokens", "9",
                                "--temperature", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(QUESTIONS[0].encode() + b"\n")
    process.stdin.flush()
    end = time.monotonic() + 30 * PATIENCE
    while not os.path.exists(path("killed")):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    run(EMBEDDED, "--session", path("killed"), "--prompt", QUESTIONS[1])
    assert computed() < 25 and contents("killed").count(b'"role"') == 4, computed()


def terminal(*arguments):
    return Terminal([HYPURA, "run", EMBEDDED, "--context", "512", "--temperature", "0", "--max-tokens", "24", *arguments],
                    {"XDG_STATE_HOME": path("state"), "XDG_CACHE_HOME": path("cache")})


def a_terminal_saves_and_loads():
    talk = terminal()
    assert "/save FILE" in talk.say("/?\n") and "/save FILE" in talk.say("/save\n") and "/load FILE" in talk.say("/load\n")
    talk.say("/set verbose\n")
    first = talk.say(QUESTIONS[0] + "\n")
    assert "is saved in " + path("kept") in talk.say("/save " + path("kept") + "\n")
    second = talk.say(QUESTIONS[1] + "\n")
    assert "cannot open" in talk.say("/load " + path("no-such") + "\n")
    assert "could not be saved" in talk.say("/save " + path("no-such-folder/x") + "\n")
    # Loading restores what was saved: the second question gets the same answer, and few tokens are read for it.
    assert "2 messages" in talk.say("/load " + path("kept") + "\n")
    again = talk.say(QUESTIONS[1] + "\n")
    figures = lambda text: [int(word) for word in text[text.index("(prompt:"):].replace(",", " ").split() if word.isdigit()][:2]
    answer = lambda text: text[text.index("rm - "):text.index("(prompt:")]  # on a slow machine, a status line precedes it
    assert answer(again) == answer(second), (second, again)
    assert figures(again)[0] == figures(second)[0] and 0 < figures(again)[0] - figures(again)[1] < 25, (second, again)
    talk.say("/clear\n")
    assert "2 messages" in talk.say("/load " + path("kept") + "\n")
    assert talk.end("/bye\n") == 0 and "ls" in first


if LONG:  # a software GPU takes long to start
    def a_conversation_goes_on_where_a_gpu_computes():
        """The file also contains data from device memory."""
        probe = subprocess.run([HYPURA, "run", EMBEDDED, "--gpu", "0", "--prompt", "x", "--max-tokens", "1"], capture_output=True,
                               stdin=subprocess.DEVNULL, timeout=120 * PATIENCE)
        if probe.returncode:
            print("# no GPU can be used:", probe.stderr.decode().strip().splitlines()[-1:])
            return
        whole = in_one_run(EMBEDDED, "--gpu", "0")
        said, took = in_many_runs(EMBEDDED, "gpu.session", "--gpu", "0")
        with open(path("stats")) as file:
            assert json.load(file)["bytes_gpu"] > 0
        assert said == whole, (said, whole)
        assert all(0 < tokens <= len(question) + 12 for tokens, question in zip(took[1:], QUESTIONS[1:])), took


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [path, contents, write, run, computed, terminal, in_one_run, in_many_runs]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
