"""dedn push and dedn push-data: a saved model, a prepared data set, to the Hub."""

from __future__ import annotations

import argparse


def add_push(commands: argparse._SubParsersAction) -> None:
    """dedn push: a saved model to the Hub."""
    parser = commands.add_parser(
        "push",
        help="publish a saved model on the Hugging Face Hub",
        description="Publishes card, weights, code and results in one commit, after checking that a copy of them "
        "loads. Checkpoints and other files in the folder are left out. If a file holds a token, nothing is sent. "
        "Log in first: `hf auth login`, or HF_TOKEN. After a broken connection, give the same command again.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what a training run or save_pretrained wrote")
    add_destination(parser)
    parser.set_defaults(run=run_push)


def add_push_data(commands: argparse._SubParsersAction) -> None:
    """dedn push-data: a prepared data set to the Hub."""
    parser = commands.add_parser(
        "push-data",
        help="publish a prepared data set on the Hugging Face Hub",
        description='Publishes a folder that `dedn prepare` wrote, for datasets.load_dataset("user/name"), in the '
        "same way as `dedn push`.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what `dedn prepare` wrote")
    add_destination(parser)
    parser.set_defaults(run=run_push_data)


def add_destination(parser: argparse.ArgumentParser) -> None:
    """The arguments that both ways to publish have in common."""
    parser.add_argument("repo_id", metavar="user/name", help="repository on the Hub; made if it is not there")
    parser.add_argument("--public", action="store_true", help="for everyone to see (default: for its owners only)")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to publish on (default: main)")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")


def run_push(folder: str, repo_id: str, public: bool, **given: str) -> None:
    """Publish a model and say what happened. Raises as `dedn_hf.publish.hub.push_model`."""
    from dedn_hf.publish.hub import push_model

    print(push_model(folder, repo_id, private=not public, **given).summary())


def run_push_data(folder: str, repo_id: str, public: bool, **given: str) -> None:
    """Publish a data set and say what happened. Raises as `dedn_hf.publish.hub.push_data`."""
    from dedn_hf.publish.hub import push_data

    print(push_data(folder, repo_id, private=not public, **given).summary())
