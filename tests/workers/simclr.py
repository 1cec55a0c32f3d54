"""Client of commands.py: runs `simclr` in a fork, with the same streams, folder, environment, signals and exit code.

$SIMCLR_TEST_SCRIPT, if set, is a Python file that runs instead.

python -S simclr.py SOCKET ARGUMENTS: takes a twentieth of a second, while the command imports torch for seconds.
"""

import json
import os
import signal
import socket
import sys

NUMBERS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}

signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)  # until they can be forwarded
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
socket.send_fds(connection, [b"x"], [0, 1, 2])
job = {
    "arguments": sys.argv[2:],
    "cwd": os.getcwd(),  # noqa: PTH109
    "env": dict(os.environ),
    "script": os.environ.get("SIMCLR_TEST_SCRIPT"),
}
connection.sendall(json.dumps(job).encode() + b"\n")
answers = connection.makefile()
pid = json.loads(answers.readline())["pid"]
for number in NUMBERS:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
code = json.loads(answers.readline())["code"]
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
