#!/usr/bin/env python3
"""Interrupted downloads: a successful download is exactly one file of the server, to the last byte. Prints TAP.

    test_pull.py HYPURA SOURCE_FOLDER
"""
import glob
import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import gguf_file
from harness import FILE, HYPURA, PATIENCE, WORK
from tap import run_tests, tests_of

MIB = 1 << 20
with open(FILE, "rb") as opened:
    ONE = opened.read()
TWO = ONE[:-2 * MIB] + bytes(b ^ 0x55 for b in ONE[-2 * MIB:])  # another model of the same shape
BREAK = 9 * MIB


class Files(http.server.BaseHTTPRequestHandler):
    """A server with one file per path. Options switch on errors, or switch off features."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server
        data, etag, modified = site.files[self.path]
        asked, unless = self.headers.get("Range"), self.headers.get("If-Range")
        start = int(asked[6:].split("-")[0]) if asked else 0
        site.asked.append((self.path, start, unless))
        if unless and site.honest and unless not in (etag, modified):
            start = 0
        if start >= len(data) and start:
            self.send_response(416)
            if site.ranges_told:
                self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            shown = start + site.shift
            if site.ranges_told:
                self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        if etag and not (start and site.silent):
            self.send_header("ETag", etag)
        if modified:
            self.send_header("Last-Modified", modified)
        if site.length_told:
            self.send_header("Content-Length", str(len(data) - start))
        else:
            self.close_connection = True
        self.end_headers()
        end = len(data) if site.break_at is None else max(start, min(len(data), site.break_at))
        self.wfile.write(data[start:end])
        if end < len(data):
            self.close_connection = True
            if site.held:
                self.wfile.flush()
                site.reached.set()
                site.held.wait(30)

    def log_message(self, *arguments):
        pass


class Site:
    """A file server, and a model folder for downloads from it."""

    def __init__(self, files, **how):
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *arguments: None
        for key, value in {"files": files, "honest": True, "silent": False, "ranges_told": True, "length_told": True, "shift": 0,
                           "break_at": None, "held": None, "reached": threading.Event(), "asked": [], **how}.items():
            setattr(self.http, key, value)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        Site.number = getattr(Site, "number", 0) + 1
        self.folder = os.path.join(WORK.name, f"pull{Site.number}")

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        if self.http.held:
            self.http.held.set()
        self.http.shutdown()
        self.http.server_close()

    def start(self, path="/x.gguf"):
        url = f"http://127.0.0.1:{self.http.server_address[1]}{path}"
        return subprocess.Popen([HYPURA, "pull", url, "--models", self.folder, "--context", "512"], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env={**os.environ, "XDG_CACHE_HOME": WORK.name})

    def pull(self, path="/x.gguf", break_at=None):
        self.http.break_at = break_at
        process = self.start(path)
        process.text = process.communicate(timeout=100 * PATIENCE)[1]
        return process

    def breaks(self, path="/x.gguf", at=BREAK):
        process = self.pull(path, at)
        assert process.returncode == 1, process.text
        assert not os.path.exists(self.folder + "/x.gguf")

    def comes(self, data, path="/x.gguf"):
        process = self.pull(path)
        assert process.returncode == 0, process.text
        self.holds(data)

    def holds(self, data):
        with open(self.folder + "/x.gguf", "rb") as file:
            assert hashlib.sha256(file.read()).digest() == hashlib.sha256(data).digest()
        assert os.listdir(self.folder) == ["x.gguf"], os.listdir(self.folder)

    def part(self):
        return glob.glob(self.folder + "/*.partial")[0]

    def note(self):
        with open(self.part() + ".source") as file:
            return json.load(file)


def file_of(data, etag='"1"', modified=None):
    return data, etag, modified


DATE, LATER = "Mon, 05 Jan 2026 10:00:00 GMT", "Tue, 06 Jan 2026 10:00:00 GMT"


def the_same_file_continues_where_it_stopped():
    for one, unless in ((file_of(ONE), '"1"'), (file_of(ONE, None, DATE), DATE), (file_of(ONE, 'W/"1"', DATE), DATE)):
        with Site({"/x.gguf": one}) as site:
            site.breaks()
            assert site.note()["have"] == BREAK and site.note()["total"] == len(ONE), site.note()
            site.comes(ONE)
            assert site.http.asked == [("/x.gguf", 0, None), ("/x.gguf", BREAK, unless)], site.http.asked


def a_changed_file_starts_again():
    """A changed file is downloaded from the beginning, whichever of If-Range, ETag and length the server handles correctly."""
    for before, after, how in ((file_of(ONE), file_of(TWO, '"2"'), {}), (file_of(ONE), file_of(TWO, '"2"'), {"honest": False}),
                               (file_of(ONE, None, DATE), file_of(TWO, None, LATER), {}),
                               (file_of(ONE, None, DATE), file_of(TWO, None, LATER), {"honest": False}),
                               (file_of(ONE, 'W/"1"'), file_of(TWO, 'W/"2"'), {"honest": False}),
                               (file_of(ONE, None), file_of(TWO, None), {}),
                               (file_of(ONE + bytes(64)), file_of(TWO), {"honest": False, "silent": True}),
                               (file_of(ONE), file_of(TWO, '"2"'), {"honest": False, "ranges_told": False, "silent": True}),
                               (file_of(ONE), file_of(ONE), {"shift": 1})):
        with Site({"/x.gguf": before}, **how) as site:
            site.breaks()
            site.http.files["/x.gguf"] = after
            site.comes(after[0])


def files_of_one_name_do_not_mix():
    with Site({"/a/x.gguf": file_of(ONE), "/b/x.gguf": file_of(TWO)}) as site:
        site.breaks("/a/x.gguf")
        site.comes(TWO, "/b/x.gguf")
        assert site.http.asked[-1] == ("/b/x.gguf", 0, None), site.http.asked
        site.comes(ONE, "/a/x.gguf")


def a_part_that_is_longer_than_the_file_is_discarded():
    for how in ({}, {"honest": False}, {"honest": False, "ranges_told": False, "silent": True}):
        with Site({"/x.gguf": file_of(ONE + bytes(4 * MIB))}, **how) as site:
            site.breaks(at=len(ONE) + MIB)
            site.http.files["/x.gguf"] = file_of(ONE)
            site.comes(ONE)
    # A partial file that is already complete becomes the file.
    with Site({"/x.gguf": file_of(ONE)}) as site:
        site.breaks(at=len(ONE) - 1)
        with open(site.part(), "ab") as file:
            file.write(ONE[-1:])
        note = site.note()
        with open(site.part() + ".source", "w") as file:
            json.dump({**note, "have": len(ONE)}, file)
        site.comes(ONE)
        assert site.http.asked[-1] == ("/x.gguf", len(ONE), '"1"'), site.http.asked


def only_bytes_known_to_be_on_the_drive_count():
    """Zeros after the counted bytes, as after a power failure; partial files without a note; notes without a partial file."""
    with Site({"/x.gguf": file_of(ONE)}) as site:
        site.breaks()
        with open(site.part(), "ab") as file:
            file.write(bytes(3 * MIB))
        site.comes(ONE)
        assert site.http.asked[-1][1] == BREAK
    for spoil in (lambda part: os.remove(part + ".source"), lambda part: os.truncate(part, BREAK - 1), os.remove,
                  lambda part: os.truncate(part + ".source", 20)):
        with Site({"/x.gguf": file_of(ONE)}) as site:
            site.breaks()
            spoil(site.part())
            site.comes(ONE)
            assert site.http.asked[-1][1] == 0, site.http.asked
    # A partial file as earlier versions left it.
    with Site({"/x.gguf": file_of(ONE)}) as site:
        os.makedirs(site.folder)
        with open(site.folder + "/x.gguf.partial", "wb") as file:
            file.write(bytes(len(ONE)))
        site.comes(ONE)


def a_kill_costs_only_time():
    with Site({"/x.gguf": file_of(ONE)}, break_at=BREAK, held=threading.Event()) as site:
        process = site.start()
        assert site.http.reached.wait(60)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        site.http.held.set()
        assert not os.path.exists(site.folder + "/x.gguf") and os.path.getsize(site.part())
        site.comes(ONE)


def zeros_instead_of_weights_are_refused():
    """Zeros are found in the server's file and in the bytes already downloaded."""
    chance = random.Random(5)
    for _ in range(3):
        at = chance.randrange(5 * MIB, len(ONE) - MIB) // 4096 * 4096
        holed = ONE[:at] + bytes(512 << 10) + ONE[at + (512 << 10):]
        with Site({"/x.gguf": file_of(holed)}) as site:
            process = site.pull()
            assert process.returncode == 1 and "damaged" in process.text and "zeros" in process.text, (at, process.text)
            assert os.listdir(site.folder) == [], os.listdir(site.folder)
    with Site({"/x.gguf": file_of(ONE)}) as site:
        site.breaks()
        with open(site.part(), "r+b") as file:
            file.seek(BREAK - MIB)
            file.write(bytes(MIB))
        process = site.pull()
        assert process.returncode == 1 and "damaged" in process.text, process.text
        site.comes(ONE)


def rows_of_zeros_are_weights():
    """Rows of the embedding may be zero, for tokens that occur in no text."""
    values, tensors = gguf_file.read(FILE)
    path = os.path.join(WORK.name, "rows.gguf")
    for number, (name, dimensions, kind, data) in enumerate(tensors):
        if name == "token_embd.weight":
            row = len(data) // dimensions[1]
            whole = data[:row * 100] + bytes(row * 200) + data[row * 300:-row * 50] + bytes(row * 50)
            tensors[number] = (name, dimensions, kind, whole)
    gguf_file.write(path, values, tensors)
    with open(path, "rb") as file:
        data = file.read()
    with Site({"/x.gguf": file_of(data)}) as site:
        site.comes(data)


def a_file_that_ends_early_is_refused():
    """If the server does not send the length, it follows from the tensors."""
    with Site({"/x.gguf": file_of(ONE[:-5 * MIB])}, length_told=False) as site:
        process = site.pull()
        assert process.returncode == 1 and "x." in process.text, process.text
        assert os.listdir(site.folder) == [], os.listdir(site.folder)
        site.http.files["/x.gguf"] = file_of(ONE)
        site.comes(ONE)
    with Site({"/x.gguf": file_of(b"no model at all " * 1000)}, length_told=False) as site:
        assert site.pull().returncode == 1 and os.listdir(site.folder) == []


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [file_of]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
