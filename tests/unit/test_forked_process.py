"""A process that tests have forked is what it would be if Python had started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.fork_server import Order
from tests.forked_process import ForkedProcess

ENVIRONMENT = {"PATH": os.environ["PATH"], "CAPSULES_PROBE": "set", "PYTHONUNBUFFERED": "1"}
PROBE = """
import atexit, json, os, signal, sys
assert __name__ == "__main__"
atexit.register(print, "at exit", file=sys.stderr)
pid, leads, environment = os.getpid(), os.getsid(0) == os.getpid(), dict(os.environ)
print(json.dumps([pid, sys.argv[1:], sys.stdin.read(), os.getcwd(), environment, leads]))
if sys.argv[1] == "wait":
    signal.pause()
sys.exit(int(sys.argv[1]))
"""


def fork(directory: Path, *arguments: str) -> tuple[ForkedProcess, Path, Path]:
    (directory / "probe.py").write_text(PROBE)
    order = Order("probe", list(arguments), str(directory), ENVIRONMENT, leads_session=True)
    paths = directory / "output", directory / "errors"
    with TemporaryFile("w+") as given, paths[0].open("w") as output, paths[1].open("w") as errors:
        given.write("given")
        given.seek(0)
        process = ForkedProcess(order, (given.fileno(), output.fileno(), errors.fileno()))
    return process, *paths


@pytest.mark.parametrize("code", [0, 3])
def test_a_forked_process_has_what_it_was_ordered_with_and_ends_as_python_does(
    tmp_path: Path, code: int
) -> None:
    process, output, errors = fork(tmp_path, str(code), "more")
    assert process.wait(30) == process.returncode == process.poll() == code
    pid, arguments, given, directory, environment, leads = json.loads(output.read_text())
    assert (pid, arguments, given) == (process.pid, [str(code), "more"], "given")
    assert (directory, environment, leads) == (str(tmp_path), ENVIRONMENT, True)
    assert errors.read_text() == "at exit\n"


def test_a_forked_process_takes_signals_and_says_which_has_ended_it(tmp_path: Path) -> None:
    process, _, _ = fork(tmp_path, "wait")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    process.kill()  # nobody is hit by that


def test_each_forked_process_is_one_of_its_own(tmp_path: Path) -> None:
    directories = [tmp_path / str(n) for n in range(3)]
    for directory in directories:
        directory.mkdir()
    forked = [fork(directory, str(n))[0] for n, directory in enumerate(directories)]
    assert [process.wait(30) for process in forked] == [0, 1, 2]
    assert len({process.pid for process in forked}) == 3
