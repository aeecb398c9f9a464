"""How to point each coding agent at a server, ask it a first question, and ask again in the same chat. To add an agent, add
a class here and its version to versions.json.

Crush is missing, because its npm package holds no program and downloads one from elsewhere."""
import fcntl
import json
import os
import pty
import queue
import struct
import subprocess
import termios
import threading
import time


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(content if isinstance(content, str) else json.dumps(content, indent=1))


class Agent:
    """tool names the agent's tool that reads a file, and the arguments for {file}. first and again are the commands for the first
    question and for the next one in the same chat; the question is appended. In commands and environments, {url} stands for the
    server's address, {model} for the model's name, {home} for a home folder of the agent's own, and {file} for the file to read."""
    environment = {}

    def __init__(self, folder, home, project, values):
        self.program = os.path.join(folder, "node_modules", ".bin", self.binary)
        self.home, self.project, self.values = home, project, {**values, "home": home, "here": os.path.dirname(os.path.abspath(__file__))}

    def fill(self, value):
        if isinstance(value, dict):
            return {key: self.fill(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.fill(each) for each in value]
        return value.format(**self.values) if isinstance(value, str) else value

    def run(self, arguments, environment, seconds=300):
        """Returns (status, output). The status is None after a timeout."""
        try:
            done = subprocess.run([self.program, *self.fill(arguments)], cwd=self.project, timeout=seconds, stdin=subprocess.DEVNULL,
                                  env={**environment, **self.fill(self.environment)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except subprocess.TimeoutExpired as error:
            return None, (error.stdout or b"").decode(errors="replace")
        return done.returncode, done.stdout.decode(errors="replace")

    def prepare(self, environment):
        """Writes the agent's configuration."""

    def ask(self, turn, question, environment):
        """Returns (status, output) of turn 0 or 1 of a chat."""
        return self.run([*(self.first, self.again)[turn], question], environment)

    def close(self):
        """Ends the agent's process if it still runs."""


class ClaudeCode(Agent):
    package, binary = "@anthropic-ai/claude-code", "claude"
    tool = ("Read", {"file_path": "{file}"})
    environment = {"ANTHROPIC_BASE_URL": "{url}", "ANTHROPIC_AUTH_TOKEN": "any", "ANTHROPIC_MODEL": "{model}",
                   "ANTHROPIC_DEFAULT_HAIKU_MODEL": "{model}", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    first, again = ["-p"], ["-c", "-p"]


class Codex(Agent):
    package, binary = "@openai/codex", "codex"
    tool = ("exec_command", {"cmd": "cat notes.txt"})
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    first, again = ["exec", *options], ["exec", "resume", "--last", *options]

    def prepare(self, environment):
        write(f"{self.home}/.codex/config.toml", self.fill(
            'model = "{model}"\nmodel_provider = "hypura"\n\n'
            '[model_providers.hypura]\nname = "hypura"\nbase_url = "{url}/v1"\nwire_api = "responses"\n'))


class CodexWithServer(Codex):
    """Codex offers tools of MCP servers as functions in namespaces."""
    tool = ("read_notes", {})

    def prepare(self, environment):
        super().prepare(environment)
        with open(f"{self.home}/.codex/config.toml", "a") as file:
            file.write(self.fill('\n[mcp_servers.notes]\ncommand = "python3"\nargs = ["{here}/mcp_notes.py", "{file}"]\n'))


def models_of_opencode(agent):
    return {"model": agent.fill("hypura/{model}"), "autoupdate": False, "share": "disabled", "provider": {"hypura": {
        "npm": "@ai-sdk/openai-compatible", "name": "hypura", "options": {"baseURL": agent.fill("{url}/v1")},
        "models": {agent.fill("{model}"): {"tool_call": True, "limit": {"context": 262144, "output": 8192}}}}}}


class OpenCode(Agent):
    package, binary = "opencode-ai", "opencode"
    tool = ("read", {"filePath": "{file}"})
    environment = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}
    first, again = ["run"], ["run", "-c"]

    def prepare(self, environment):
        write(f"{self.home}/.config/opencode/opencode.json", models_of_opencode(self))


class Kilo(Agent):
    package, binary = "@kilocode/cli", "kilo"
    tool = ("read", {"filePath": "{file}"})
    environment = {"KILO_DISABLE_MODELS_FETCH": "1", "KILO_DISABLE_AUTOUPDATE": "1", "KILO_DISABLE_LSP_DOWNLOAD": "1"}
    first, again = ["run"], ["run", "-c"]

    def prepare(self, environment):
        write(f"{self.home}/.config/kilo/kilo.json", models_of_opencode(self))


class Continue(Agent):
    package, binary = "@continuedev/cli", "cn"
    tool = ("Read", {"filepath": "notes.txt"})
    environment = {"CONTINUE_TELEMETRY_ENABLED": "0"}
    first, again = ["-p"], ["--resume", "-p"]

    def prepare(self, environment):
        write(f"{self.home}/.continue/config.yaml", self.fill(
            "name: local\nversion: 0.0.1\nschema: v1\nmodels:\n  - name: {model}\n    provider: openai\n    model: {model}\n"
            "    apiBase: {url}/v1\n    apiKey: any\n    roles: [chat]\n    capabilities: [tool_use]\n"
            "    defaultCompletionOptions:\n      contextLength: 262144\n      maxTokens: 4096\n"))


class Pi(Agent):
    package, binary = "@mariozechner/pi-coding-agent", "pi"
    tool = ("read", {"path": "notes.txt"})
    environment = {"PI_OFFLINE": "1"}
    options = ["--provider", "hypura", "--model", "{model}"]
    first, again = [*options, "-p"], [*options, "-c", "-p"]
    api, base = "openai-completions", "{url}/v1"

    def prepare(self, environment):
        write(f"{self.home}/.pi/agent/models.json", {"providers": {"hypura": {
            "baseUrl": self.fill(self.base), "api": self.api, "apiKey": "any", "models": [{
                "id": self.fill("{model}"), "reasoning": False, "input": ["text"], "contextWindow": 262144, "maxTokens": 8192,
                "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}}]}}})


class PiAnthropic(Pi):
    api, base = "anthropic-messages", "{url}"


class PiResponses(Pi):
    api = "openai-responses"


class QwenCode(Agent):
    package, binary = "@qwen-code/qwen-code", "qwen"
    tool = ("read_file", {"file_path": "{file}"})
    environment = {"OPENAI_API_KEY": "any", "OPENAI_BASE_URL": "{url}/v1", "OPENAI_MODEL": "{model}"}
    first, again = ["--auth-type", "openai", "-p"], ["--auth-type", "openai", "-c", "-p"]


class Terminal:
    """A program in a terminal. It draws over what it has shown, so only short pieces of its output can be found."""

    def __init__(self, command, **options):
        self.file, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self.process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, start_new_session=True, **options)
        os.close(inner)
        self.shown = b""
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        try:
            while piece := os.read(self.file, 65536):
                self.shown += piece
        except OSError:
            pass  # the program has ended

    def type(self, keys):
        os.write(self.file, keys.encode())

    def shows(self, text):
        return text.encode() in self.shown

    def wait(self, until, seconds=120):
        """Returns what the function until returns, as soon as it is true."""
        end = time.monotonic() + seconds
        while not (found := until()):
            assert self.process.poll() is None and time.monotonic() < end, (self.process.poll(), self.shown[-2000:])
            time.sleep(0.1)
        return found


class Cline(Agent):
    package, binary = "cline", "cline"
    tool = ("read_files", {"files": [{"path": "{file}"}]})
    first = ["-P", "openai-compatible", "-m", "{model}"]
    terminal = None

    def prepare(self, environment):
        status, said = self.run(["auth", "-p", "openai-compatible", "-k", "any", "-m", "{model}", "-b", "{url}/v1"], environment)
        assert status == 0, said

    def ask(self, turn, question, environment):
        """Cline continues a chat only in a terminal. It writes the chat to a file."""
        if turn == 0:
            self.asked = question
            return self.run([*self.first, question], environment)
        chat = json.loads(self.run(["history", "--json"], environment)[1])[0]
        self.terminal = Terminal(self.fill([self.program, *self.first, "--id", chat["sessionId"]]), cwd=self.project,
                                 env={**environment, **self.fill(self.environment), "TERM": "xterm-256color"})
        self.terminal.wait(lambda: self.terminal.shows(self.asked))
        self.terminal.type(question)
        self.terminal.wait(lambda: self.terminal.shows(question))
        self.terminal.type("\r")

        def answer():
            with open(chat["messagesPath"]) as file:
                text = file.read()
            last = json.loads(text)["messages"][-1]
            return json.dumps(last) if question in text and last["role"] == "assistant" else None

        return 0, self.terminal.wait(answer)

    def close(self):
        if self.terminal:
            self.terminal.process.kill()
            self.terminal.process.wait()
            os.close(self.terminal.file)


class InEditor:
    """An agent as editors run it: one process that takes requests on its standard input (the Agent Client Protocol)."""
    process, editor = None, ["--acp"]

    def start(self, environment):
        self.process = subprocess.Popen([self.program, *self.fill(self.editor)], cwd=self.project, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        env={**environment, **self.fill(self.environment)})
        self.lines, self.calls = queue.SimpleQueue(), 0
        threading.Thread(target=self.listen, daemon=True).start()
        self.call("initialize", {"protocolVersion": 1, "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}}})
        self.session = self.call("session/new", {"cwd": self.project, "mcpServers": []})[0]["sessionId"]

    def listen(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def send(self, **message):
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def call(self, method, params, seconds=300):
        """Returns the result and the text that arrived before it."""
        self.calls, said, end = self.calls + 1, "", time.monotonic() + seconds
        self.send(id=self.calls, method=method, params=params)
        while True:
            message = json.loads(self.lines.get(timeout=max(0, end - time.monotonic())) or "null")
            assert message, f"the agent ended with status {self.process.poll()}"
            update = message.get("params", {}).get("update", {})
            if update.get("sessionUpdate") == "agent_message_chunk":
                said += update["content"].get("text", "")
            elif message.get("method") == "session/request_permission":
                first = message["params"]["options"][0]["optionId"]
                self.send(id=message["id"], result={"outcome": {"outcome": "selected", "optionId": first}})
            elif "method" in message and "id" in message:
                self.send(id=message["id"], error={"code": -32601, "message": "this editor has no such thing"})
            elif message.get("id") == self.calls:
                assert "result" in message, message
                return message["result"], said

    def ask(self, turn, question, environment):
        if turn == 0:
            self.start(environment)
        result, said = self.call("session/prompt", {"sessionId": self.session, "prompt": [{"type": "text", "text": question}]})
        return 0 if result["stopReason"] == "end_turn" else 1, said

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class ClineInEditor(InEditor, Cline):
    environment = {"CLINE_API_KEY": "any", "CLINE_PROVIDER": "openai-compatible", "CLINE_MODEL": "{model}"}

    def start(self, environment):
        super().start(environment)
        self.call("session/set_model", {"sessionId": self.session, "modelId": self.values["model"]})


class NanocoderInEditor(InEditor, Agent):
    """In a shell, Nanocoder does not continue a chat."""
    package, binary = "@nanocollective/nanocoder", "nanocoder"
    tool = ("read_file", {"path": "notes.txt"})
    editor = ["--provider", "hypura", "--model", "{model}", "--acp"]

    def prepare(self, environment):
        write(f"{self.home}/.config/nanocoder/agents.config.json", {"nanocoder": {"providers": [
            {"name": "hypura", "baseUrl": self.fill("{url}/v1"), "apiKey": "any", "models": [self.fill("{model}")]}]}})


class Copilot(Agent):
    package, binary = "@github/copilot", "copilot"
    tool = ("view", {"path": "{file}"})
    environment = {"COPILOT_PROVIDER_BASE_URL": "{url}/v1", "COPILOT_PROVIDER_TYPE": "openai", "COPILOT_PROVIDER_API_KEY": "any",
                   "COPILOT_MODEL": "{model}", "COPILOT_OFFLINE": "true"}
    first, again = ["--allow-all-tools", "-p"], ["--allow-all-tools", "--continue", "-p"]


ALL = {"Claude Code": ClaudeCode, "Codex": Codex, "Codex, a tool of an MCP server": CodexWithServer, "opencode": OpenCode,
       "Continue": Continue, "pi": Pi, "pi, Anthropic's API": PiAnthropic, "pi, Responses": PiResponses, "Qwen Code": QwenCode,
       "Cline": Cline, "Cline in an editor": ClineInEditor, "Kilo": Kilo, "Copilot": Copilot, "Nanocoder in an editor": NanocoderInEditor}
