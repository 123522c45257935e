"""What `dedn` says when it is stopped, or given what it does not understand."""

import os
import subprocess
import sys

import pytest

from dedn_hf import __version__
from dedn_hf.cli import main
from dedn_hf.cli import parser as module


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("classify", "birds", "photos", "--out", "answers.csv"), "The same command goes on where it was."),
        (("train", "photos", "--traits", "birds.csv", "--out", "birds"), "The same command goes on where it was."),
        (("reproduce", "run.json"), ""),  # it keeps nothing
        (("evaluate", "birds", "photos"), ""),
    ],
)
def test_a_stopped_command_promises_to_go_on_only_if_it_does(command, said, monkeypatch, capsys):
    build = module.build_parser

    def stopping():
        parser = build()
        for each in parser._subparsers._group_actions[0].choices.values():

            def stopped(**_given):
                raise KeyboardInterrupt

            stopped.__name__ = each.get_default("run").__name__
            each.set_defaults(run=stopped)
        return parser

    monkeypatch.setattr(module, "build_parser", stopping)
    assert main(command) == 130
    assert capsys.readouterr().err.strip() == f"dedn: stopped. {said}".strip()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("train", "photos", "--out", "birds", "--efort", "best"),
            "'--efort' is not understood. Did you mean --effort?",
        ),
        (("env", "birds"), "'birds' is not understood."),
        (("classify",), "the following arguments are required: MODEL, PHOTOS, --out"),
        (("train", "photos", "--out", "birds", "--effort", "most"), "argument --effort: invalid choice: 'most'"),
    ],
)
def test_what_is_not_understood_is_said_in_two_lines(command, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(command)
    first, second = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert first.startswith(f"dedn {command[0]}: {said}") and second.startswith(f"dedn {command[0]} --help")


def test_without_a_command_the_way_is_shown(capsys):
    assert main([]) == 2
    assert "dedn classify birds new-photos --out answers.csv" in capsys.readouterr().err


def test_the_version_can_be_asked_for(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"dedn_hf {__version__}\n")


def test_a_reader_that_has_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "dedn_hf", "env"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.stderr == b""
