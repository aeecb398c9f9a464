#!/usr/bin/env python3
"""Builds packaging/Containerfile without podman, in folders instead of images, and tests the result: the server runs as an ordinary
user and answers only with a key. Runs as root; scripts/check-suites calls it.

    container.py BASE WORK        (BASE: a minimal Debian 12, which is not changed; WORK: a folder for the stages)
"""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BASE, WORK = map(os.path.abspath, sys.argv[1:3])
KEY = "a-key-of-the-test"
MOUNTS = """
mount -t proc proc "$root/proc"
for node in null zero full random urandom; do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
[ -d "$root/dev/shm" ] || mkdir "$root/dev/shm"
mount -t tmpfs -o size=256m tmpfs "$root/dev/shm"
[ -e "$root/dev/fd" ] || ln -s /proc/self/fd "$root/dev/fd"
"""


def steps():
    with open(os.path.join(SOURCE, "packaging", "Containerfile"), encoding="utf-8") as file:
        text = re.sub(r"\\\n", " ", file.read())
    return [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]


def within(root, command, user=None, environment=None, **options):
    """Runs a process in a folder, with its own mounts and process ids."""
    who = f"--userspec={user}:{user}" if user else ""
    given = " ".join(f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items())
    script = f"{MOUNTS}\nexec chroot {who} \"$root\" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin {given} sh -c \"$inside\""
    return subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-euo", "pipefail", "-c", script],
                            env={**os.environ, "root": root, "inside": command}, text=True, **options)


class Image:
    def __init__(self, root):
        self.root, self.user, self.folder, self.environment, self.entry = root, None, "/", {}, []


def start_stage(name):
    root = os.path.join(WORK, name)
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", BASE, root], check=True)
    shutil.copy("/etc/resolv.conf", os.path.join(root, "etc", "resolv.conf"))
    return Image(root)


def copy(image, words, stages):
    origin = words[0].startswith("--from=") and stages[words.pop(0)[7:]].root
    source, target = words
    os.makedirs(image.root + target, exist_ok=True)
    if origin:
        subprocess.run(["cp", "-a", f"{origin}{source}/.", image.root + target], check=True)
    else:
        archive = subprocess.run(["git", "-C", SOURCE, "archive", "HEAD"], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", image.root + target], input=archive, check=True)


def build():
    stages, image = {}, None
    for name, rest in steps():
        print(f"# {name} {rest[:100]}", flush=True)
        words = shlex.split(rest)
        if name == "FROM":
            assert words[0].endswith("debian:12-slim"), words
            image = stages[words[2] if len(words) > 2 else "last"] = start_stage(words[2] if len(words) > 2 else "last")
        elif name == "RUN":
            done = within(image.root, rest, environment={"DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said = done.communicate()[0]
            assert done.returncode == 0, said[-3000:]
        elif name == "COPY":
            copy(image, words, stages)
        elif name == "USER":
            image.user = words[0]
        elif name == "WORKDIR":
            image.folder = words[0]
        elif name == "ENV":
            image.environment.update(word.split("=", 1) for word in words)
        elif name == "ENTRYPOINT":
            image.entry = json.loads(rest)
        else:
            assert name in ("VOLUME", "EXPOSE", "STOPSIGNAL"), name
    return image


def start(image, *more, **environment):
    command = f"cd {image.folder} && exec {shlex.join([*image.entry, *more])}"
    return within(image.root, command, user=image.user, environment={**image.environment, **environment}, stdout=subprocess.PIPE,
                  stderr=subprocess.PIPE)


def ask(address, path, body, key):
    """Posts body, or gets the path if body is None. Returns the status and the answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def user_of_the_server():
    """Returns the user of the container's server process, as seen from outside."""
    found = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                if b"hypura\0serve\0--host\0000.0.0.0" in file.read() and os.readlink(f"/proc/{process}/root") == image_root:
                    found.add(os.stat(f"/proc/{process}").st_uid)
        except OSError:
            continue
    return found


image_root = os.path.join(WORK, "last")


def main():
    os.makedirs(WORK, exist_ok=True)
    image = build()
    refused = start(image, "--port", "0")
    _, said = refused.communicate(timeout=120)
    assert refused.returncode != 0 and "key" in said, (refused.returncode, said)
    print("ok 1 - without a key, the server does not listen on public addresses")
    server = start(image, "--port", "0", HYPURA_API_KEY=KEY)
    address = server.stdout.readline().strip()
    assert address.startswith("http://"), server.stderr.read()
    address = address.replace("0.0.0.0", "127.0.0.1")
    try:
        status, listed = ask(address, "/v1/models", None, KEY)
        assert status == 200 and len(listed["data"]) == 1, (status, listed)
        chat = {"model": listed["data"][0]["id"], "messages": [{"role": "user", "content": "What does the ls command do?"}],
                "temperature": 0, "max_tokens": 12}
        status, answer = ask(address, "/v1/chat/completions", chat, None)
        assert status == 401, (status, answer)
        status, answer = ask(address, "/v1/chat/completions", chat, KEY)
        assert status == 200 and "list directory contents" in answer["choices"][0]["message"]["content"], (status, answer)
        print("ok 2 - with a key, the server answers clients that have it")
        assert user_of_the_server() == {10000}, user_of_the_server()
        print("ok 3 - the server runs as a user of its own")
    finally:
        os.kill(server.pid, signal.SIGKILL)  # unshare then kills its processes
        server.wait()
        time.sleep(0.2)
    print("3 passed, 0 failed")


if __name__ == "__main__":
    main()
