"""Exit codes of the command as a whole."""

import subprocess
import sys

import pytest

# A command that swallows Ctrl-C, as an import in progress may, and fails later for that reason.
CLUMSY = """
import signal
from elbod.cli.main import app, main

@app.command()
def clumsy():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
    {end}

main()
"""

# Python drops what a finalizer raises.
DEAF = """
import signal, threading
from elbod.cli.main import app, main

class Thing:
    def __del__(self):
        {event}

@app.command()
def deaf():
    Thing()
    threading.Event().wait({seconds})

main()
"""


def clumsy(end: str, ignored: bool = False) -> subprocess.CompletedProcess[str]:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if ignored else ""
    command = [sys.executable, "-c", code + CLUMSY.format(end=end), "clumsy"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "end",
    [
        "raise RecursionError('half-imported')",
        "from elbod.errors import StartupError; raise StartupError('half-imported')",
        "raise SystemExit(1)",
        "raise KeyboardInterrupt",
    ],
)
def test_a_failure_after_ctrl_c_is_130_and_quiet(end):
    done = clumsy(end)

    assert done.returncode == 130
    assert done.stderr == ""


def test_success_after_ctrl_c_is_success():
    assert clumsy("pass").returncode == 0


def deaf(event: str, seconds: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DEAF.format(event=event, seconds=seconds), "deaf"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_ctrl_c_in_a_finalizer_is_not_lost():
    done = deaf("signal.raise_signal(signal.SIGINT)", 20)

    assert done.returncode == 130
    assert done.stderr == ""


def test_a_failure_in_a_finalizer_keeps_its_traceback():
    done = deaf("raise KeyError('a bug')", 0)

    assert done.returncode == 0
    assert "KeyError: 'a bug'" in done.stderr


def test_an_ignored_ctrl_c_stays_ignored_and_hides_no_bug():
    done = clumsy("raise RecursionError('a bug')", ignored=True)

    assert done.returncode == 1
    assert "a bug" in done.stderr


def test_a_failure_without_ctrl_c_keeps_its_traceback():
    code = "from elbod.cli.main import app, main\n@app.command()\ndef broken(): raise KeyError('a bug')\nmain()"

    done = subprocess.run([sys.executable, "-c", code, "broken"], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "KeyError: 'a bug'" in done.stderr
