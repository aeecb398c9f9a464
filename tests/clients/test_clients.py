#!/usr/bin/env python3
"""Starts the server with the embedded model and runs a JavaScript test against it. Prints TAP, which the test writes.

    test_clients.py HYPURA SOURCE_FOLDER SCRIPT.mjs

Without node, or without the packages of package.json (npm install in tests/clients), everything is skipped.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HYPURA, SOURCE, SCRIPT = sys.argv[1:4]


def main():
    here = os.path.join(SOURCE, "tests", "clients")
    node = shutil.which("node")
    if not node or not os.path.isdir(os.path.join(here, "node_modules")):
        print("1..0 # SKIP " + ("run npm install in tests/clients first" if node else "node is not installed"))
        return 0
    with tempfile.TemporaryDirectory(prefix="hypura-clients-") as work:
        environment = {**os.environ, "XDG_CACHE_HOME": work, "XDG_STATE_HOME": work}
        with open(os.path.join(work, "log"), "w+") as log:
            server = subprocess.Popen([HYPURA, "serve", "--port", "0", "--models", os.path.join(work, "models"),
                                       "--memory", "20M", "--context", "512", "--parallel", "2"],
                                      stdout=subprocess.PIPE, stderr=log, env=environment)
            try:
                url = server.stdout.readline().decode().strip()
                status = subprocess.run([node, os.path.join(here, SCRIPT)], timeout=280,
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
