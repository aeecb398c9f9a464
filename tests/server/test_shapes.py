#!/usr/bin/env python3
"""Compares answers, field by field, with the documentation of OpenAI, Anthropic and Ollama. Prints TAP.

    test_shapes.py HYPURA SOURCE_FOLDER

A shape is a type, a tuple of alternative shapes, a list with the shape of its elements, or an object with the shapes of its fields.
All fields must be present, except those whose names end with "?", and no others.
"""
import json
import os
import sys
import time

import harness
from harness import GREEDY, MODEL, QUESTION, SOURCE, WEATHER, WORK, Server
from tap import run_tests

ANY = object()
NUMBER = (int, float)
TEXT_OR_NULL = (str, None)
SERVER = None


def check(value, shape, path="answer"):
    if shape is ANY:
        return
    if isinstance(shape, tuple):
        problems = []
        for one in shape:
            try:
                return check(value, one, path)
            except AssertionError as problem:
                problems.append(str(problem))
        raise AssertionError("; or ".join(problems))
    if isinstance(shape, list):
        assert isinstance(value, list), f"{path} is {value!r}, not a list"
        for i, one in enumerate(value):
            check(one, shape[0], f"{path}[{i}]")
    elif isinstance(shape, dict):
        assert isinstance(value, dict), f"{path} is {value!r}, not an object"
        for name, inner in shape.items():
            if name.rstrip("?") in value:
                check(value[name.rstrip("?")], inner, f"{path}.{name}")
            else:
                assert name.endswith("?"), f"{path} lacks {name}"
        known = {name.rstrip("?") for name in shape}
        assert set(value) <= known, f"{path} has unexpected fields {sorted(set(value) - known)}"
    elif isinstance(shape, type):
        assert isinstance(value, shape) and not (shape is not bool and isinstance(value, bool)), \
            f"{path} is {value!r}, not of type {shape.__name__}"
    else:
        assert value == shape, f"{path} is {value!r}, not {shape!r}"


# ---- OpenAI ---------------------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int, "prompt_tokens_details": {"cached_tokens": int},
         "completion_tokens_details": {"reasoning_tokens": int}}
TOP = {"token": str, "logprob": NUMBER, "bytes": ([int], None)}
LOGPROBS = {"content": ([{**TOP, "top_logprobs": [TOP]}], None), "refusal": None}
CALL = {"id": str, "type": "function", "function": {"name": str, "arguments": str}}
# OpenAI's own answers have no field for reasoning. Clients expect it in these.
REASONING = {"reasoning_content?": str, "reasoning?": str}
FINISH = ("stop", "length", "tool_calls")
COMPLETION = {"id": str, "object": "chat.completion", "created": int, "model": str, "system_fingerprint": str, "usage": USAGE,
              "choices": [{"index": int, "finish_reason": FINISH, "logprobs": (LOGPROBS, None),
                           "message": {"role": "assistant", "content": TEXT_OR_NULL, "refusal": None, "annotations": [ANY],
                                       "tool_calls?": [CALL], **REASONING}}]}
CHUNK = {"id": str, "object": "chat.completion.chunk", "created": int, "model": str, "system_fingerprint": str, "usage?": (USAGE, None),
         "choices": [{"index": int, "finish_reason": FINISH + (None,), "logprobs": (LOGPROBS, None),
                      "delta": {"role?": "assistant", "content?": str, "tool_calls?": [{"index": int, **CALL}], **REASONING}}]}
OLD_LOGPROBS = {"tokens": [str], "token_logprobs": [NUMBER], "top_logprobs": [dict], "text_offset": [int]}
OLD_COMPLETION = {"id": str, "object": "text_completion", "created": int, "model": str, "system_fingerprint": str, "usage?": (USAGE, None),
                  "choices": [{"text": str, "index": int, "logprobs": (OLD_LOGPROBS, None), "finish_reason": ("stop", "length", None)}]}
OPENAI_MODEL = {"id": str, "object": "model", "created": int, "owned_by": str}
EMBEDDINGS = {"object": "list", "model": str, "data": [{"object": "embedding", "index": int, "embedding": ([NUMBER], str)}],
              "usage": {"prompt_tokens": int, "total_tokens": int}}
OPENAI_ERROR = {"error": {"message": str, "type": str, "param": TEXT_OR_NULL, "code": TEXT_OR_NULL}}


def chat(**more):
    return {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 12, **more}


TOOLS = [{"type": "function", "function": WEATHER}]


def openai_chat():
    check(SERVER.post("/v1/chat/completions", chat()), COMPLETION)
    check(SERVER.post("/v1/chat/completions", chat(n=2, logprobs=True, top_logprobs=2)), COMPLETION)
    called = SERVER.post("/v1/chat/completions", chat(tools=TOOLS, tool_choice="required", max_tokens=100))
    check(called, COMPLETION)
    assert called["choices"][0]["finish_reason"] == "tool_calls" and called["choices"][0]["message"]["tool_calls"]
    for body in (chat(logprobs=True, top_logprobs=1, stream_options={"include_usage": True}),
                 chat(tools=TOOLS, tool_choice="required", max_tokens=100)):
        events = SERVER.events("/v1/chat/completions", {**body, "stream": True})
        assert events.pop() == (None, "[DONE]")
        for name, chunk in events:
            assert name is None
            check(chunk, CHUNK)


def openai_completions():
    body = {"model": MODEL, "prompt": "ls - list", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    whole = SERVER.post("/v1/completions", body)
    check(whole, OLD_COMPLETION)
    assert whole["usage"] and whole["choices"][0]["logprobs"]
    events = SERVER.events("/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert events.pop() == (None, "[DONE]")
    for _, chunk in events:
        check(chunk, OLD_COMPLETION)


def openai_models_and_embeddings():
    check(SERVER.json("GET", "/v1/models"), {"object": "list", "data": [OPENAI_MODEL]})
    check(SERVER.json("GET", "/v1/models/" + MODEL), OPENAI_MODEL)
    check(SERVER.post("/v1/embeddings", {"model": MODEL, "input": ["a", "b"]}), EMBEDDINGS)
    check(SERVER.post("/v1/embeddings", {"model": MODEL, "input": "a", "encoding_format": "base64"}), EMBEDDINGS)


def openai_errors():
    missing = {"model": "nothing"}
    for path, body, status, kind, code in (
            ("/v1/chat/completions", {**chat(), **missing}, 404, "invalid_request_error", "model_not_found"),
            ("/v1/completions", {**missing, "prompt": "x"}, 404, "invalid_request_error", "model_not_found"),
            ("/v1/embeddings", {**missing, "input": "x"}, 404, "invalid_request_error", "model_not_found"),
            ("/v1/responses", {**missing, "input": "x"}, 404, "invalid_request_error", "model_not_found"),
            ("/v1/chat/completions", chat(messages=[{"role": "user", "content": "word " * 3000}]), 400, "invalid_request_error",
             "context_length_exceeded"),
            ("/v1/chat/completions", chat(messages=[]), 400, "invalid_request_error", None),
            ("/v1/chat/completions", b"{", 400, "invalid_request_error", None)):
        error = SERVER.post(path, body, status)
        check(error, OPENAI_ERROR)
        assert error["error"]["type"] == kind and error["error"]["code"] == code, error
    error = SERVER.json("GET", "/v1/models/nothing", status=404)
    check(error, OPENAI_ERROR)
    assert error["error"]["code"] == "model_not_found"
    keyed = Server(environment={"HYPURA_API_KEY": "secret"})
    error = keyed.json("GET", "/v1/models", status=401)
    check(error, OPENAI_ERROR)
    assert error["error"]["code"] == "invalid_api_key"
    check(keyed.post("/v1/messages", {}, 401), ANTHROPIC_ERROR)
    keyed.stop()


PART = {"type": "output_text", "text": str, "annotations": [ANY], "logprobs": [ANY]}
REASONING_PART = {"type": "reasoning_text", "text": str}
STATUS = ("in_progress", "completed", "incomplete")
ITEM = ({"type": "message", "id": str, "status": STATUS, "role": "assistant", "content": [PART]},
        {"type": "reasoning", "id": str, "summary": [ANY], "content": [REASONING_PART], "status": STATUS},
        {"type": "function_call", "id": str, "call_id": str, "status": STATUS, "name": str, "arguments": str})
TOOL = {"type": "function", "name": str, "description": TEXT_OR_NULL, "parameters": (dict, None), "strict": (bool, None)}
RESPONSE = {"id": str, "object": "response", "created_at": int, "completed_at": (int, None), "status": STATUS + ("failed",),
            "error": ({"code": str, "message": str}, None), "incomplete_details": ({"reason": "max_output_tokens"}, None),
            "instructions": TEXT_OR_NULL, "max_output_tokens": (int, None), "model": str, "output": [ITEM], "parallel_tool_calls": bool,
            "previous_response_id": TEXT_OR_NULL, "reasoning": {"effort": TEXT_OR_NULL, "summary": None}, "store": bool,
            "temperature": NUMBER, "text": {"format": dict, "verbosity?": str}, "tool_choice": (str, dict), "tools": [TOOL],
            "top_p": NUMBER, "top_logprobs": int, "truncation": ("disabled", "auto"), "metadata": dict, "user": None, "background": False,
            "service_tier": "default",
            "usage": ({"input_tokens": int, "input_tokens_details": {"cached_tokens": int}, "output_tokens": int,
                       "output_tokens_details": {"reasoning_tokens": int}, "total_tokens": int}, None)}
AT = {"type": str, "sequence_number": int, "output_index": int, "item_id": str}
EVENTS = {
    "response.created": {"type": str, "sequence_number": int, "response": RESPONSE},
    "response.output_item.added": {"type": str, "sequence_number": int, "output_index": int, "item": ITEM},
    "response.content_part.added": {**AT, "content_index": int, "part": (PART, REASONING_PART)},
    "response.output_text.delta": {**AT, "content_index": int, "delta": str, "logprobs": [ANY]},
    "response.output_text.done": {**AT, "content_index": int, "text": str, "logprobs": [ANY]},
    "response.reasoning_text.delta": {**AT, "content_index": int, "delta": str},
    "response.reasoning_text.done": {**AT, "content_index": int, "text": str},
    "response.function_call_arguments.delta": {**AT, "delta": str},
    "response.function_call_arguments.done": {**AT, "name": str, "arguments": str}}
for one in ("in_progress", "completed", "incomplete", "failed"):
    EVENTS["response." + one] = EVENTS["response.created"]
EVENTS["response.output_item.done"] = EVENTS["response.output_item.added"]
EVENTS["response.content_part.done"] = EVENTS["response.content_part.added"]


def openai_responses():
    tool = {"type": "function", "name": WEATHER["name"], "parameters": WEATHER["parameters"]}
    body = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 12}
    for more in ({}, {"max_output_tokens": 60}, {"tools": [tool], "tool_choice": "required", "max_output_tokens": 100},
                 {"text": {"verbosity": "low"}, "instructions": "Be brief.", "metadata": {"a": "b"}, "reasoning": {"effort": "low"}}):
        whole = SERVER.post("/v1/responses", {**body, **more})
        check(whole, RESPONSE)
        cut = more.get("max_output_tokens", 12) == 12
        assert whole["status"] == ("incomplete" if cut else "completed") and whole["output"][-1]["status"] == whole["status"], whole
        assert (whole["completed_at"] is None) == cut
        events = SERVER.events("/v1/responses", {**body, **more, "stream": True})
        for name, data in events:
            check(data, EVENTS[name], name)
        assert events[-1][1]["response"]["output"][-1].get("content") == whole["output"][-1].get("content")


# ---- Anthropic ------------------------------------------------------------------------------------------------------

DELTA_USAGE = {"input_tokens": int, "output_tokens": int, "cache_creation_input_tokens": int, "cache_read_input_tokens": int,
               "output_tokens_details": {"thinking_tokens": int}, "server_tool_use": None}
BLOCK = ({"type": "text", "text": str, "citations": None}, {"type": "thinking", "thinking": str, "signature": str},
         {"type": "tool_use", "id": str, "name": str, "input": dict, "caller": {"type": "direct"}})
STOP = ("end_turn", "max_tokens", "stop_sequence", "tool_use")
MESSAGE = {"id": str, "type": "message", "role": "assistant", "model": str, "content": [BLOCK], "stop_reason": STOP + (None,),
           "stop_sequence": TEXT_OR_NULL, "stop_details": None, "container": None,
           "usage": {**DELTA_USAGE, "cache_creation": (None, {"ephemeral_5m_input_tokens": int, "ephemeral_1h_input_tokens": int}), "service_tier": "standard", "inference_geo": None, "speed": None}}
MESSAGE_EVENTS = {
    "message_start": {"type": str, "message": MESSAGE},
    "content_block_start": {"type": str, "index": int, "content_block": BLOCK},
    "content_block_delta": {"type": str, "index": int, "delta": (
        {"type": "text_delta", "text": str}, {"type": "thinking_delta", "thinking": str}, {"type": "input_json_delta", "partial_json": str})},
    "content_block_stop": {"type": str, "index": int},
    "message_delta": {"type": str, "usage": DELTA_USAGE, "delta": {"stop_reason": STOP, "stop_sequence": TEXT_OR_NULL,
                                                                   "stop_details": None, "container": None}},
    "message_stop": {"type": str}}
ANTHROPIC_ERROR = {"type": "error", "error": {"type": str, "message": str}, "request_id": str}


def openai_response_requests():
    """Requests with more than texts: references, successive calls, tools of the service, and options that would change the answer."""
    body = {"model": MODEL, "temperature": 0, "max_output_tokens": 8}
    first = SERVER.post("/v1/responses", {**body, "input": QUESTION, "prompt_cache_key": "k", "safety_identifier": "s", "include": [
        "reasoning.encrypted_content"], "parallel_tool_calls": True, "service_tier": "auto", "user": "u", "max_tool_calls": 3})
    said = first["output"][-1]
    user, again = {"role": "user", "content": QUESTION}, {"role": "user", "content": [{"type": "input_text", "text": "And rm?"}]}
    count = lambda *items, **more: SERVER.post("/v1/responses/input_tokens", {"model": MODEL, "input": list(items), **more})
    check(count(user), {"object": "response.input_tokens", "input_tokens": int})
    assert count(user)["input_tokens"] == first["usage"]["input_tokens"]
    whole = count(user, said, again)
    assert count(user, {"type": "item_reference", "id": said["id"]}, again) == whole == \
        count(again, previous_response_id=first["id"]) == count(user, {"type": "reasoning", "id": "rs_1", "summary": []}, said, again)
    assert "not found" in SERVER.post("/v1/responses", {**body, "input": [{"type": "item_reference", "id": "msg_1"}]}, 400)["error"]["message"]
    call = lambda i: {"type": "function_call", "call_id": f"call_{i}", "name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}
    output = lambda i: {"type": "function_call_output", "call_id": f"call_{i}", "output": [{"type": "input_text", "text": "sunny"}]}
    tools = [{"type": "function", **WEATHER}, {"type": "web_search"}]
    after = SERVER.post("/v1/responses", {**body, "input": [user, call(1), call(2), output(1), output(2)], "tools": tools})
    assert after["output"] and len(after["tools"]) == 2
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]}
    called = SERVER.post("/v1/responses", {**body, "max_output_tokens": 100, "input": [user], "tools": tools + [
        {"type": "function", "name": "other"}], "tool_choice": allowed})
    assert called["output"][0]["name"] == "get_weather"
    long = [{"role": "user", "content": "word " * 400}, {"role": "assistant", "content": "yes"}] * 2 + [user]
    assert SERVER.post("/v1/responses", {**body, "input": long}, 400)["error"]["code"] == "context_length_exceeded"
    cut = SERVER.post("/v1/responses", {**body, "input": long, "truncation": "auto"})
    assert cut["truncation"] == "auto" and cut["usage"]["input_tokens"] < 512
    for more in ({"conversation": "conv_1"}, {"background": True}, {"prompt": {"id": "p"}}, {"input": []}):
        check(SERVER.post("/v1/responses", {**body, "input": "x", **more}, 400), OPENAI_ERROR)
    # Options from chats: reasoning as in the newer API, and allowed tools.
    chosen = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_weather"}}]}}
    made = SERVER.post("/v1/chat/completions", chat(max_tokens=100, reasoning={"effort": "low"}, tools=[
        *TOOLS, {"type": "function", "function": {"name": "other"}}], tool_choice=chosen))
    assert made["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def settings_of_a_model_apply_in_all_apis():
    SERVER.lines("/api/create", {"model": "made", "from": MODEL, "system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}],
                                 "parameters": {"temperature": 0, "num_predict": 5, "stop": ["contents"]}})
    user = [{"role": "user", "content": QUESTION}]
    body = {"model": "made", "messages": user}
    limits = lambda **more: SERVER.post("/v1/chat/completions", {**body, **more})
    assert limits()["usage"]["completion_tokens"] == 5
    stopped = limits(max_tokens=40)["choices"][0]
    assert stopped["finish_reason"] == "stop" and stopped["message"]["content"].rstrip() == "ls - list directory", stopped
    assert "contents" in limits(max_tokens=10, stop=["zzz"])["choices"][0]["message"]["content"]
    assert SERVER.post("/v1/responses", {"model": "made", "input": QUESTION})["usage"]["output_tokens"] == 5
    prompts = {limits()["usage"]["prompt_tokens"], SERVER.post("/v1/responses", {"model": "made", "input": QUESTION})["usage"]["input_tokens"],
               SERVER.post("/v1/messages/count_tokens", body)["input_tokens"],
               SERVER.post("/api/chat", {**body, "stream": False})["prompt_eval_count"]}
    assert len(prompts) == 1, prompts
    plain = {"model": MODEL, "messages": user}
    assert prompts.pop() > SERVER.post("/v1/messages/count_tokens", plain)["input_tokens"] + 5
    # Ollama's options allow more: a penalty over zero tokens, and a higher temperature than OpenAI's.
    SERVER.lines("/api/create", {"model": "made", "from": MODEL, "parameters": {
        "temperature": 0, "repeat_penalty": 100, "repeat_last_n": 0}})
    text = lambda model: SERVER.post("/v1/chat/completions", {**plain, "model": model, "max_tokens": 24, "presence_penalty": 0, **(
        {} if model == "made" else {"temperature": 0})})["choices"][0]["message"]["content"]
    assert text("made") == text(MODEL) != ""
    SERVER.lines("/api/create", {"model": "made", "from": MODEL, "parameters": {"temperature": 2.5}})
    assert SERVER.post("/v1/chat/completions", {**body, "max_tokens": 1})["usage"]["completion_tokens"] == 1
    check(SERVER.post("/v1/chat/completions", {**body, "temperature": 2.5}, 400), OPENAI_ERROR)
    assert SERVER.request("DELETE", "/api/delete", {"model": "made"})[0] == 200


def anthropic_messages():
    body = {"model": MODEL, "max_tokens": 12, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
    tool = {"name": WEATHER["name"], "input_schema": WEATHER["parameters"]}
    for more, reason in (({}, "max_tokens"), ({"max_tokens": 60}, "end_turn"), ({"stop_sequences": ["directory"]}, "stop_sequence"),
                         ({"tools": [tool], "tool_choice": {"type": "any"}, "max_tokens": 100}, "tool_use")):
        whole = SERVER.post("/v1/messages", {**body, **more})
        check(whole, MESSAGE)
        assert whole["stop_reason"] == reason and (whole["stop_sequence"] == "directory") == (reason == "stop_sequence"), whole
        for name, data in SERVER.events("/v1/messages", {**body, **more, "stream": True}):
            check(data, MESSAGE_EVENTS[name], name)


def anthropic_requests():
    """Requests with blocks for texts, cache marks, successive turns of one role, and tools of the service."""
    cached = {"cache_control": {"type": "ephemeral"}}
    text = lambda words, **more: {"type": "text", "text": words, **more}
    tool = {"name": WEATHER["name"], "description": "Weather", "input_schema": WEATHER["parameters"], **cached}
    body = {"model": MODEL, "system": [text("Be brief. "), text("Be exact.", **cached)], "tools": [tool], "tool_choice": {"type": "auto"},
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "messages": [
                {"role": "user", "content": [text("Weather "), text("in Rome?", **cached)]},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, text("I look."),
                                                  {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("sunny")], "is_error": False},
                                             {"type": "tool_result", "tool_use_id": "toolu_2"}, text("And?")]}]}
    count = lambda body: SERVER.post("/v1/messages/count_tokens", body)
    whole = SERVER.post("/v1/messages", {**body, "max_tokens": 12, "metadata": {"user_id": "u"}, "service_tier": "auto", "top_k": 5,
                                         "container": None, "stop_sequences": []}, headers={"anthropic-version": "2023-06-01"})
    check(whole, MESSAGE)
    check(count(body), {"input_tokens": int})
    assert count(body)["input_tokens"] == sum(whole["usage"][key] for key in (
        "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))
    tokens = lambda *messages, **more: count({"model": MODEL, "messages": [
        {"role": role, "content": words} for role, words in messages], **more})["input_tokens"]
    assert tokens(("user", "a"), ("user", [text("b")])) == tokens(("user", "a\nb")) < tokens(("user", "a\nb"), system="Be brief.")
    assert tokens(("user", [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a b"}}])) == \
        tokens(("user", "a b")) == tokens(("user", "a b"), tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert tokens(("user", "word " * 3000)) > 512  # counted, although it would not fit
    assert tokens(*[("user", "a"), ("user", "")] * 20000) == tokens(("user", "\n".join(["a"] * 20000)))
    # An answer that has begun is continued.
    begun = {"model": MODEL, "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": QUESTION},
                                                                             {"role": "assistant", "content": "ls - list"}]}
    assert SERVER.post("/v1/messages", begun)["content"][0]["text"].lstrip().startswith("directory contents")
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    made = SERVER.post("/v1/messages", {**begun, "messages": begun["messages"][:1], "max_tokens": 60, "output_config": {
        "effort": "low", "format": {"type": "json_schema", "schema": schema}}})
    assert isinstance(json.loads(made["content"][0]["text"])["ok"], bool)
    for block in ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}, {"type": "what"},
                  {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}):
        for path, more in (("/v1/messages", {"max_tokens": 1}), ("/v1/messages/count_tokens", {})):
            error = SERVER.post(path, {"model": MODEL, "messages": [{"role": "user", "content": [block]}], **more}, 400)
            check(error, ANTHROPIC_ERROR)
            assert "text only" in error["error"]["message"]
    check(SERVER.post("/v1/messages/count_tokens", {**body, "model": "nothing"}, 404), ANTHROPIC_ERROR)


def anthropic_agents():
    """Further content from Claude Code: system messages between turns, unlimited numbers, a line for the service's accounting,
    settings of the service, blocks of tools that ran elsewhere, and images from a tool."""
    text = lambda words, **more: {"type": "text", "text": words, **more}
    count = lambda **body: SERVER.post("/v1/messages/count_tokens", {"model": MODEL, **body})["input_tokens"]
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    between = {"role": "system", "content": [text("Be brief.", cache_control={"type": "ephemeral"})]}
    assert count(messages=[user, between]) > count(messages=[user]) + 2
    assert count(messages=[user, between, answer, user]) > count(messages=[user, answer, user]) + 2
    assert count(messages=[user], system="x") == count(messages=[user], system=[
        text("x-anthropic-billing-header: cc_version=2.1; cch=%d;" % time.time_ns()), text("x")])
    first = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "x"}}
    seen = [text("words"), {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
            {"type": "tool_reference", "tool_name": "Write"}, {"type": "search_result", "source": "u", "title": "t", "content": [text("c")]}]
    whole = [{**user, "content": [text("Read x.")]}, between, {**answer, "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}, text("I look."), first]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": seen}]}]
    tool = {"name": "Read", "description": "Reads.", "eager_input_streaming": True, "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": False, "required": ["offset"],
        "properties": {"offset": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}}}}
    body = {"model": MODEL, "messages": whole, "tools": [tool], "max_tokens": 60, "temperature": 1, "metadata": {"user_id": "{}"},
            "thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}, "speed": "standard",
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, "mcp_servers": [], "betas": ["x"]}
    check(SERVER.post("/v1/messages?beta=true", body), MESSAGE)
    called = SERVER.post("/v1/messages", {**body, "temperature": 0, "max_tokens": 200, "tool_choice": {
        "type": "any", "disable_parallel_tool_use": True}})
    assert abs(called["content"][-1]["input"]["offset"]) < 2 ** 53, called
    assert "type=server_tool_use" in SERVER.logged()
    # An image in a question must not be ignored. Neither must an unknown role.
    for broken in ({"role": "user", "content": [seen[1]]}, {"role": "robot", "content": "x"}):
        SERVER.post("/v1/messages", {**body, "messages": [broken]}, 400)


def limits_of_any_size_are_read():
    """Limits as written by Rust and Go. jansson reads only 64 bits."""
    value = '{"type": "integer", "minimum" : -%d, "exclusiveMaximum":\n%d, "maximum":%d}'
    body = json.dumps(chat(max_tokens=100, tool_choice="required", tools=[{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "required": ["n"], "properties": {"n": "SCHEMA"}}}}]))
    for limits in ((2 ** 64 - 1, 2 ** 64 - 1, 2 ** 128), (10 ** 18, 10 ** 18 - 1, 10 ** 40), (2 ** 63 - 1, 2 ** 63, 10 ** 300)):
        made = SERVER.post("/v1/chat/completions", body.replace('"SCHEMA"', value % limits))
        arguments = json.loads(made["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
        assert isinstance(arguments["n"], int), arguments
    for text in (body.replace('"SCHEMA"', '{"maximum": 99999999999999999999x}'), body.replace('"SCHEMA"', '{"maximum": 9999999999999999999')):
        assert SERVER.request("POST", "/v1/chat/completions", text)[0] == 400


def anthropic_usage_reports_cached_tokens():
    words = f"ls {time.time_ns()} " * 20
    body = {"model": MODEL, "max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": words}]}
    total = SERVER.post("/v1/messages/count_tokens", {"model": MODEL, "messages": body["messages"]})["input_tokens"]
    SERVER.post("/v1/messages", body)
    for stream in (False, True):
        more = {**body, "stream": stream}
        if stream:
            events = SERVER.events("/v1/messages", more)
            told = [events[0][1]["message"]["usage"], events[-2][1]["usage"]]
        else:
            told = [SERVER.post("/v1/messages", more)["usage"]]
        for usage in told:
            assert usage["cache_read_input_tokens"] > total / 2 and usage["cache_creation_input_tokens"] == 0, usage
            assert usage["input_tokens"] + usage["cache_read_input_tokens"] == total, (usage, total)


def extra_content_of_clients_is_ignored():
    """In requests for OpenAI and Ollama, items and parts of tools that ran elsewhere are ignored. Content that must not be lost is
    refused."""
    picture = "data:image/png;base64,aGk="
    user = {"role": "user", "content": QUESTION}
    body = {"model": MODEL, "temperature": 0, "max_output_tokens": 4}
    items = [user, {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
             {"type": "mcp_list_tools", "id": "m", "server_label": "x", "tools": []}, {"type": "compaction", "encrypted_content": "x"},
             {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin"},
             {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
             {"type": "local_shell_call", "call_id": "c2", "status": "completed", "action": {"type": "exec", "command": ["ls"]}},
             {"type": "local_shell_call_output", "call_id": "c2", "output": "a b"},
             {"type": "shell_call_output", "call_id": "c3", "output": [{"stdout": "x", "stderr": "", "outcome": {"type": "exit"}}]},
             {"type": "function_call_output", "call_id": "c4", "output": [{"type": "input_image", "image_url": picture}]}, user]
    SERVER.post("/v1/responses", {**body, "input": items, "text": {"verbosity": "low"}, "client_metadata": {"x": "y"}})
    count = lambda items: SERVER.post("/v1/responses/input_tokens", {"model": MODEL, "input": items})["input_tokens"]
    assert count(items[:4]) == count([user]) < count(items[:1] + items[4:5]) < count(items[:1] + items[4:6])
    # Functions of a namespace are distinguished and called by both names, and such calls are accepted.
    inner = [{"type": "function", "name": name, "parameters": WEATHER["parameters"]} for name in ("look", "hear")]
    spaces = [{"type": "namespace", "name": name, "description": "x", "tools": inner} for name in ("mcp__a__", "b")]
    for choice in ({"type": "function", "namespace": "b", "name": "hear"}, {"type": "function", "name": "mcp__a__look"}):
        more = {**body, "input": [user], "max_output_tokens": 100, "tools": spaces, "tool_choice": choice}
        made = SERVER.post("/v1/responses", more)["output"][0]
        said = (choice.get("namespace", "mcp__a__"), "hear" if "namespace" in choice else "look")
        assert (made["namespace"], made["name"]) == said, made
        events = SERVER.events("/v1/responses", {**more, "stream": True})
        assert [(e["item"]["namespace"], e["item"]["name"]) for name, e in events if name.startswith("response.output_item.")] == [said] * 2
        known = {"type": "function_call", "call_id": "c", "name": "b__hear", "arguments": made["arguments"]}
        apart = {**known, "namespace": "b", "name": "hear"}
        assert count([user, known]) == count([user, apart]) > count([user])
    for item in ({"type": "input_image", "image_url": picture}, {**user, "content": [{"type": "input_image", "image_url": picture}]}):
        assert "text only" in SERVER.post("/v1/responses", {**body, "input": [item]}, 400)["error"]["message"]
    image = {"type": "image_url", "image_url": {"url": picture}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    spoken = [user, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "I look."}],
                     "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": [image]}]
    for more in ({"thinking": {"type": "enabled"}}, {"enable_thinking": False}, {"reasoning": {"enabled": True}}, {
            "tools": TOOLS, "tool_choice": "any", "max_tokens": 100}):
        SERVER.post("/v1/chat/completions", chat(messages=spoken, **more))
    SERVER.post("/v1/chat/completions", chat(messages=[user, {"role": "user", "content": [image]}]), 400)
    said = SERVER.post("/api/chat", {"model": MODEL, "stream": False, "messages": spoken, "options": {"num_predict": 2}})
    other = [{"role": "developer", "content": "x"}, *spoken[:-1], {**spoken[-1], "role": "function"}]
    known = SERVER.post("/api/chat", {"model": MODEL, "stream": False, "messages": other, "options": {"num_predict": 2}})
    assert known["prompt_eval_count"] > said["prompt_eval_count"]


def tokens_are_counted_during_answers():
    """Tokens are counted however many answers are running."""
    server = Server("--context", 512, "--parallel", 1)
    connection = server.connection()
    connection.request("POST", "/api/chat", json.dumps({**harness.chat(format={"type": "string", "minLength": 20000}), "options": {
        "num_predict": 480, "seed": 1}}))
    response = connection.getresponse()
    response.readline()
    assert server.post("/v1/messages/count_tokens", {"model": MODEL, "messages": [{"role": "user", "content": "x"}]})["input_tokens"] > 0
    assert b"hypura_answers_running 1\n" in server.request("GET", "/metrics")[2]
    assert json.loads(response.read().splitlines()[-1])["eval_count"] == 480
    server.stop()


def a_long_history_loses_its_oldest_messages():
    """Only as many messages are dropped as necessary, without trying each number."""
    said = [{"role": ("user", "assistant")[i % 2], "content": f"word {i}"} for i in range(4001)]
    answer = SERVER.post("/api/chat", {"model": MODEL, "stream": False, "messages": [{"role": "system", "content": "Be brief."}, *said],
                                       "options": {"num_predict": 1}})
    count = lambda going: SERVER.post("/v1/messages/count_tokens", {"model": MODEL, "system": "Be brief.", "messages": said[going:]})["input_tokens"]
    low, high = 3800, 4000  # too few dropped, and enough
    while high - low > 1:
        low, high = (low, (low + high) // 2) if count((low + high) // 2) < 512 else ((low + high) // 2, high)
    assert answer["prompt_eval_count"] == count(high) and count(high - 1) >= 512 > count(high), (high, answer)


def anthropic_errors():
    body = {"model": MODEL, "max_tokens": 12, "messages": [{"role": "user", "content": QUESTION}]}
    for change, status, kind in (({"model": "nothing"}, 404, "not_found_error"), ({"max_tokens": None}, 400, "invalid_request_error"),
                                 ({"messages": []}, 400, "invalid_request_error")):
        error = SERVER.post("/v1/messages", {**body, **change}, status)
        check(error, ANTHROPIC_ERROR)
        assert error["error"]["type"] == kind, error
    connection = SERVER.connection()
    connection.request("POST", "/v1/messages", b"x" * (33 << 20))
    response = connection.getresponse()
    error = json.loads(response.read())
    connection.close()
    check(error, ANTHROPIC_ERROR)
    assert response.status == 413 and error["error"]["type"] == "request_too_large", error


# ---- Ollama ---------------------------------------------------------------------------------------------------------

FIGURES = {"total_duration": int, "load_duration": int, "prompt_eval_count": int, "prompt_cached_count": int, "prompt_eval_duration": int, "eval_count": int,
           "eval_duration": int}
HEAD = {"model": str, "created_at": str}
OLLAMA_LOGPROBS = [{**TOP, "top_logprobs?": [TOP]}]
OLLAMA_MESSAGE = {"role": "assistant", "content": str, "thinking?": str,
                  "tool_calls?": [{"id": str, "function": {"index": int, "name": str, "arguments": dict}}]}
ENDS = {"done": True, "done_reason": ("stop", "length"), **FIGURES, "logprobs?": OLLAMA_LOGPROBS}
DETAILS = {"parent_model": str, "format": "gguf", "family": str, "families": [str], "parameter_size": str, "quantization_level": str}
LISTED = {"name": str, "model": str, "size": int, "digest": str, "details": DETAILS}


def ollama_answers():
    for path, own, piece in (("/api/generate", {"prompt": QUESTION}, {"response": str, "thinking?": str}),
                             ("/api/chat", {"messages": [{"role": "user", "content": QUESTION}]}, {"message": OLLAMA_MESSAGE})):
        body = {"model": MODEL, "options": GREEDY, "logprobs": True, "top_logprobs": 2, **own}
        last = {**HEAD, **piece, **ENDS, **({"context?": [int]} if path == "/api/generate" else {})}
        check(SERVER.post(path, {**body, "stream": False}), last)
        lines = SERVER.lines(path, body)
        for line in lines[:-1]:
            check(line, {**HEAD, **piece, "done": False, "logprobs?": OLLAMA_LOGPROBS})
        check(lines[-1], last)
        check(SERVER.post(path, {"model": MODEL}), {**HEAD, **piece, "done": True, "done_reason": "load"})


def ollama_lists():
    check(SERVER.json("GET", "/api/tags"), {"models": [{**LISTED, "modified_at": str, "capabilities": [str]}]})
    SERVER.post("/api/generate", {"model": MODEL})
    check(SERVER.json("GET", "/api/ps"), {"models": [{**LISTED, "expires_at": str, "size_vram": int, "context_length": int}]})
    show = {"modelfile": str, "parameters": str, "template": str, "details": DETAILS, "model_info": dict, "capabilities": [str],
            "modified_at": str, "license?": str, "system?": str, "messages?": [dict]}
    check(SERVER.post("/api/show", {"model": MODEL}), show)
    check(SERVER.post("/api/embed", {"model": MODEL, "input": "x"}),
          {"model": str, "embeddings": [[NUMBER]], "total_duration": int, "load_duration": int, "prompt_eval_count": int})
    check(SERVER.post("/api/embeddings", {"model": MODEL, "prompt": "x"}), {"embedding": [NUMBER]})
    check(SERVER.json("GET", "/api/version"), {"version": str, "hypura": str})


def ollama_distinguishes_encoders():
    encoder = Server(os.path.join(SOURCE, "tests", "data", "embed", "bert.gguf"))
    assert encoder.post("/api/show", {"model": "bert"})["capabilities"] == ["embedding"]
    assert "embeddings" in encoder.post("/api/chat", {"model": "bert", "messages": [{"role": "user", "content": "a"}]}, 400)["error"]
    assert "completion" in SERVER.post("/api/show", {"model": MODEL})["capabilities"]
    encoder.stop()


TESTS = [openai_chat, openai_completions, openai_models_and_embeddings, openai_errors, openai_responses,
         openai_response_requests, settings_of_a_model_apply_in_all_apis, anthropic_messages, anthropic_requests, anthropic_agents,
         limits_of_any_size_are_read,
         anthropic_usage_reports_cached_tokens, extra_content_of_clients_is_ignored,
         tokens_are_counted_during_answers, a_long_history_loses_its_oldest_messages, anthropic_errors, ollama_answers, ollama_lists,
         ollama_distinguishes_encoders]

if __name__ == "__main__":
    SERVER = Server("--context", 512, "--parallel", 2)
    failed = run_tests(TESTS)
    failed += SERVER.stop() != 0
    WORK.cleanup()
    sys.exit(1 if failed else 0)
