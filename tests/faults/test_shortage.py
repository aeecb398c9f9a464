#!/usr/bin/env python3
"""A server whose address space is limited to little more than it uses, with clients that send long chats. Prints TAP.

    test_shortage.py HYPURA SOURCE_FOLDER
"""
import http.client
import json
import os
import random
import resource
import sys
import threading

sys.path.append(os.path.join(sys.argv[2], "tests", "server"))
from harness import FILE, MODEL, PATIENCE, QUESTION, Server, is_instrumented
from tap import run_tests

MIB = 1 << 20
MARGINS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 78, 90)  # MiB
CLIENTS, ROUNDS = 5, 4
WORDS = ["ls", "copies", "files", "the", "of", "a", "directory", "and", "lists", "names"]


def long_chat(number, length):
    chance = random.Random(number)
    turns = [{"role": "system", "content": "Be brief."}]
    for i in range(length):
        turns.append({"role": "user", "content": " ".join(chance.choices(WORDS, k=80))})
        turns.append({"role": "assistant", "content": " ".join(chance.choices(WORDS, k=40))})
    return [*turns, {"role": "user", "content": QUESTION}]


def request_of(number):
    """Returns a request: each API in turn, with and without streaming."""
    turns, stream = long_chat(number, 40 + 97 * number % 1500), number % 2 == 0
    few = {"temperature": 0, "max_tokens": 4, "stream": stream, "model": MODEL}
    return [("/api/chat", {"model": MODEL, "messages": turns, "stream": stream, "options": {"temperature": 0, "num_predict": 4}}),
            ("/v1/chat/completions", {"messages": turns[:4] + turns[-1:], **few}),
            ("/v1/messages", {"messages": [turns[1], turns[2], turns[-1]], "system": "Be brief.", **few}),
            ("/v1/responses", {"input": turns[:4] + turns[-1:], **{k: v for k, v in few.items() if k != "max_tokens"},
                               "max_output_tokens": 4})][number % 4]


def ask(server, place, body):
    """Returns status and text. The status is None if the connection ended without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60 * PATIENCE)
    try:
        connection.request("POST", place, json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (http.client.HTTPException, ConnectionError):
        return None, ""
    finally:
        connection.close()


def words_of(text):
    """Returns the text of an answer in any API, streamed or not, and whether it contains an error."""
    said, failed = "", False
    for line in text.splitlines():
        line = line.removeprefix("data: ")
        if not line.startswith("{"):
            continue
        value = json.loads(line)
        kind = value.get("type", "")
        failed |= bool(value.get("error")) or kind == "error"
        for choice in value.get("choices", []):
            said += (choice.get("delta") or choice.get("message")).get("content") or ""
        said += (value.get("message") or {}).get("content", "") if "created_at" in value and "message" in value else ""
        if kind == "content_block_delta":
            said += value["delta"].get("text", "")
        if kind == "message":
            said += "".join(block.get("text", "") for block in value["content"])
        if kind == "response.output_text.delta":
            said += value["delta"]
        if value.get("object") == "response":
            said += "".join(part["text"] for item in value["output"] for part in item.get("content", []))
    return said, failed


def limit(server, margin):
    """Limits the server's address space to "margin" MiB above its current size. None removes the limit."""
    size = resource.RLIM_INFINITY
    if margin:
        with open(f"/proc/{server.process.pid}/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize() + margin * MIB
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def the_server_survives_and_answers_right():
    options = (FILE, "--context", "512", "--gpu", "none", "--parallel", "4", "--memory", "600M")
    numbers = [CLIENTS * r + c for r in range(ROUNDS) for c in range(CLIENTS)]
    twin = Server(*options)
    expected = {number: words_of(ask(twin, *request_of(number))[1]) for number in numbers}
    assert all(said and not failed for said, failed in expected.values()), expected
    assert twin.stop() == 0
    wrong, counts = [], {"right": 0, "refused": 0, "broken off": 0}

    def client(own):
        for number in own:
            status, text = ask(server, *request_of(number))
            if status is None:
                counts["broken off"] += 1
                continue
            said, failed = words_of(text)
            if status == 200 and not failed and (said, failed) == expected[number]:
                counts["right"] += 1
            elif status == 503 or (status == 200 and failed and expected[number][0].startswith(said)):
                counts["refused"] += 1
            else:
                wrong.append((number, status, text[:300]))

    for margin in MARGINS:
        # With one arena, no thread has spare memory of its own, so the limit applies to every request.
        server = Server(*options, environment={"MALLOC_ARENA_MAX": "1"})
        words_of(ask(server, "/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "stream": False,
                                           "options": {"num_predict": 4}})[1])
        limit(server, margin)
        threads = [threading.Thread(target=client, args=(numbers[c::CLIENTS],)) for c in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        limit(server, None)
        assert server.process.poll() is None, (margin, server.process.returncode, server.logged()[-400:])
        assert not wrong, (margin, wrong)
        for number in numbers[:4]:
            assert words_of(ask(server, *request_of(number))[1]) == expected[number], (margin, number)
        assert server.stop() == 0
        print(f"# with {margin} MiB more: {counts} by now", flush=True)
    assert counts["right"] and counts["refused"] + counts["broken off"], counts


if __name__ == "__main__":
    if is_instrumented():
        print("1..0 # SKIP sanitizers need address space of their own")
        sys.exit(0)
    sys.exit(1 if run_tests([the_server_survives_and_answers_right]) else 0)
