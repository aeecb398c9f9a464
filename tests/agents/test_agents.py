#!/usr/bin/env python3
"""Coding agents from the npm registry with the server. Each agent gets a question, reads a file with its own tool, answers, and
gets another question in the same chat. Prints TAP.

    test_agents.py HYPURA SOURCE_FOLDER [AGENT]...

Installs the agents (about 2 GB) in the user's cache folder, in the versions of versions.json, and runs them in a network namespace
that has only the loopback device. The model has random weights; proxy.py makes it call the tool and answer.
"""
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile

HYPURA, SOURCE = sys.argv[1:3]
HERE = os.path.join(SOURCE, "tests", "agents")
sys.path += [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "tests", "server")]
import agents
import gguf_file
import proxy
from tap import run_tests

MODEL = "random-weights"
QUESTIONS = "Please read notes.txt and tell me what it says.", "Thank you. Is there anything else in it?"
ANSWERS = "It speaks of a heron and of a number, no more.", "Nothing else stands in that file."
SECRET = "blue heron 7319"
INSIDE = "HYPURA_AGENTS_INSIDE"  # tells the process in the namespace what could not be installed


# ---- outside: installing ----------------------------------------------------------------------------------------------

def cache_folder():
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "hypura-agents")


def folder_of(package):
    with open(os.path.join(HERE, "versions.json")) as file:
        version = json.load(file)[package]
    return os.path.join(cache_folder(), f"{package}-{version}".replace("/", "+")), f"{package}@{version}"


def is_in_reach(wanted):
    try:
        return subprocess.run(["npm", "view", wanted, "version", "--fetch-retries=0"], timeout=60, capture_output=True).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def install(package):
    """Installs a package. Returns None, or the reason why it is missing."""
    folder, wanted = folder_of(package)
    if os.path.isdir(folder):
        return None
    if not is_in_reach(wanted):
        return f"{wanted} is not installed, and npm cannot reach it"
    with tempfile.TemporaryDirectory(dir=cache_folder()) as new:
        try:
            done = subprocess.run(["npm", "install", "--prefix", new, "--no-audit", "--no-fund", "--loglevel=error", wanted],
                                  timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except subprocess.TimeoutExpired:
            return f"npm install {wanted} took too long"
        if done.returncode:
            for line in done.stderr.decode(errors="replace").splitlines()[-6:]:
                print("# " + line)
            return f"npm install {wanted} failed"
        os.mkdir(os.path.join(new, "whole"))
        os.rename(new, folder)
        os.mkdir(new)  # for TemporaryDirectory to remove
    return None


def outside():
    if not shutil.which("npm"):
        print("1..0 # SKIP npm is not installed, so there are no agents to run")
        return 0
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid():
        alone.insert(1, "--map-root-user")
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL).returncode:
        print("1..0 # SKIP unshare cannot make a network namespace here, and the agents must not reach the network")
        return 0
    os.makedirs(cache_folder(), exist_ok=True)
    with open(os.path.join(cache_folder(), "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = {package: install(package) for package in sorted({"node"} | {agent.package for agent in chosen().values()})}
    return subprocess.run([*alone, sys.executable, os.path.abspath(__file__), *sys.argv[1:]],
                          env={**os.environ, INSIDE: json.dumps(missing)}).returncode


# ---- inside -----------------------------------------------------------------------------------------------------------

def chosen():
    return {name: agent for name, agent in agents.ALL.items() if not sys.argv[3:] or name in sys.argv[3:]}


def raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


def make_model(path, work):
    """Makes a model of one small layer with a long context and the chat template of Qwen2.5, which supports tools."""
    raw = os.path.join(work, "raw.gguf")
    geometry = {"arch": "qwen3", "layers": 1, "embedding": 64, "heads": 2, "kv-heads": 1, "head-size": 32, "feed-forward": 64,
                "vocabulary": 4000, "context": 262144}
    subprocess.run([HYPURA, "synth", "--preset", "tiny-dense", "--no-check", raw,
                    *(f"--{name}={value}" for name, value in geometry.items())], check=True, capture_output=True)
    values, tensors = gguf_file.read(raw)
    key = "tokenizer.chat_template"
    with open(os.path.join(SOURCE, "tests", "data", "oracle", "templates", "Qwen-Qwen2.5-7B-Instruct.jinja")) as file:
        template = file.read()
    gguf_file.write(path, [value for value in values if not value.startswith(gguf_file.text(key))] +
                    [gguf_file.string_value(key, template)], tensors)


class Chat:
    """The plan for requests that offer the tool: call it, report its result, then answer the second question."""

    def __init__(self, tool):
        self.tool, self.calls = tool, 0

    def plan(self, body, tools):
        said = json.dumps({key: value for key, value in body.items() if key != "tools"})
        if self.tool not in tools or QUESTIONS[0] not in said:
            return None
        if QUESTIONS[1] in said:
            return "say", ANSWERS[1]
        if SECRET in said:
            return "say", ANSWERS[0]
        self.calls += 1
        return ("call", self.tool) if self.calls < 3 else ("say", "The tool gave nothing.")


def hold_chat(agent_class, port, work):
    home, project = os.path.join(work, "home"), os.path.join(work, "project")
    os.makedirs(home)
    os.makedirs(project)
    agents.write(os.path.join(project, "notes.txt"), f"The password is {SECRET}.\n")
    chat = Chat(agent_class.tool[0])
    between = proxy.Proxy(port, chat.plan)
    values = {"url": f"http://127.0.0.1:{between.port}", "model": MODEL, "file": os.path.join(project, "notes.txt")}
    agent = agent_class(folder_of(agent_class.package)[0], home, project, values)
    between.tools = {chat.tool: agent.fill(agent_class.tool[1])}
    paths = {f"XDG_{name}_HOME": f"{home}/{path}" for name, path in (
        ("CONFIG", ".config"), ("CACHE", ".cache"), ("DATA", ".local/share"), ("STATE", ".local/state"))}
    environment = {**paths, "HOME": home, "TERM": "dumb", "LANG": "C.UTF-8", "NO_COLOR": "1", "CI": "1",
                   "PATH": os.path.join(folder_of("node")[0], "node_modules", ".bin") + ":" + os.environ["PATH"]}
    try:
        agent.prepare(environment)
        told, turns, before = [], [], 0
        for turn, question in enumerate(QUESTIONS):
            told.append(agent.ask(turn, question, environment))
            passed = between.settled()
            turns.append(passed[before:])
            before = len(passed)
    finally:
        agent.close()
        between.stop()
    seen = "\n".join(f"{one.path} {one.status} {one.planned} prompt {one.prompt} cached {one.cached} " +
                     ("" if one.status == 200 else one.text[:300]) for turn in turns for one in turn)
    for answer, (status, said) in zip(ANSWERS, told):
        assert status == 0 and answer in said, (status, said[-2000:], seen)
    assert all(one.status == 200 for turn in turns for one in turn), seen
    planned = [[one for one in turn if one.planned] for turn in turns]
    assert [one.planned[0] for one in planned[0]] == ["call", "say"], seen
    call, answer = planned[0]
    assert call.prompt > 1000, seen
    # The request with the tool's result and the next turn reuse what was computed before.
    assert answer.cached >= 0.95 * call.prompt and all(turn[0].cached >= 0.95 * answer.prompt for turn in planned[1:]), seen
    print("# " + ", ".join(f"{one.cached} of {one.prompt} tokens" for turn in planned for one in turn) + " from the cache")


def inside(missing):
    raise_loopback()
    with tempfile.TemporaryDirectory(prefix="hypura-agents-", ignore_cleanup_errors=True) as work:
        models = os.path.join(work, "models")
        os.makedirs(models)
        make_model(os.path.join(models, MODEL + ".gguf"), work)
        environment = {**os.environ, "XDG_CACHE_HOME": work, "XDG_STATE_HOME": work}
        with open(os.path.join(work, "log"), "w+") as log:
            server = subprocess.Popen([HYPURA, "serve", "--port", "0", "--models", models, "--memory", "1G", "--context", "262144",
                                       "--parallel", "4"], stdout=subprocess.PIPE, stderr=log, env=environment)
            port = int(server.stdout.readline().decode().strip().rsplit(":", 1)[1])

            def test_of(name, agent):
                def test():
                    why = missing.get(agent.package) or missing.get("node")
                    return why or hold_chat(agent, port, tempfile.mkdtemp(dir=work))
                test.__name__ = name + " reads a file, answers, and continues the chat"
                return test

            failed = run_tests([test_of(name, agent) for name, agent in chosen().items()])
            server.send_signal(signal.SIGTERM)
            ended = server.wait(timeout=60)
            if failed or ended:
                log.seek(0)
                for line in log.readlines()[-20:]:
                    print("# " + line.rstrip())
    return 1 if failed or ended else 0


if __name__ == "__main__":
    sys.exit(inside(json.loads(os.environ[INSIDE])) if INSIDE in os.environ else outside())
