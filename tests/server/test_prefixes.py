#!/usr/bin/env python3
"""Text that clients send again is not computed again: recorded sequences of requests, turn by turn. Prints TAP.

    test_prefixes.py HYPURA SOURCE_FOLDER
"""
import json
import os
import subprocess
import sys

import byte_model
import recorded
from harness import HYPURA, SOURCE, WORK, Server
from tap import run_tests

NAME = "bytes"
SERVER = None
QUESTIONS = ["Please read notes.txt and tell me what it says.", "Thank you. Is there anything else in it?", "And who wrote it?"]
ANSWERS = ["It speaks of a heron and of a number, no more.", "Nothing else stands in that file.", "It does not say."]
RESULT = "The password is blue heron 7319.\n" * 10


def make_model(path):
    """Makes a model with the chat template of Qwen2.5, which supports tools."""
    raw = os.path.join(WORK.name, "raw.gguf")
    geometry = {"arch": "qwen3", "layers": 1, "embedding": 64, "heads": 2, "kv-heads": 1, "head-size": 32, "feed-forward": 64,
                "vocabulary": 512, "context": 65536}
    subprocess.run([HYPURA, "synth", "--preset", "tiny-dense", "--no-check", raw,
                    *(f"--{name}={value}" for name, value in geometry.items())], check=True, capture_output=True)
    with open(os.path.join(SOURCE, "tests", "data", "oracle", "templates", "Qwen-Qwen2.5-7B-Instruct.jinja")) as file:
        byte_model.of(raw, path, file.read())


class Turn:
    """One request and its result. prompt, cached and generated are token counts, from the figures of its API."""

    def __init__(self, server, client, body):
        self.text, self.calls = "", []
        body = {**body, "model": NAME}
        if client.path == "/api/chat":
            answer = server.lines(client.path, body) if body["stream"] else [server.post(client.path, body)]
            self.text = "".join(line["message"]["content"] for line in answer)
            self.prompt, self.cached, self.generated = (answer[-1][key] for key in ("prompt_eval_count", "prompt_cached_count", "eval_count"))
        elif not body.get("stream"):
            server.post(client.path, body)
        elif client.path == "/v1/messages":
            events = server.events(client.path, body)
            self.text = "".join(event["delta"].get("text", "") for name, event in events if name == "content_block_delta")
            self.calls = [event["content_block"] for name, event in events if name == "content_block_start" and
                          event["content_block"]["type"] == "tool_use"]
            self.usage = usage = events[-2][1]["usage"]
            self.cached = usage["cache_read_input_tokens"]
            self.prompt = usage["input_tokens"] + self.cached + usage["cache_creation_input_tokens"]
            self.generated = usage["output_tokens"]
        elif client.path == "/v1/responses":
            done = server.events(client.path, body)[-1][1]["response"]
            self.text = "".join(part["text"] for item in done["output"] if item["type"] == "message" for part in item["content"])
            self.calls = [item for item in done["output"] if item["type"] == "function_call"]
            self.prompt, self.generated = done["usage"]["input_tokens"], done["usage"]["output_tokens"]
            self.cached = done["usage"]["input_tokens_details"]["cached_tokens"]
        else:
            chunks = [data for _, data in server.events(client.path, body) if data != "[DONE]"]
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            self.text = "".join(delta.get("content") or "" for delta in deltas)
            self.calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
            usage = chunks[-1]["usage"]
            self.prompt, self.generated = usage["prompt_tokens"], usage["completion_tokens"]
            self.cached = usage["prompt_tokens_details"]["cached_tokens"]


def told_to_say(body, path, answer):
    schema = {"enum": [answer]}
    if path == "/api/chat":
        return {**body, "format": schema}
    if path == "/v1/messages":
        return {**body, "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    if path == "/v1/responses":
        return {**body, "text": {"format": {"type": "json_schema", "name": "answer", "schema": schema}}}
    return {**body, "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def told_to_call(body, path, tool):
    choice = {"type": "tool", "name": tool} if path == "/v1/messages" else {"type": "function", "name": tool} \
        if path == "/v1/responses" else {"type": "function", "function": {"name": tool}}
    return {**body, "tool_choice": choice}


def hold(server, client):
    """Holds a conversation of a few turns. Yields each turn, and the number of its tokens that must be cached."""
    said, known, number = [("user", QUESTIONS[0])], 0, 0
    if client.tool:
        turn = Turn(server, client, told_to_call(client.request(said, number), client.path, client.tool))
        yield turn, known
        assert len(turn.calls) == 1, turn.calls
        # The forced call has no marks around it, but the template adds them in the next prompt.
        known, number = turn.prompt, number + 1
        said += [("call", "call_1", client.tool, {"path": "notes.txt"}), ("result", "call_1", RESULT)]
    for i, answer in enumerate(ANSWERS):
        turn = Turn(server, client, told_to_say(client.request(said, number), client.path, answer))
        yield turn, known
        assert answer in turn.text, turn.text
        # The token that ends an answer is sampled, but not computed.
        known, number = turn.prompt + turn.generated - 1, number + 1
        said += [("answer", turn.text), ("user", QUESTIONS[min(i + 1, len(QUESTIONS) - 1)])]
        if getattr(client, "aside", None):
            Turn(server, client, client.aside(said))


def second_turns_compute_new_tokens_only(name, client):
    def test():
        told = []
        for turn, known in hold(SERVER, client()):
            told.append(f"{turn.cached} of {turn.prompt}")
            assert turn.cached >= known and turn.prompt > known, (told, known)
            assert turn.prompt - turn.cached < 1200 or not known, told
        print(f"# cached: {', '.join(told)}")
    test.__name__ = name + " computes new tokens only"
    return test


def a_new_session_takes_the_system_prompt_from_the_cache():
    first = next(hold(SERVER, recorded.ClaudeCode()))[0]
    again = next(hold(SERVER, recorded.ClaudeCode()))[0]
    assert again.prompt == first.prompt and again.cached >= first.prompt - 1, (again.cached, first.prompt)


def volatile_heads_are_left_out_everywhere():
    head = "x-anthropic-billing-header: cc_version=2.1.37.3a3; cc_entrypoint=cli; cch=%05d;"
    user = {"role": "user", "content": "hello"}
    count = lambda **body: SERVER.post("/v1/messages/count_tokens", {"model": NAME, "messages": [user], **body})["input_tokens"]
    part = lambda text: {"type": "text", "text": text}
    plain = count(system="You help.")
    for i, system in enumerate(([part(head % 1), part("You help.")], [part(head % 2 + "\nYou help.")], head % 3 + "\r\n\nYou help.",
                                [part("\n" + head % 4 + "\n\n" + head % 5 + "\n"), part("You help.")])):
        assert count(system=system) == plain, i
    assert count(system=[part(head % 1)]) == count()
    # Users' messages and the middle of a text have no such heads.
    assert count(messages=[{**user, "content": head}]) > count() + len(head) - 10
    assert count(system="You help.\n" + head % 1) > plain + len(head) - 10
    # The same for the other APIs.
    asked = lambda path, body: SERVER.post(path, {"model": NAME, **body})
    for system in ("You help.", head % 6 + "\nYou help."):
        body = {"messages": [{"role": "system", "content": system}, user], "max_tokens": 1}
        assert asked("/v1/chat/completions", body)["usage"]["prompt_tokens"] == plain
        assert asked("/v1/responses/input_tokens", {"instructions": system, "input": "hello"})["input_tokens"] == plain
        for path, own in (("/api/chat", {"messages": body["messages"]}), ("/api/generate", {"system": system, "prompt": "hello"})):
            assert asked(path, {**own, "stream": False, "options": {"num_predict": 1}})["prompt_eval_count"] == plain
    server = Server(os.path.join(WORK.name, NAME + ".gguf"), "--context", 16384, "--keep-volatile-headers")
    turns = [turn for turn, _ in hold(server, recorded.ClaudeCode())]
    first = next(hold(SERVER, recorded.ClaudeCode()))[0]
    assert turns[0].prompt > first.prompt + 50 and turns[1].cached < 200, (turns[0].prompt, first.prompt, turns[1].cached)
    said = server.logged()
    assert server.stop() == 0
    assert said.count("is computed again") == 1, said[-2000:]


def marks_of_anthropic_count():
    mark = {"cache_control": {"type": "ephemeral"}}
    block = lambda text, **more: {"type": "text", "text": text, **more}
    tool = {"name": "Read", "description": "Reads.", "input_schema": recorded.SCHEMA}

    def usage(system, tools, *messages, **more):
        body = {"model": NAME, "max_tokens": 1, "system": system, "tools": tools, "messages": [
            {"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(messages)], **more}
        told = SERVER.post("/v1/messages", body)["usage"]
        count = {key: body[key] for key in ("model", "system", "tools", "messages")}
        total = SERVER.post("/v1/messages/count_tokens", count)["input_tokens"]
        assert total == told["input_tokens"] + told["cache_read_input_tokens"] + told["cache_creation_input_tokens"], (told, total)
        return told

    once = iter(f"{i} {os.urandom(9).hex()} " for i in range(99))
    system = lambda **more: [block(next(once) + "You help with what there is. " * 9, **more)]
    told = usage(system(), [tool], "Hello.")
    assert told["cache_creation_input_tokens"] == 0 and told["cache_creation"] is None and told["input_tokens"] > 250, told
    # A mark in the last message covers the whole prompt.
    first = system(**mark)
    told = usage(first, [tool], [block("Hello.", **mark)])
    assert told["input_tokens"] == 0 and told["cache_creation_input_tokens"] > 250, told
    assert told["cache_creation"] == {"ephemeral_5m_input_tokens": told["cache_creation_input_tokens"], "ephemeral_1h_input_tokens": 0}
    again = usage(first, [tool], [block("Hello.", **mark)])
    assert again["cache_creation_input_tokens"] + again["cache_read_input_tokens"] == sum(
        told[key] for key in ("cache_creation_input_tokens", "cache_read_input_tokens")), (told, again)
    assert again["cache_creation_input_tokens"] <= 1, again
    # With marks in the system message, or in that and in a tool, the rest counts as input. A mark on the request is one at its end.
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    question = "Hello. " * 20
    for marked in (system(**hour), [*system(**mark), block("More.", **hour)]):
        told = usage(marked, [{**tool, **mark}], question)
        assert len(question) < told["input_tokens"] < len(question) + 60 and told["cache_creation_input_tokens"] > 250, told
        assert told["cache_creation"]["ephemeral_1h_input_tokens"] == told["cache_creation_input_tokens"], told
    result = [{"type": "tool_result", "tool_use_id": "t", "content": [block(next(once) * 9, **mark)]}]
    call = [{"type": "tool_use", "id": "t", "name": "Read", "input": {}}]
    told = usage(system(), [tool], "Hello.", call, result, "I see.", question)
    assert len(question) < told["input_tokens"] < len(question) + 100 and told["cache_creation_input_tokens"] > 400, told
    assert usage(system(), [tool], question, **mark)["input_tokens"] == 0


def ollama_counts_all_tokens_of_a_prompt():
    body = {"model": NAME, "prompt": "Count me. " * 30, "raw": True, "stream": False, "options": {"num_predict": 1}}
    first, again = (SERVER.post("/api/generate", body) for _ in range(2))
    assert first["prompt_eval_count"] == again["prompt_eval_count"] == 300, (first, again)
    assert first["prompt_cached_count"] < 64 and again["prompt_cached_count"] == 299, (first, again)


def ollama_shifts():
    """tests/engine/test_generate.c checks the text after a shift."""
    body = {"model": NAME, "prompt": "Go on. " * 9, "raw": True, "stream": False}
    options = {"num_ctx": 128, "num_predict": 500, "temperature": 0, "seed": 1}
    pattern = {"type": "string", "minLength": 2000}
    ask = lambda path="/api/generate", more={}, **own: SERVER.post(path, {**body, "format": pattern, "options": {**options, **more}, **own})
    for keep in ({}, {"num_keep": 0}, {"num_keep": 40}, {"num_keep": -1}, {"num_keep": 10 ** 6}):
        told = ask(more=keep)
        assert (told["eval_count"], told["done_reason"], told["prompt_eval_count"]) == (500, "length", 63), told
        assert told["response"] == ask(more=keep)["response"]
    assert ask(shift=None)["eval_count"] == ask(shift=True)["eval_count"] == 500
    told = ask(shift=False)
    assert (told["eval_count"], told["done_reason"]) == (128 + 1 - 63, "length"), told
    assert told["response"] == ask()["response"][:len(told["response"])]
    # Answers end after ten contexts, whatever the request.
    for most in (-1, 100000):
        assert ask(more={"num_predict": most})["eval_count"] == 1280
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    assert ask("/api/chat", **chat)["eval_count"] == 500 and ask("/api/chat", **chat, shift=False)["eval_count"] < 128
    assert "shift" in SERVER.post("/api/generate", {**body, "shift": 1}, 400)["error"]
    # The other APIs end the answer.
    told = SERVER.post("/v1/completions", {"model": NAME, "prompt": "x" * 16000, "max_tokens": 1000, "response_format": {
        "type": "json_schema", "json_schema": {"name": "x", "schema": pattern}}, "ignore_eos": True})
    assert told["usage"]["completion_tokens"] <= 16384 - 16000 + 1, told


def ollama_continues_from_a_context():
    options = {"num_predict": 20, "temperature": 0}
    form = {"enum": ["It is fine."]}
    first = SERVER.post("/api/generate", {"model": NAME, "prompt": "How is it? " * 9, "stream": False, "format": form})
    tokens = first["context"]
    assert len(tokens) == first["prompt_eval_count"] + first["eval_count"] - 1  # without the token that ends the answer
    second = {"model": NAME, "prompt": "And now?", "stream": False, "options": options}
    given = SERVER.post("/api/generate", {**second, "context": tokens})
    bare = SERVER.post("/api/generate", second)
    assert given["prompt_eval_count"] == len(tokens) + bare["prompt_eval_count"], (given, bare)
    assert given["prompt_cached_count"] == len(tokens), given
    assert given["context"][:len(tokens)] == tokens and given["context"][len(tokens):][:bare["prompt_eval_count"]] == \
        bare["context"][:bare["prompt_eval_count"]]
    assert "context" not in SERVER.post("/api/generate", {**second, "raw": True})
    assert "context" in SERVER.post("/api/generate", {**second, "raw": True, "context": tokens}, 400)["error"]
    for broken in ([-1], [1.5], ["x"], [10 ** 9]):
        SERVER.post("/api/generate", {**second, "context": broken}, 400)
    # The token for the beginning of a text occurs only once.
    server = Server(os.path.join(SOURCE, "tests", "data", "oracle", "models", "llama.gguf"), "--context", 512)
    ask = lambda **own: server.post("/api/generate", {**second, "model": "llama", **own})
    first = ask(prompt="How is it?")
    again = ask(context=first["context"])
    bos, bare = first["context"][0], ask()
    assert bare["context"][0] == bos and again["prompt_eval_count"] == len(first["context"]) + bare["prompt_eval_count"] - 1
    assert bos not in again["context"][len(first["context"]):][:bare["prompt_eval_count"] - 1]
    assert server.stop() == 0


def early_changes_are_noted_once():
    server = Server(os.path.join(WORK.name, NAME + ".gguf"), "--context", 16384, "--parallel", 1)
    noted = lambda: [line for line in server.logged().splitlines()[start:] if "is computed again" in line]
    start = len(server.logged().splitlines())
    ask = lambda system, text="Hello.": server.post("/v1/chat/completions", {"model": NAME, "max_tokens": 1, "messages": [
        {"role": "system", "content": system}, {"role": "user", "content": text}]})
    # No note for another text, another question, and the same request again.
    for system, text in (("First.\n" + recorded.rules(9), "a"), ("Other words: " + recorded.TREE, "a"), ("Other words: " + recorded.TREE, "b 2"),
                         ("Other words: " + recorded.TREE, "b 2")):
        ask(system, text)
    assert not noted(), noted()
    today = "Today is 2041-03-{}, and you help.\n" + recorded.rules(9)
    usage = [ask(today.format(day))["usage"] for day in (21, 22, 23)]
    assert len(noted()) == 1, noted()
    fields = dict(field.split("=") for field in noted()[0].rsplit('" ', 1)[1].split())
    computed = usage[1]["prompt_tokens"] - usage[1]["prompt_tokens_details"]["cached_tokens"]
    assert fields["model"] == NAME + ":latest" and 0 < computed - int(fields["tokens"]) < 40, (fields, usage[1])
    assert abs(int(fields["position"]) - usage[1]["prompt_tokens_details"]["cached_tokens"]) <= 1, (fields, usage[1])
    assert "2041-03" not in server.logged()
    assert server.stop() == 0


if __name__ == "__main__":
    make_model(os.path.join(WORK.name, NAME + ".gguf"))
    SERVER = Server(os.path.join(WORK.name, NAME + ".gguf"), "--context", 16384, "--parallel", 4)
    failed = run_tests([second_turns_compute_new_tokens_only(name, client) for name, client in recorded.ALL.items()] + [
        a_new_session_takes_the_system_prompt_from_the_cache, volatile_heads_are_left_out_everywhere,
        marks_of_anthropic_count, ollama_counts_all_tokens_of_a_prompt, ollama_shifts,
        ollama_continues_from_a_context,
        early_changes_are_noted_once])
    failed += SERVER.stop() != 0
    WORK.cleanup()
    sys.exit(1 if failed else 0)
