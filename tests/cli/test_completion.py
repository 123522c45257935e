"""A shell completes the commands and options of `dedn`."""

import os
import subprocess
import sys


def completed(line: str) -> set[str]:
    """What a shell is offered after `line`; argcomplete writes it to file descriptor 8."""
    read, write = os.pipe()
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_IFS": "\n",
    }
    code = f"import os, sys; os.dup2({write}, 8); from dedn_hf.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], env=environment, pass_fds=[write], timeout=60, capture_output=True)
    os.close(write)
    with os.fdopen(read) as file:
        return {word.strip() for word in file.read().split("\n")}


def test_commands_and_options_are_completed():
    assert completed("dedn ev") == {"evaluate"}
    assert {"--effort", "--traits"} <= completed("dedn train photos --")
