#!/usr/bin/env python3
"""Requests as bytes: a request that a proxy might read differently is refused, and nothing after it is answered. Prints TAP.

    test_wire.py HYPURA SOURCE_FOLDER
"""
import json
import random
import socket
import sys
import threading
import time

from harness import MODEL, PATIENCE, WORK, Server
from tap import run_tests, tests_of

SERVER = None
HIDDEN = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nX-Hidden: yes\r\n\r\n"
BODY = json.dumps({"model": MODEL}).encode()  # for /api/show
SHOW = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n"


def talk(*pieces, wait=0.05, port=None):
    """Sends bytes. Returns all that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port or SERVER.port), timeout=20 * PATIENCE) as connection:
        said = b""
        try:
            for i, piece in enumerate(pieces):
                time.sleep(wait if i else 0)
                connection.sendall(piece)
            while piece := connection.recv(65536):
                said += piece
        except ConnectionError:
            pass
    return said


def statuses(said):
    """Returns the statuses of all answers, read as a client would."""
    found = []
    while said:
        head, _, rest = said.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0].startswith(b"HTTP/1.1 "), said
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        found.append(int(lines[0].split()[1]))
        if found[-1] == 100:
            said = rest
        elif b"content-length" in headers:
            said = rest[int(headers[b"content-length"]):]
        else:
            assert headers.get(b"transfer-encoding") == b"chunked", head
            while (size := int(rest.partition(b"\r\n")[0], 16)):
                rest = rest.partition(b"\r\n")[2][size + 2:]
            said = rest.partition(b"\r\n\r\n")[2]
    return found


def chunked(*chunks):
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


LENGTH = b"%d" % len(BODY)
# Wrong heads: the lines between the request line and the empty line. A body follows, then another request.
HEADS = {
    "space before the colon of a length": b"Content-Length : " + LENGTH,
    "tab before the colon of a length": b"Content-Length\t: " + LENGTH,
    "space before the colon of a coding": b"Transfer-Encoding : chunked",
    "space before any colon": b"X-Other : x\r\nContent-Length: " + LENGTH,
    "length folded": b"Content-Length:\r\n " + LENGTH,
    "length folded by a tab": b"Content-Length:\r\n\t" + LENGTH,
    "coding folded": b"Transfer-Encoding:\r\n chunked",
    "coding in a fold": b"X-Other: x\r\n Transfer-Encoding: chunked",
    "any header folded": b"X-Other: a\r\n b\r\nContent-Length: " + LENGTH,
    "fold first": b" X-Other: a\r\nContent-Length: " + LENGTH,
    "empty fold": b"X-Other: a\r\n \r\nContent-Length: " + LENGTH,
    "two lengths": b"Content-Length: 0\r\nContent-Length: " + LENGTH,
    "the same length twice": b"Content-Length: " + LENGTH + b"\r\nContent-Length: " + LENGTH,
    "a list of lengths": b"Content-Length: " + LENGTH + b", " + LENGTH,
    "length with a sign": b"Content-Length: +" + LENGTH,
    "negative length": b"Content-Length: -1",
    "hexadecimal length": b"Content-Length: 0x10",
    "length with a blank inside": b"Content-Length: 1 2",
    "no length": b"Content-Length:",
    "length that is too large": b"Content-Length: 99999999999999999999",
    "length that wraps": b"Content-Length: 18446744073709551616",
    "length and coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "a list of codings": b"Transfer-Encoding: gzip, chunked",
    "chunked and another": b"Transfer-Encoding: chunked, identity",
    "another coding": b"Transfer-Encoding: identity",
    "unknown coding": b"Transfer-Encoding: xchunked",
    "quoted coding": b"Transfer-Encoding: \"chunked\"",
    "vertical tab in front of a coding": b"Transfer-Encoding: \x0bchunked",
    "control character in a name": b"Content\x01-Length: 5",
    "non-ASCII letter in a name": b"Content-L\xc3\xa4ngth: 5",
    "no colon": b"Content-Length 5",
    "no name": b": 5",
    "NUL in a value": b"X-Other: a\0b\r\nContent-Length: " + LENGTH,
    "NUL in a name": b"Content-Length\0: " + LENGTH,
    "delete in a value": b"X-Other: a\x7fb",
    "bare LF between headers": b"X-Other: a\nContent-Length: " + LENGTH,
    "bare CR in a value": b"X-Other: a\rContent-Length: " + LENGTH,
    "CR CR LF": b"X-Other: a\r\r\nContent-Length: " + LENGTH,
    "a second host": b"Host: other.example\r\nContent-Length: " + LENGTH,
}
LINES = {
    "two spaces": b"POST  /api/show HTTP/1.1", "a tab": b"POST\t/api/show HTTP/1.1", "trailing space": b"POST /api/show HTTP/1.1 ",
    "no version": b"POST /api/show", "another protocol": b"POST /api/show HTTPS/1.1", "HTTP/2": b"POST /api/show HTTP/2.0",
    "lower case": b"POST /api/show http/1.1", "HTTP/1.10": b"POST /api/show HTTP/1.10", "no target": b"POST  HTTP/1.1",
    "a space in the target": b"POST /api/show HTTP/1.1 /x HTTP/1.1", "no method": b" /api/show HTTP/1.1",
    "a header in front": b"X-Other: a\r\nPOST /api/show HTTP/1.1", "a blank in front": b" POST /api/show HTTP/1.1",
    "bare CR": b"POST /api/show\rHTTP/1.1", "control character": b"POST /api/\x01show HTTP/1.1", "NUL": b"POST /api/\0show HTTP/1.1"}
BODIES = {
    "no number": b"zz\r\n", "a sign": b"+5\r\nhello\r\n", "0x": b"0x5\r\nhello\r\n", "a blank behind": b"5 \r\nhello\r\n",
    "a blank in front": b" 5\r\nhello\r\n", "a blank and an extension": b"5 ;a=b\r\nhello\r\n", "empty": b"\r\nhello\r\n",
    "too large": b"ffffffffffffffffffff\r\n", "wraps": b"10000000000000005\r\nhello\r\n", "bare LF behind the size": b"5\nhello\r\n",
    "bare LF behind the data": b"5\r\nhello\n0\r\n\r\n", "bare CR in an extension": b"5;a\rb\r\nhello\r\n",
    "NUL in an extension": b"5;a\0b\r\nhello\r\n", "longer than it says": b"5\r\nhello!\r\n", "shorter than it says": b"7\r\nhello\r\n0\r\n\r\n",
    "trailer without a colon": b"0\r\nabc\r\n\r\n", "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n", "blank in a trailer": b"0\r\nA : b\r\n\r\n",
    "bare LF in a trailer": b"0\r\nA: b\n\r\n", "endless extension": b"5;" + b"a" * 70000 + b"\r\nhello\r\n",
    "endless trailers": b"0\r\n" + b"A: b\r\n" * 20000 + b"\r\n"}


def is_refused(what, said, before=0):
    got = statuses(said)
    assert got == [200] * before + [400], (what, got, said[-300:])
    assert b"onnection: close" in said[said.rindex(b"HTTP/1.1 400"):], (what, said)


def ambiguous_heads_are_refused():
    for what, lines in HEADS.items():
        coded = b"ransfer" in lines and b"ontent" not in lines
        request = SHOW + lines + b"\r\n\r\n" + (chunked(BODY) if coded else BODY) + HIDDEN
        is_refused(what, talk(request))
        error = json.loads(talk(request).partition(b"\r\n\r\n")[2])["error"]
        assert "request" in error or "Content-Length" in error or "Transfer-Encoding" in error, (what, error)
    for what, line in LINES.items():
        is_refused(what, talk(line + b"\r\nHost: localhost\r\nContent-Length: " + LENGTH + b"\r\n\r\n" + BODY + HIDDEN))
    # A line that ends with LF alone is refused without waiting for more.
    is_refused("LF only", talk(GET.replace(b"\r\n", b"\n") + b"\n" + HIDDEN))
    is_refused("no host", talk(b"GET /api/version HTTP/1.1\r\n\r\n" + HIDDEN))
    is_refused("coding of HTTP/1.0", talk(b"POST /api/show HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(BODY) + HIDDEN))
    assert statuses(talk(GET + b"X: " + b"y" * 50000 + b"\r\n\r\n" + HIDDEN))[0] in (400, 413, 431)


def ambiguous_bodies_are_refused():
    for what, body in BODIES.items():
        is_refused(what, talk(SHOW + b"Transfer-Encoding: chunked\r\n\r\n" + body + HIDDEN))
        is_refused(what, talk(SHOW + b"Transfer-Encoding: chunked\r\n\r\n", body + HIDDEN))


def earlier_requests_are_answered():
    for lines in (HEADS["space before the colon of a length"], HEADS["coding folded"], HEADS["two lengths"]):
        bad = SHOW + lines + b"\r\n\r\n" + BODY + HIDDEN
        for good, count in ((GET + b"\r\n", 1), (SHOW + b"Content-Length: " + LENGTH + b"\r\n\r\n" + BODY, 1),
                            (SHOW + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY) + GET + b"\r\n", 2)):
            is_refused(lines, talk(good + bad), count)
            is_refused(lines, talk(good, bad), count)
    is_refused("a chunk", talk(GET + b"\r\n" + SHOW + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + HIDDEN), 1)


def the_answer_comes_in_the_clients_format():
    for path, reason in (("/v1/chat/completions", lambda error: error["error"]["message"]), ("/api/chat", lambda error: error["error"]),
                         ("/v1/messages", lambda error: error["error"]["message"])):
        said = talk(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length : 2\r\n\r\n{{}}".encode())
        assert said.startswith(b"HTTP/1.1 400 ") and "colon" in reason(json.loads(said.partition(b"\r\n\r\n")[2])), said


def requests_come_in_any_pieces():
    """Requests may come in any pieces, and in other unambiguous forms."""
    close = b"Connection: close\r\n"
    requests = (GET + b"\r\n", b"\r\n" + GET + b"\r\n", SHOW + b"content-length:" + LENGTH + b" \t\r\n\r\n" + BODY,
                SHOW + b"TRANSFER-ENCODING:\tChunked\r\n\r\n" + chunked(BODY[:7], BODY[7:]),
                SHOW + b"Transfer-Encoding: chunked\r\n\r\n%X;a=\"b c\";d\r\n%s\r\n000\r\nTrailer: x\r\nOther: y\r\n\r\n" % (len(BODY), BODY),
                b"GET /api/version?a=%20b HTTP/1.1\r\nHost:localhost\r\nX-Odd: \xff\xfe\tz\r\nX-Empty:\r\n\r\n")
    whole = b"".join(requests) + GET + close + b"\r\n"
    expected = [200] * (len(requests) + 1)
    assert statuses(talk(whole)) == expected, talk(whole)
    assert statuses(talk(*[whole[i:i + 1] for i in range(len(whole))], wait=0)) == expected
    chance = random.Random(1)
    for _ in range(20):
        cuts = sorted(chance.sample(range(1, len(whole)), chance.randrange(1, 12)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)])]
        assert statuses(talk(*pieces, wait=0.002)) == expected, cuts


def many_connections_at_once():
    """Each connection has its own requests, some of them incomplete. None gets another's answer."""
    wrong = []

    def client(number):
        chance = random.Random(number)
        for turn in range(15):
            names = [f"none-{number}-{turn}-{i}" for i in range(chance.randrange(1, 6))]
            asked = b""
            for i, name in enumerate(names):
                body = json.dumps({"model": name}).encode()
                asked += SHOW + (b"Connection: close\r\n" if i + 1 == len(names) else b"")
                asked += (b"Content-Length: %d\r\n\r\n%s" % (len(body), body) if chance.random() < 0.5 else
                          b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body[:5], body[5:]))
            if chance.random() < 0.2:
                with socket.create_connection(("127.0.0.1", SERVER.port)) as connection:
                    connection.sendall(asked[:chance.randrange(len(asked))])
                continue
            said = talk(asked)
            if statuses(said) != [404] * len(names) or not all(name.encode() in said for name in names):
                wrong.append((names, said))
    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


def a_large_answer_waits_for_a_slow_client():
    expected = SERVER.request("GET", "/ui")[2]
    count = 400
    with socket.create_connection(("127.0.0.1", SERVER.port), timeout=60 * PATIENCE) as connection:
        ask = threading.Thread(target=connection.sendall, args=(b"GET /ui HTTP/1.1\r\nHost: localhost\r\n\r\n" * (count - 1) +
                                                                b"GET /ui HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",))
        ask.start()
        time.sleep(1)
        assert SERVER.request("GET", "/")[0] == 200
        said = bytearray()
        while piece := connection.recv(1 << 20):
            said += piece
        ask.join()
    assert bytes(said).count(expected) == count, len(said)


def connections_beyond_the_limit_wait():
    server = Server("--connections", 4)
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=20 * PATIENCE) for _ in range(4)]
    for connection in held:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as waiting:
        waiting.sendall(GET + b"\r\n")
        try:
            assert not waiting.recv(10), "answered"
        except TimeoutError:
            pass
        held.pop().close()
        waiting.settimeout(20)
        assert waiting.recv(65536).startswith(b"HTTP/1.1 200")
    for connection in held:
        connection.close()
    assert server.stop() == 0


if __name__ == "__main__":
    SERVER = Server("--context", 512)
    failed = run_tests(tests_of(globals(), [talk, statuses, chunked, is_refused]))
    failed += SERVER.stop() != 0
    WORK.cleanup()
    sys.exit(1 if failed else 0)
