"""A proxy between an agent and the server. It makes a model with random weights act as a trained one would: it changes requests so
that the model must call a certain tool with certain arguments, or give a certain answer. It passes everything else unchanged.
It keeps a record of all requests, with the server's token counts."""
import gzip
import http.client
import http.server
import json
import re
import threading
import time


class Pass:
    """One request to generate an answer, and the response."""

    def __init__(self, path, planned, status, text):
        self.path, self.planned, self.status, self.text = path, planned, status, text
        numbers = lambda name: [int(n) for n in re.findall(rf'"{name}": ?(\d+)', text)]
        last = lambda name: (numbers(name) or [0])[-1]
        self.cached = last("cache_read_input_tokens") or last("cached_tokens")
        self.prompt = last("prompt_tokens") or last("input_tokens") + last("cache_read_input_tokens") + last("cache_creation_input_tokens")


def tool_name(tool):
    return (tool.get("function") or tool).get("name")


def tools_of(body):
    """Returns {name: (tool, its namespace or None)}."""
    found = {}
    for tool in body.get("tools") or []:
        space = tool.get("name") if tool.get("type") == "namespace" else None
        for each in tool["tools"] if space else [tool]:
            found[tool_name(each)] = each, space
    return found


def parameters_of(tool):
    owner = tool.get("function") or tool
    return owner, "input_schema" if "input_schema" in owner else "parameters"


class Proxy:
    """plan(body, tools by name) decides on a request: ("call", tool) makes the model call a tool, ("say", answer) makes it answer,
    None leaves it alone. tools: the arguments for each tool that the model may call, by name."""

    def __init__(self, server_port, plan):
        self.server_port, self.plan, self.tools = server_port, plan, {}
        self.passed, self.lock, self.at_work = [], threading.Lock(), 0
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                proxy.answer(self, "GET", None)

            def do_HEAD(self):
                proxy.answer(self, "HEAD", None)

            def do_POST(self):
                proxy.answer(self, "POST", read_body(self))

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def settled(self, seconds=10):
        """Waits until no request is in progress, and returns the record."""
        end = time.monotonic() + seconds
        while self.at_work and time.monotonic() < end:
            time.sleep(0.05)
        with self.lock:
            return list(self.passed)

    def change(self, path, body):
        """Changes a request for the server, and limits its answer's length. Returns the plan for it."""
        tools = tools_of(body)
        for name, values in self.tools.items():
            if name in tools:
                owner, key = parameters_of(tools[name][0])
                owner[key] = {"type": "object", "properties": {name: {"enum": [value]} for name, value in values.items()},
                              "required": list(values), "additionalProperties": False}
                owner.pop("strict", None)
        planned = self.plan(body, tools)
        anthropic, responses = "/messages" in path, path.startswith("/v1/responses")
        body["max_output_tokens" if responses else "max_tokens"] = 400 if planned else 8
        body.pop("max_completion_tokens", None)
        if planned and planned[0] == "call":
            name, space = planned[1], tools[planned[1]][1]
            body["tool_choice"] = {"type": "tool", "name": name} if anthropic else \
                {"type": "function", "name": name, **({"namespace": space} if space else {})} if responses else \
                {"type": "function", "function": {"name": name}}
        elif planned:
            schema = {"enum": [planned[1]]}
            if anthropic:
                body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}
            elif responses:
                body.setdefault("text", {})["format"] = {"type": "json_schema", "name": "answer", "schema": schema}
            else:
                body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        if path.endswith("/chat/completions") and body.get("stream"):
            body["stream_options"] = {"include_usage": True}
        return planned

    def answer(self, handler, method, data):
        path, body, planned = handler.path.split("?")[0], None, None
        makes = method == "POST" and path in ("/v1/messages", "/v1/responses", "/v1/chat/completions")
        with self.lock:
            self.at_work += 1
            if makes:
                body = json.loads(data)
                planned = self.change(path, body)
                data = json.dumps(body).encode()
        upstream = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=120)
        kept = {name: value for name, value in handler.headers.items() if name.lower() not in (
            "host", "content-length", "transfer-encoding", "connection", "accept-encoding", "content-encoding")}
        text, status = b"", 0
        try:
            upstream.request(method, handler.path, data, kept)
            response = upstream.getresponse()
            status = response.status
            handler.send_response(status)
            for name, value in response.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "keep-alive"):
                    handler.send_header(name, value)
            handler.send_header("Connection", "close")
            handler.end_headers()
            while piece := response.read1(65536):
                text += piece
                handler.wfile.write(piece)
            handler.wfile.flush()
        except OSError:
            pass  # the agent has left
        finally:
            handler.close_connection = True
            upstream.close()
            with self.lock:
                self.at_work -= 1
                if makes:
                    self.passed.append(Pass(path, planned, status, text.decode(errors="replace")))


def read_body(handler):
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        data = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    else:
        data = b""
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            data += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
    if handler.headers.get("Content-Encoding") == "gzip":
        data = gzip.decompress(data)
    return data
