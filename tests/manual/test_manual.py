#!/usr/bin/env python3
"""Checks the manual: links have targets, commands work, and images are up to date. Prints TAP.

    test_manual.py HYPURA SOURCE_FOLDER [long]

Runs each ```sh block, in a folder where model.gguf is the embedded model, unless the line before it is <!-- not run: REASON -->.
A block after <!-- file: NAME --> is written to that file. After <!-- run: serve -->, a command runs in the background until the
end of its page, and the test replaces the page's port. Without "long", only the pages of quick_pages run.
"""
import filecmp
import fnmatch
import glob
import importlib.machinery
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HYPURA, SOURCE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
LONG = "long" in sys.argv[3:]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE, is_instrumented
from tap import run_tests, tests_of

sys.dont_write_bytecode = True
docs = importlib.machinery.SourceFileLoader("docs", os.path.join(SOURCE, "scripts", "docs")).load_module()
PAGES = [*docs.pages(), "README.md"]
QUICK_PAGES = ["docs/getting-started.md", "docs/memory.md", "docs/batch.md", "docs/library.md"]


def text_of(page):
    with open(os.path.join(SOURCE, page), encoding="utf-8") as file:
        return file.read()


def without_code(text):
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.M))


def anchors(page):
    titles = re.findall(r"^#{1,6} +(.*?) *$", re.sub(r"^(```|~~~).*?^\1", "", text_of(page), flags=re.M | re.S), re.M)
    names, seen = set(), {}
    for title in titles:
        name = docs.anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title.replace("`", "").replace("\\", "")))
        names.add(name + (f"-{seen[name]}" if name in seen else ""))
        seen[name] = seen.get(name, 0) + 1
    return names


def links_have_targets():
    wrong = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
            if re.match(r"(https?|mailto):", target):
                continue
            path, _, part = target.partition("#")
            path = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            if not os.path.exists(os.path.join(SOURCE, path)):
                wrong.append((page, target, "no such file"))
            elif part and (not path.endswith(".md") or part not in anchors(path)):
                wrong.append((page, target, "no such heading"))
    assert not wrong, wrong


def every_page_can_be_reached_from_the_first():
    reached, ahead = set(), {"docs/README.md"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)", text_of(page)):
            path = os.path.normpath(os.path.join(os.path.dirname(page), target))
            if path.endswith(".md") and path not in reached and os.path.exists(os.path.join(SOURCE, path)):
                ahead.add(path)
    assert reached >= set(PAGES) - {"README.md"}, set(PAGES) - reached


def files_named_in_documents_exist():
    """Files such as `docs/x.md`, `src/x/y.c` or `bench/z` that the README and the manual name exist. The notes may be outdated."""
    wrong = []
    for page in PAGES:
        if page.startswith("docs/notes/") or page == "CHANGELOG.md":
            continue
        for path in re.findall(r"`((?:docs|src|bench|tests|scripts|extras|models|include|examples|bindings)/[\w./-]*)`", text_of(page)):
            there = os.path.join(SOURCE, path.rstrip("/"))
            if not os.path.exists(there) and not any(os.path.exists(there + ending) for ending in (".c", ".py", ".sh")):
                wrong.append((page, path))
    assert not wrong, wrong


def pictures_are_up_to_date():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, os.path.join(SOURCE, "scripts", "draw"), folder], check=True)
        names = os.listdir(folder)
        assert len(names) >= 5
        differ = [name for name in names if not filecmp.cmp(os.path.join(folder, name), os.path.join(SOURCE, "docs", "images", name), shallow=False)]
        assert not differ, f"these images are outdated; run scripts/draw: {differ}"
        page = text_of("docs/how-it-works.md") + text_of("docs/architecture.md")
        assert all(f"images/{name}" in page for name in names)


def the_readme_stays_short():
    assert len(text_of("README.md").splitlines()) <= 110


def html_of_all_pages_is_complete():
    if not shutil.which("cmark-gfm"):
        return "cmark-gfm is not installed: the HTML of the manual is not made"
    with tempfile.TemporaryDirectory() as folder:
        docs.make(folder)
        wrong = []
        for page, target in docs.pages().items():
            with open(os.path.join(folder, target), encoding="utf-8") as file:
                html = file.read()
            ids = re.findall(r' id="([^"]+)"', html)
            assert html.count("<h1") == 1 and len(ids) == len(set(ids)), page
            assert "<script" not in html and "raw HTML omitted" not in html, page
            assert 'aria-current="page"' in html or target == "index.html" or page.startswith("docs/notes/"), page
            for link in re.findall(r'(?:href|src)="([^"]+)"', html):
                if link.startswith(("http:", "https:", "mailto:")):
                    continue
                path, _, part = link.partition("#")
                there = os.path.normpath(os.path.join(folder, os.path.dirname(target), path)) if path else os.path.join(folder, target)
                if not os.path.isfile(there):
                    wrong.append((target, link))
                elif part:
                    with open(there, encoding="utf-8") as file:
                        if f' id="{part}"' not in file.read():
                            wrong.append((target, link))
        assert not wrong, wrong
    return None


# ---- messages -------------------------------------------------------------------------------------------------------

CALLS = r"\b(error_set|error_set_errno|error_prefix|set_error|set_error_errno|prefix_error|log_warning|report_usage|exchange_fail|generation_refuse|refuse|log_write|server_log)\("
LITERAL = r'"(?:[^"\\\n]|\\.)*"'


def messages():
    """Yields (file, message) for each call that reports something to a user, with "..." for values."""
    found = []
    for folder, _, names in os.walk(os.path.join(SOURCE, "src")):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.endswith((".c", ".h")):
                continue
            with open(path, encoding="utf-8") as file:
                text = file.read()
            for call in re.finditer(CALLS, text):
                end = text.find(");\n", call.end())
                call_text = re.sub(r'%"\s*PRI\w+(?:\s*")?', lambda each: "%d" if each[0].endswith('"') else '%d"', text[call.end():end])
                said = re.findall(rf"{LITERAL}(?:\s*{LITERAL})*", call_text)
                if call[1] == "server_log":
                    levels = [each for each in said if each in ('"info"', '"warning"', '"error"')]
                    said = said[len(levels):] if levels and levels != ['"info"'] else []
                if not said or (call[1] == "log_write" and "LOG_WARNING" not in text[call.end():end]):
                    continue
                message = "".join(each[1:-1] for each in re.findall(LITERAL, said[0]))
                message = re.sub(r"%[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh?|ll?|z|j)?[diuxXscfgeap]?", "...", message)
                message = message.replace('\\"', '"').replace("\\n", " ").replace("\\\\", "\\")
                if len(message.replace(".", "").strip(" :;")) > 2:
                    found.append((os.path.relpath(path, SOURCE), message))
    return found


def every_message_is_in_troubleshooting():
    """Each message matches a pattern on the page, or comes from a file that a section names in <!-- messages: FILES -->. Every pattern
    and every list of files is needed, so the page mentions no message that no longer exists."""
    page, said = text_of("docs/troubleshooting.md"), messages()
    assert len(said) > 600, len(said)
    cells = [line.split(" | ")[0 if line.count(" | ") < 2 else 1] for line in page.splitlines() if re.match(r"\| (?:\d+ \| )?`", line)]
    patterns = [pattern for cell in cells for pattern in re.findall(r"`([^`]+)`", cell)]
    assert len(patterns) > 70, len(patterns)
    like = {pattern: re.compile(".*".join(map(re.escape, pattern.split("..."))), re.S) for pattern in patterns}
    files = [name for listed in re.findall(r"<!-- messages: (.*?) -->", page) for name in listed.split()]
    without = sorted({(file, message) for file, message in said if not any(each.fullmatch(message) for each in like.values())
                      and not any(fnmatch.fnmatch(file, name) for name in files)})
    assert not without, without
    texts = [re.sub(r'"\s*"', "", text_of(os.path.relpath(path, SOURCE))).replace('\\"', '"')
             for path in glob.glob(os.path.join(SOURCE, "src", "server", "http*.c"))]
    gone = [pattern for pattern in patterns if not any(like[pattern].fullmatch(message) for _, message in said)
            and not any(pattern.strip(".") in text for text in texts)]
    assert not gone, gone
    unused = [name for name in files if "*" not in name and not glob.glob(os.path.join(SOURCE, name))]
    assert not unused, unused


# ---- commands -------------------------------------------------------------------------------------------------------

def blocks(page):
    """Yields (line, action, text) for each block of commands."""
    lines, found, i = text_of(page).splitlines(), [], 0
    while i < len(lines):
        if lines[i].startswith("```"):
            end = next(n for n in range(i + 1, len(lines)) if lines[n].startswith("```"))
            if lines[i] == "```sh":
                note = re.fullmatch(r"<!-- (not run: .+|run: serve) -->", lines[i - 1])
                found.append((i + 1, note[1] if note else "run", "\n".join(lines[i + 1:end])))
            elif file := re.fullmatch(r"<!-- file: ([\w.-]+) -->", lines[i - 1]):
                found.append((i + 1, "file", "cat >" + file[1] + " <<'END_OF_FILE'\n" + "\n".join(lines[i + 1:end]) + "\nEND_OF_FILE"))
            i = end
        i += 1
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process):
    for _ in range(int(300 * PATIENCE)):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def run_page(page):
    """Runs a page's blocks in order, in a temporary folder."""
    port, servers = free_port(), []
    with tempfile.TemporaryDirectory(prefix="hypura-manual-") as folder:
        os.symlink(os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf"), os.path.join(folder, "model.gguf"))
        os.mkdir(os.path.join(folder, "bin"))
        program = os.path.join(folder, "bin", "hypura")
        with open(program, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\n[ "$1" != serve ] || {{ shift; exec "{HYPURA}" serve --port {port} "$@"; }}\nexec "{HYPURA}" "$@"\n')
        os.chmod(program, 0o755)
        environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": folder, "HYPURA_HOST": f"127.0.0.1:{port}",
                       "HYPURA_MODELS": os.path.join(folder, "models"), "HYPURA_GPU": os.environ.get("HYPURA_GPU", "none"),
                       **{f"XDG_{name}_HOME": os.path.join(folder, name) for name in ("CACHE", "STATE", "DATA", "CONFIG")}}
        environment.pop("HYPURA_API_KEY", None)
        build = os.path.dirname(HYPURA)  # use this build's library, not an installed one
        environment.update(PKG_CONFIG_PATH=os.path.join(build, "meson-uninstalled"), LD_LIBRARY_PATH=build,
                           C_INCLUDE_PATH=os.path.join(SOURCE, "include"))
        try:
            for line, what, text in blocks(page):
                if what.startswith("not run") or ("pkg-config" in text and not (shutil.which("pkg-config") and shutil.which("cc"))):
                    continue
                text = text.replace("127.0.0.1:11434", f"127.0.0.1:{port}").replace("curl ", "curl -sS --fail-with-body ")
                if what == "run: serve":
                    servers.append(subprocess.Popen(["sh", "-ec", "exec " + text], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                    wait_for(port, servers[-1])
                    continue
                done = subprocess.run(["sh", "-ec", text], cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=120 * PATIENCE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                assert done.returncode == 0, f"{page}:{line}: {text}\n{done.stdout.decode(errors='replace')[-800:]}"
        finally:
            for server in servers:
                server.terminate()
                server.wait(timeout=60 * PATIENCE)


def commands_of_the_manual_work():
    pages = [page for page in PAGES if any(not what.startswith("not run") for _, what, _ in blocks(page))]
    assert set(QUICK_PAGES) <= set(pages) and len(pages) >= 6, pages
    for page in pages if LONG else QUICK_PAGES:
        if is_instrumented() and "pkg-config" in text_of(page):
            continue  # a program without sanitizers cannot load a library with them
        if "curl " in text_of(page) and not shutil.which("curl"):
            print(f"# {page}: curl is not installed")
            continue
        run_page(page)


if __name__ == "__main__":
    helpers = [text_of, messages, without_code, anchors, blocks, free_port, wait_for, run_page]
    sys.exit(1 if run_tests([commands_of_the_manual_work] if LONG else tests_of(globals(), helpers)) else 0)
