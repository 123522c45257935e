"""What `dedn` says when it is stopped."""

import pytest

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
