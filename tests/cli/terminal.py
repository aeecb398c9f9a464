"""A program in a terminal of its own, as somebody types to it."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

from patience import PATIENCE


class Terminal:
    def __init__(self, command, environment, columns=80):
        self.child, self.file = pty.fork()
        if self.child == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.environ.update({"TERM": "xterm", "LC_ALL": "C.UTF-8", **environment})
            os.execv(command[0], list(map(str, command)))
        self.greeting = self.wait("\n> ")

    def wait(self, until):
        """What is shown until it holds what the expression describes."""
        data, end = b"", time.monotonic() + 60 * PATIENCE
        while not re.search(until, data.decode(errors="replace")):
            assert select.select([self.file], [], [], end - time.monotonic())[0], (until, data)
            try:
                got = os.read(self.file, 4096)
            except OSError:
                got = b""
            assert got, f"ended before {until}: {data}"
            data += got
        return data.decode(errors="replace").replace("\r", "")

    def await_editor(self):
        """The prompt is shown a moment before the line editor listens. Keys that come in between may be lost."""
        end = time.monotonic() + 60 * PATIENCE
        while termios.tcgetattr(self.file)[3] & termios.ICANON:
            assert time.monotonic() < end, "the line editor does not listen"
            time.sleep(0.005)

    def say(self, text, until="\n> "):
        """What is shown after keys at the prompt, up to the next prompt."""
        self.await_editor()
        os.write(self.file, text.encode())
        return self.wait(until)

    def interrupt(self):
        """Ctrl-C during an answer, whose text may hold what looks like a prompt."""
        os.write(self.file, b"\x03")
        self.await_editor()
        return self.wait(r"> \Z")

    def end(self, text):
        """The exit status after keys that end the program."""
        self.await_editor()
        os.write(self.file, text.encode())
        try:
            while select.select([self.file], [], [], 60 * PATIENCE)[0]:
                if not os.read(self.file, 4096):
                    break
            else:
                os.kill(self.child, signal.SIGKILL)
        except OSError:
            pass
        os.close(self.file)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
