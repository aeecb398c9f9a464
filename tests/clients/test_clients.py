#!/usr/bin/env python3
"""Starts the server with the embedded model and runs a JavaScript test against it, which prints TAP.

    test_clients.py HYPURA SOURCE_FOLDER SCRIPT.mjs

First installs the packages of package.json if they are missing. Without node, or if the packages cannot be installed, all tests are
skipped.
"""
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HYPURA, SOURCE, SCRIPT = sys.argv[1:4]


def why_not(here):
    """Installs the packages. Returns None, or the reason why the tests cannot run."""
    if not shutil.which("node"):
        return "node is not installed"
    # Two tests may run this at once. npm writes the file when it has finished.
    installed = os.path.join(here, "node_modules", ".package-lock.json")
    with open(os.path.join(here, "package.json")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(installed):
            return None
        if not shutil.which("npm"):
            return "npm is not installed, and tests/clients has no node_modules"
        try:
            made = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"], cwd=here,
                                  timeout=240, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except subprocess.TimeoutExpired:
            return "npm install took too long; is the registry reachable?"
        if made.returncode or not os.path.exists(installed):
            for line in made.stderr.decode(errors="replace").splitlines()[-10:]:
                print("# " + line)
            return "npm install failed in tests/clients"
    return None


def main():
    here = os.path.join(SOURCE, "tests", "clients")
    reason = why_not(here)
    if reason:
        print("1..0 # SKIP " + reason)
        return 0
    with tempfile.TemporaryDirectory(prefix="hypura-clients-") as work:
        os.makedirs(os.path.join(work, "models"))
        shutil.copy(os.path.join(SOURCE, "tests", "data", "embed", "bert.gguf"), os.path.join(work, "models", "bert.gguf"))
        environment = {**os.environ, "XDG_CACHE_HOME": work, "XDG_STATE_HOME": work}
        with open(os.path.join(work, "log"), "w+") as log:
            server = subprocess.Popen([HYPURA, "serve", "--port", "0", "--models", os.path.join(work, "models"),
                                       "--memory", "24M", "--context", "512", "--parallel", "2"],
                                      stdout=subprocess.PIPE, stderr=log, env=environment)
            try:
                url = server.stdout.readline().decode().strip()
                status = subprocess.run(["node", os.path.join(here, SCRIPT)], timeout=280,
                                        env={**environment, "HYPURA_URL": url}).returncode
            finally:
                server.send_signal(signal.SIGTERM)
                ended = server.wait(timeout=30)
            if status or ended:
                log.seek(0)
                for line in log.readlines()[-20:]:
                    print("# " + line.rstrip())
    return status or ended


if __name__ == "__main__":
    sys.exit(main())
