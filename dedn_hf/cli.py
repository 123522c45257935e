"""The `dedn` command. Each subcommand is one function that declares its arguments and one that does the work.

To add a subcommand, write the pair and name the first in `COMMANDS`. Import what is heavy inside the second, so that
`dedn --help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_prepare(commands: Subcommands) -> None:
    """dedn prepare: any data set as a Parquet folder."""
    parser = commands.add_parser(
        "prepare",
        help="write a data set as Parquet files that plain datasets.load_dataset opens",
        description="Writes images (original bytes), labels and class attributes to one folder. It holds the test "
        "splits (configuration 'default') and the validation splits (configuration 'validation').",
    )
    parser.add_argument("name", metavar="NAME", help="cub, sun, awa2, folder or shapes")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--data-dir", help="folder of the images: the unpacked archive, or its parent")
    parser.add_argument("--csv", help="folder: class attributes (default: attributes.csv in the data folder)")
    parser.add_argument("--groups", help="folder: CSV file of attribute,group")
    parser.add_argument("--test-fraction", type=float, help="folder: share of a seen class to test on (default 0.2)")
    parser.add_argument("--image-size", type=int, help="shapes: pixels (default 64)")
    parser.add_argument("--images-per-class", type=int, help="shapes: pictures of each class (default 50)")
    parser.add_argument("--seed", type=int, help="shapes: another seed, other pictures (default 0)")
    parser.add_argument("--strict", action="store_true", help="stop at an image that does not decode")
    parser.add_argument("--overwrite", action="store_true", help="replace --out, whatever it holds")
    parser.set_defaults(run=run_prepare)


def run_prepare(
    name: str,
    strict: bool,
    overwrite: bool,
    out: str,
    **given: Any,
) -> None:
    """Prepare a data set and say where it is. Raises as `dedn_hf.data.prepare`."""
    from dedn_hf.data.preparing import prepare

    require_arguments_of(name, given)
    folder = prepare(name, out, strict=strict, overwrite=overwrite, **given)
    print(f"Wrote {folder}\nOpen it with datasets.load_dataset({str(folder)!r}) or dedn_hf.data.load({str(folder)!r})")


def require_arguments_of(name: str, given: dict[str, Any]) -> None:
    """Raise ValueError where an argument is given that data set `name` does not take, or lacks one it needs."""
    import inspect

    from dedn_hf.data.loading import builder_class

    known = inspect.signature(builder_class(name).__init__).parameters
    for argument in given:
        if argument not in known:
            raise ValueError(f"{name} takes no --{argument.replace('_', '-')}. Leave it out.")
    if "data_dir" in known and "data_dir" not in given:
        raise ValueError(f"{name} needs --data-dir, the folder of its images.")


def add_push(commands: Subcommands) -> None:
    """dedn push: a saved model to the Hub."""
    parser = commands.add_parser(
        "push",
        help="publish a saved model on the Hugging Face Hub",
        description="Publishes card, weights, code and results in one commit, after they have loaded again from a "
        "copy. Checkpoints and whatever else is in the folder stay here; a file that holds a token stops it all. "
        "Log in first: `hf auth login`, or HF_TOKEN. After a broken connection give the same command again.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what a training run or save_pretrained wrote")
    add_destination(parser)
    parser.set_defaults(run=run_push)


def add_push_data(commands: Subcommands) -> None:
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
    """Publish a model and say what happened. Raises as `dedn_hf.hub.push_model`."""
    from dedn_hf.hub import push_model

    print(push_model(folder, repo_id, private=not public, **given).summary())


def run_push_data(folder: str, repo_id: str, public: bool, **given: str) -> None:
    """Publish a data set and say what happened. Raises as `dedn_hf.hub.push_data`."""
    from dedn_hf.hub import push_data

    print(push_data(folder, repo_id, private=not public, **given).summary())


def add_serve(commands: Subcommands) -> None:
    """dedn serve: a model behind a web server."""
    parser = commands.add_parser(
        "serve",
        help="answer requests with a saved model, as an Inference Endpoint does",
        description='Answers POST / of {"inputs": base64 image, "parameters": {"candidate_labels": [...]}} and GET '
        "/health. Code that lies beside the weights is not run.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or its Hub id")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, help="(default 8080)")
    parser.add_argument("--allow-urls", action="store_true", help="also fetch images from public http(s) addresses")
    parser.add_argument("--max-bytes", type=int, help="size limit of a request (default 10485760)")
    parser.add_argument("--max-pixels", type=int, help="size limit of an image (default 40000000)")
    parser.add_argument("--timeout", type=float, help="seconds until a request is given up (default 30)")
    parser.add_argument("--queue", type=int, help="requests that may wait or be in work at once (default 32)")
    parser.set_defaults(run=run_serve)


def run_serve(model: str, allow_urls: bool, **given: Any) -> None:
    """Serve until interrupted. Raises as `dedn_hf.serving.serve`."""
    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise ValueError("This command needs starlette and uvicorn: pip install 'dedn-hf[serve]'")
    from dedn_hf.serving import serve

    serve(model, allow_urls=allow_urls, **given)


def add_explain(commands: Subcommands) -> None:
    """dedn explain: why a model answers as it does."""
    parser = commands.add_parser(
        "explain",
        help="say why a saved model takes an image for this class and not for another",
        description="Takes the difference of two classes' logits apart by attribute, group and expert, and shows "
        "where both experts looked. Code that lies beside the weights is not run.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or its Hub id")
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="class to explain (default: the best one)")
    parser.add_argument("--against", metavar="NAME", help="class to compare it with (default: the best of the others)")
    parser.add_argument(
        "--attribute", dest="attributes", action="append", metavar="NAME", help="show heat maps of it; may be repeated"
    )
    parser.add_argument(
        "--set",
        dest="corrections",
        action="append",
        metavar="NAME=VALUE",
        help="correct an attribute, in the scale of the model's table, and see the ranking change; may be repeated",
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="how many classes to report (default 5)")
    parser.add_argument("--out", metavar="FILE", help=".html, .png, .svg or .json (default: a short text)")
    parser.set_defaults(run=run_explain)


def run_explain(model: str, image: str, corrections: Sequence[str] = (), out: str | None = None, **given: Any) -> None:
    """Explain and print or write it. Raises as `dedn_hf.explain.explain`."""
    from dedn_hf.explain import explain
    from dedn_hf.explanation import require_writable
    from dedn_hf.saved import load_model

    if out is not None:
        require_writable(out)  # before the work
    values = dict(map(attribute_and_value, corrections))
    if len(values) < len(corrections):
        raise ValueError("--set corrects an attribute twice; give one value for each.")
    explanation = explain(load_model(model), image, corrections=values, **given)
    if out is None:
        print(explanation.to_text())
    else:
        explanation.save(out)
        print(f"Wrote {out}")


def attribute_and_value(text: str) -> tuple[str, float]:
    """'name=80' in two; the name may hold '='. Raises ValueError otherwise."""
    name, _, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        name = ""
    if not name:
        raise ValueError(f"--set {text!r} is not NAME=VALUE with a number; e.g. --set 'bill shape: hooked=80'")
    return name, number


def add_export(commands: Subcommands) -> None:
    """dedn export: a model for other runtimes."""
    parser = commands.add_parser(
        "export",
        help="write a saved model as an ONNX file or a torch.export program",
        description="The file takes any number of images and gives logits and attribute_scores; class and attribute "
        "names and the preprocessing are in its metadata. It is compared with the model before it gets its name. "
        "Code that lies beside the weights is not run.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or its Hub id")
    parser.add_argument(
        "--format", default="onnx", choices=("onnx", "onnx-int8", "torch"), help="onnx-int8: smaller, less exact"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="(default: model.onnx, .int8.onnx or .pt2 in the model's folder)"
    )
    parser.add_argument(
        "--classes", choices=("baked", "input"), help="the model's own (default), or any, given with every batch"
    )
    parser.add_argument("--opset", type=int, metavar="N", help="version of the ONNX operators")
    parser.set_defaults(run=run_export)


def run_export(model: str, format: str, out: str | None = None, **given: Any) -> None:
    """Export a model and say how exact it is. Raises as `dedn_hf.export.export_model`."""
    from dedn_hf.export import default_path, export_model, require_packages
    from dedn_hf.saved import load_model

    if format != "torch":
        require_packages()  # before the work
    path = out or default_path(model, format)
    found = export_model(load_model(model), path, format, **given)
    compared = "the float32 file" if format == "onnx-int8" else "PyTorch"
    print(
        f"Wrote {path}. On {found.inputs} random inputs it differs from {compared} by {found.largest:.1e} at most "
        f"(relative), and has the same best class for {100 * found.agreement:.0f} %."
    )


def add_reproduce(commands: Subcommands) -> None:
    """dedn reproduce: a recorded run once more."""
    parser = commands.add_parser(
        "reproduce",
        help="run again what a run.json records, and say whether the numbers are the same",
        description="Checks data and backbone against the record, trains again, and compares every number. Exit "
        "status 0: they match (the same bits; or within the tolerance, where versions or machine differ). 1: they do "
        "not, or the data are others and nothing was run. 2: it cannot be run.",
    )
    parser.add_argument("run_file", metavar="RUN.JSON", help="of a finished run, or its folder")
    parser.add_argument("--data-dir", help="folder of the images, or of the prepared data set")
    parser.add_argument("--weights", help="file of backbone weights, where the run began with one")
    parser.add_argument("--features-dir", help="feature cache to use or to make (default: made again, not kept)")
    parser.add_argument("--out", help="folder to keep the second run in (default: not kept)")
    parser.add_argument("--tolerance", type=float, help="largest difference of a score, 0..1 (default 0.02)")
    parser.set_defaults(run=run_reproduce)


def run_reproduce(run_file: str, **given: Any) -> int:
    """Reproduce a run and say what came out; 0 where it matches, else 1. Raises as `dedn_hf.reproduce.reproduce`."""
    from dedn_hf.reproduce import reproduce

    found = reproduce(run_file, **given)
    print(found.summary())
    return 0 if found.matches else 1


COMMANDS: tuple[Callable[[Subcommands], None], ...] = (
    add_prepare,
    add_push,
    add_push_data,
    add_serve,
    add_explain,
    add_export,
    add_reproduce,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `dedn` with every subcommand."""
    parser = argparse.ArgumentParser(prog="dedn", description="Generalized zero-shot learning with DEDN.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dedn` with `arguments` (default: the command line); its exit status, 2 after an error the user can mend."""
    given = {key: value for key, value in vars(build_parser().parse_args(arguments)).items() if value is not None}
    run = given.pop("run")
    try:
        return run(**given) or 0
    except (ValueError, OSError) as error:
        print(f"dedn: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
