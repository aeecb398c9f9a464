"""Helpers for the server's tests: starts servers on 127.0.0.1 and sends requests. For scripts with the arguments
HYPURA SOURCE_FOLDER."""
import atexit
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile

HYPURA, SOURCE = sys.argv[1], sys.argv[2]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE, is_instrumented
FILE = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
MODEL = "manpage-moe-24m-Q4_K_M"
WORK = tempfile.TemporaryDirectory(prefix="hypura-server-test-")
QUESTION = "What does the ls command do?"
ANSWER = "ls - list directory contents"
GREEDY = {"temperature": 0, "num_predict": 24, "repeat_penalty": 1}
WEATHER = {"name": "get_weather", "description": "Weather", "parameters":
           {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]}}


THREADS = ("--threads", "2")  # threads need memory: makes budgets the same on machines with many cores


class Server:
    def __init__(self, *arguments, environment=None, folder="models", before=None):
        arguments = arguments if "--threads" in arguments else (*THREADS, *arguments)
        self.folder = os.path.join(WORK.name, folder)
        self.log = open(os.path.join(WORK.name, "log"), "a+")
        env = {**os.environ, "XDG_CACHE_HOME": WORK.name, "XDG_STATE_HOME": WORK.name, **(environment or {})}
        self.process = subprocess.Popen([HYPURA, "serve", "--port", "0", "--models", self.folder, *map(str, arguments)],
                                        stdout=subprocess.PIPE, stderr=self.log, env=env, preexec_fn=before)
        atexit.register(self.process.kill)  # if the test failed
        line = self.process.stdout.readline().decode()
        assert line.startswith("http://"), (line, self.logged()[-500:])
        self.port = int(line.rsplit(":", 1)[1])

    def logged(self):
        self.log.flush()
        with open(self.log.name) as file:
            return file.read()

    def computed(self):
        """Returns the CPU time of the process in seconds. It tells more than a clock if the machine carries other load."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=30 * PATIENCE)
        self.process.stdout.close()
        self.log.close()
        return status

    def connection(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout * PATIENCE)

    def request(self, method, path, body=None, headers=None):
        connection = self.connection()
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, dict((k.lower(), v) for k, v in response.getheaders()), text

    def json(self, method, path, body=None, status=200, headers=None):
        got, _, text = self.request(method, path, body, headers)
        assert got == status, (path, got, text[:300])
        return json.loads(text) if text else None

    def post(self, path, body, status=200, headers=None):
        return self.json("POST", path, body, status, headers)

    def lines(self, path, body):
        status, headers, text = self.request("POST", path, body)
        assert status == 200, (status, text[:300])
        assert headers["content-type"] == "application/x-ndjson", headers
        return [json.loads(line) for line in text.splitlines()]

    def events(self, path, body):
        """Returns [(event or None, data)] of a stream. data is text if it is not JSON."""
        status, headers, text = self.request("POST", path, body)
        assert status == 200 and headers["content-type"] == "text/event-stream", (status, headers, text[:300])
        events = []
        for block in text.decode().strip().split("\n\n"):
            name, data = None, None
            for line in block.split("\n"):
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data = line[6:]
            events.append((name, data if data == "[DONE]" else json.loads(data)))
        return events

    def resident(self):
        """Returns the process's resident memory in bytes."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def smallest_budget():
    out = subprocess.run([HYPURA, "inspect", FILE, "--json", "--context", "512", *THREADS], capture_output=True, check=True).stdout
    return json.loads(out)["plan"]["smallest_budget_bytes"]


def chat(text=QUESTION, **more):
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "options": GREEDY, **more}


def assert_resident(server, budget):
    """Checks that the process stays within its budget. Small budgets exclude its code."""
    resident = server.resident()
    assert is_instrumented() or resident <= budget + (16 << 20), (resident, budget)
