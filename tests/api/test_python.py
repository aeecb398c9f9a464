#!/usr/bin/env python3
"""The Python bindings (bindings/python/hypura.py) with the shared library. Prints TAP.

    test_python.py LIBRARY SOURCE_FOLDER
"""
import ctypes
import gc
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time

LIBRARY, SOURCE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import is_instrumented
from tap import run_tests, tests_of

MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")
QUESTION = "What does the ls command do?"
os.environ["HYPURA_SHARED_LIBRARY"] = LIBRARY
os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = WORK.name
if is_instrumented():
    print("1..0 # SKIP sanitizers must be loaded before Python")
    sys.exit(0)
sys.path.append(os.path.join(SOURCE, "bindings", "python"))
sys.dont_write_bytecode = True
import hypura

model = None


def opened():
    global model
    model = model or hypura.Model(MODEL, context=512, sessions=3, gpu="none", forget_usage=True)
    return model


def error_of(status, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except hypura.Error as error:
        assert error.status == status, (error.status, str(error))
        return str(error)
    raise AssertionError("the call succeeded")


def structs_match_the_headers():
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        return "a compiler is missing"
    names = {"_Error": "error", "_Adapter": "adapter", "_Options": "options", "_Info": "model_info", "_Plan": "plan", "_Chat": "chat",
             "_Bias": "logit_bias", "_Sampling": "sampling", "_Request": "request", "_Logprob": "logprob", "_Event": "event",
             "_Result": "result", "_Statistics": "statistics", "_Places": "places", "_Measure": "measure", "_Rate": "rate",
             "_Speed": "speed", "_EndpointState": "endpoint_state", "_Inspection": "inspection"}
    lines, expected = [], []
    for ours, theirs in names.items():
        struct = getattr(hypura, ours)
        lines.append(f'printf("{theirs} %zu\\n", sizeof(hypura_{theirs}));')  # shows missing fields
        expected.append(f"{theirs} {ctypes.sizeof(struct)}")
        for name, kind, *_ in struct._fields_:
            lines.append(f'printf("{theirs}.{name} %zu %zu\\n", offsetof(hypura_{theirs}, {name}), sizeof(((hypura_{theirs} *)0)->{name}));')
            expected.append(f"{theirs}.{name} {getattr(struct, name).offset} {ctypes.sizeof(kind)}")
    source, program = os.path.join(WORK.name, "layout.c"), os.path.join(WORK.name, "layout")
    with open(source, "w", encoding="ascii") as file:
        file.write("#include <hypura/hypura.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\n}\n")
    subprocess.run([compiler, "-I", os.path.join(SOURCE, "include"), source, "-o", program], check=True)
    found = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    assert found == expected, [pair for pair in zip(found, expected) if pair[0] != pair[1]][:5]


def statuses_match_the_headers():
    with open(os.path.join(SOURCE, "include", "hypura", "error.h"), encoding="ascii") as file:
        names = re.findall(r"^    HYPURA_(?:ERROR_)?([A-Z]+)\b", file.read(), re.M)
    assert [name.lower() for name in names] == list(hypura._STATUS), (names, hypura._STATUS)


def the_version_matches_the_project():
    with open(os.path.join(SOURCE, "bindings", "python", "pyproject.toml"), encoding="utf-8") as file:
        assert f'version = "{hypura.version()}"' in file.read()


def plans_statistics_and_budgets_are_reported():
    """Must be the first test to open a model, since all memory of the process counts."""
    small_options = {"context": 256, "sessions": 1, "gpu": "none"}
    least = int(re.search(r"smallest that works is (\d+) bytes", error_of("memory", hypura.plan, MODEL, memory="2M", **small_options))[1])
    budget = least + (2 << 20)
    plan = hypura.plan(MODEL, memory=budget, **small_options)
    assert plan.memory_bytes == budget and plan.storage_bytes > 0 and "streaming" in plan.mode, plan
    with hypura.Model(MODEL, memory=budget, forget_usage=True, **small_options) as small:
        text = small.answer(QUESTION, temperature=0, max_tokens=12).text
        assert small.statistics["answer_tokens"] >= 11 and small.statistics["memory_bytes"] == budget, small.statistics
        small.set_memory(budget + (8 << 20))
        assert small.statistics["memory_bytes"] == budget + (8 << 20)
        assert small.answer(QUESTION, temperature=0, max_tokens=12).text == text
        assert small.info.architecture == "qwen3moe" and small.info.experts == 12 and "im_start" in small.template


def places_used_experts_and_speed_are_reported():
    folder = os.path.join(WORK.name, "copies")
    os.makedirs(folder, exist_ok=True)
    trace = os.path.join(WORK.name, "trace")
    shutil.copy(MODEL, folder)
    seen = []
    with hypura.Model(MODEL, context=256, sessions=1, gpu="none", gpu_memory=["1G", 0], mirrors=[folder], forget_usage=True, trace=trace,
                      load_behind=True, on_load=lambda done, whole: bool(seen.append(whole)) or True) as one:
        info = one.info
        assert info.files == 1 and one.plan.even_tokens_per_second > 0
        one.take_used_experts()
        assert not any(any(layer) for layer in one.take_used_experts())
        one.answer(QUESTION, temperature=0, max_tokens=4)
        used = one.take_used_experts()
        assert len(used) == info.layers and all(len(layer) == info.experts for layer in used) and sum(map(sum, used)) > info.experts_used
        places = one.places
        assert len(places) == info.layers + 1 and seen and set(seen) <= {seen[0]}, (len(places), seen)
        assert sum(place.gpu_bytes + place.ram_bytes + place.cached_bytes + place.storage_bytes for place in places) == info.weight_bytes
        with one.session() as session:
            speed = session.measure_speed(prompt_tokens=16, answer_tokens=4, rounds=2)
        assert 0 < speed.prompt_tokens_per_second.least <= speed.prompt_tokens_per_second.median <= speed.prompt_tokens_per_second.most
        assert speed.answer_tokens_per_second.median > 0 and speed.memory_bytes_per_second.median == 0, speed
        one.end_trace()
        assert os.path.getsize(trace) > 0
    assert "options.gpu_count" in error_of("argument", hypura.Model, MODEL, gpu_memory=["1G"] * 99)
    assert "99 mirrors" in error_of("argument", hypura.Model, MODEL, mirrors=[folder] * 99)


def an_answer_streams_and_says_how_it_ended():
    with opened().session() as session:
        pieces = list(session.stream(QUESTION, temperature=0, max_tokens=24))
        assert all(pieces) and "".join(pieces).startswith("ls - list directory contents"), pieces
        result = session.result
        assert result.finish is hypura.Finish.MAX_TOKENS and result.answer_tokens == 24 and result.prompt_tokens > 5, result
        whole = session.answer(QUESTION, temperature=0, stops=["directory"])
        assert whole.text == "ls - list " and whole.finish is hypura.Finish.STOP and whole.stop == "directory", whole
        messages = [{"role": "user", "content": QUESTION}]
        assert session.answer(messages, temperature=0, max_tokens=24).text == "".join(pieces)
        tokens = opened().tokenize(opened().render(messages), parse_special=True)
        assert session.answer(tokens, temperature=0, max_tokens=24).text == "".join(pieces)
        # Text that waits comes in one piece, so a short answer may be a single one.
        assert len(list(session.stream("ls", raw=True, max_tokens=400, ignore_end=True))) > 4


def tokens_come_with_probabilities():
    with opened().session() as session:
        events = [event for event in session.events("The ls", raw=True, max_tokens=4, temperature=0, top_logprobs=3) if event.kind == "token"]
        assert len(events) == 4 and all(len(event.top) == 3 and event.top[0] == (event.token, event.logprob) for event in events), events


def answers_keep_to_a_schema_a_grammar_and_settings():
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
    with opened().session() as session:
        assert session.answer("Say", json_schema=schema).text.replace(" ", "") in ('{"a":"x"}', '{"a":"y"}')
        assert session.answer("Say", grammar='root ::= "yes" | "no"').text in ("yes", "no")
        first = session.answer("ls", raw=True, max_tokens=1, temperature=0, want_tokens=True)
        token = session.tokens[-1]
        other = session.answer("ls", raw=True, max_tokens=1, temperature=0, logit_bias={token: float("-inf")})
        assert other.text != first.text
        assert session.answer("a", raw=True, max_tokens=8, temperature=1.5, seed=7).text == \
            session.answer("a", raw=True, max_tokens=8, temperature=1.5, seed=7).text
        for wrong in ({"warmth": 1}, {"json_object": True, "grammar": "x"}):
            try:
                session.answer("a", **wrong)
                raise AssertionError(wrong)
            except (TypeError, ValueError):
                pass
        assert "grammar" in error_of("argument", session.answer, "a", grammar="root ::= (")


def a_file_and_its_plan_are_described_in_full():
    whole = hypura.inspect(MODEL, tensors=True, layers=True, context=256, sessions=1, gpu="none")
    layers, experts = whole["layers"], whole["experts"]
    assert whole["architecture"] == "qwen3moe" and experts == 12 and len(whole["plan"]["places"]) == layers + 1, whole["plan"]
    assert len(whole["steps"]["layers"]) == layers and whole["metadata"]["tokenizer.ggml.tokens"]["count"] == whole["vocabulary"]
    assert sum(tensor["bytes"] for tensor in whole["tensors"]) == whole["bytes"] == sum(whole["sizes"].values())
    one = hypura.inspect(MODEL, layer=3, context=256, sessions=1, gpu="none")
    assert one["steps"] == [whole["steps"]["layers"][3]] and "tensors" not in one
    made = hypura.inspect(preset="glm-5", memory="40G", context=2048, gpu="none")
    assert made["experts"] == 256 and "streaming" in made["plan"]["mode"], made["plan"]
    hosts = os.path.join(WORK.name, "hosts.json")
    with open(hosts, "w", encoding="ascii") as file:
        file.write('{"memory": "300M", "memory_bytes_per_second": 5e10, "drive_bytes_per_second": 1e8, "link_bits_per_second": 1e12, '
                   '"hosts": [{"name": "desk", "memory_bytes_per_second": 1e9}, {"name": "box", "count": 2}]}')
    planned = hypura.inspect_hosts(MODEL, hosts, context=256, gpu="none")
    assert [host["same_machine_as"] for host in planned["hosts"]] == [0, 1, 1] and planned["title"] == whole["title"], planned
    assert "there is no layer 8" in error_of("argument", hypura.inspect, MODEL, layer=8, gpu="none")
    assert "no file and no preset" in error_of("argument", hypura.inspect)
    assert "takes no memory size" in error_of("argument", hypura.inspect_hosts, MODEL, hosts, memory="1G")


def requests_are_answered_as_by_a_server():
    with hypura.Endpoint(MODEL, context=256, sessions=2, gpu="none", forget_usage=True) as endpoint:
        chat = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 8}
        status, answer = endpoint.ask("/v1/chat/completions", chat)
        assert status == 200 and answer["choices"][0]["message"]["content"].startswith("ls - list directory"), answer
        replies = []
        threads = [threading.Thread(target=lambda: replies.append(endpoint.ask("/v1/chat/completions", chat))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [reply["choices"] for _, reply in replies] == [answer["choices"]] * 3, replies
        status, answer = endpoint.ask("/v1/embeddings", {"input": ["a", "b"]})
        assert status == 200 and len(answer["data"]) == 2, answer
        status, answer = endpoint.ask("/v1/chat/completions", {"messages": 1})
        assert status == 400 and "messages" in answer["error"]["message"], answer
        assert "unknown path" in error_of("argument", endpoint.ask, "/api/pull", {})
        state = endpoint.state
        assert "manpage" in state["name"] and state["sessions"] == 2 and state["mode"] == "full-resident" and state["tokens"] > 20, state
        endpoint.set_memory(state["memory_bytes"] // 2)
        assert endpoint.state["memory_bytes"] == state["memory_bytes"] // 2, endpoint.state


def leaving_the_loop_ends_the_answer():
    with opened().session() as session:
        for piece in session.stream(QUESTION, ignore_end=True):
            assert piece
            break
        gc.collect()
        assert session.answer("ls", raw=True, max_tokens=2).answer_tokens == 2


def a_cancel_from_another_thread_ends_it():
    with opened().session() as session:
        threading.Timer(0.1, session.cancel).start()
        start = time.time()
        error_of("cancelled", session.answer, QUESTION, ignore_end=True, shift=True)
        error_of("cancelled", session.answer, QUESTION)  # the cancel lasts until it is taken back
        session.cancel(False)
        assert session.answer(QUESTION, max_tokens=2).answer_tokens == 2 and time.time() - start < 100


def threads_share_a_model():
    prompts = ["The ls command", "The kernel", "mmap is", "A file system"]
    alone = [opened().answer(prompt, raw=True, max_tokens=12, temperature=0).text for prompt in prompts]
    together = [None] * len(prompts)

    def work(number):
        together[number] = opened().answer(prompts[number], raw=True, max_tokens=12, temperature=0).text

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone, (together, alone)


def a_session_can_be_waited_for():
    with opened().session() as session:
        events = session.events("The ls", raw=True, max_tokens=2)
        readable, _, _ = select.select([session], [], [], 60)
        assert readable == [session] and list(events)


def sessions_fork_and_outlive_the_program():
    with opened().session() as session:
        session.answer(QUESTION, max_tokens=8, temperature=0)
        path = os.path.join(WORK.name, "session")
        session.save(path)
        with session.fork() as fork, opened().session() as loaded:
            loaded.load(path)
            assert fork.tokens == loaded.tokens == session.tokens and len(fork.tokens) > 8
            more = [one.answer(" and", follows=True, max_tokens=8, temperature=0).text for one in (session, fork, loaded)]
            assert more[0] == more[1] == more[2], more
        error_of("io", session.load, "/nowhere")


def texts_become_tokens_vectors_and_logits():
    tokens = opened().tokenize("ls lists ä directory")
    assert opened().detokenize(tokens).decode() == "ls lists ä directory" and opened().count_tokens("ls lists ä directory") == len(tokens)
    with opened().session() as session:
        vector = session.embed("ls lists a directory")
        assert len(vector) == opened().info.embedding_width and abs(sum(x * x for x in vector) - 1) < 1e-3
        rows = session.logits(tokens, first=len(tokens) - 2)
        assert len(rows) == 2 and len(rows[0]) == opened().info.vocabulary_size
        best = max(range(len(rows[1])), key=rows[1].__getitem__)
        assert opened().detokenize([best]).decode() == session.answer(tokens, max_tokens=1, temperature=0).text
        error_of("unsupported", session.judge, "a", "b")


def wrong_use_is_refused():
    assert "/nowhere" in error_of("io", hypura.Model, "/nowhere")
    for options in ({"memori": 1}, {"memory": "many"}):
        try:
            hypura.Model(MODEL, **options)
            raise AssertionError(options)
        except (TypeError, ValueError):
            pass
    session = opened().session()
    session.close()
    session.close()
    try:
        session.answer("x")
        raise AssertionError("a closed session answered")
    except ValueError:
        pass
    seen = []
    error_of("cancelled", hypura.Model, MODEL, gpu="none", on_load=lambda done, whole: bool(seen.append((done, whole))))
    assert seen


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [opened, error_of]))
    if model:
        model.close()
    WORK.cleanup()
    sys.exit(1 if failed else 0)
