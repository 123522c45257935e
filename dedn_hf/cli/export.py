"""dedn export: a model for other runtimes."""

from __future__ import annotations

import argparse
from typing import Any


def add_export(commands: argparse._SubParsersAction) -> None:
    """dedn export: a model for other runtimes."""
    parser = commands.add_parser(
        "export",
        help="write a saved model as an ONNX file or a torch.export program",
        description="The file takes any number of images and gives logits and attribute_scores; class and attribute "
        "names and the preprocessing are in its metadata. It is compared with the model before it is kept. The code "
        "beside the weights is not run.",
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
    """Export a model and say how exact it is. Raises as `dedn_hf.publish.export.export_model`."""
    from dedn_hf.modeling.saving import require_writable
    from dedn_hf.publish.export import default_path, export_model
    from dedn_hf.publish.extras import require_extra
    from dedn_hf.publish.saved import load_model

    path = out or default_path(model, format)
    require_writable(path)  # before the work, as is the next
    if format != "torch":
        require_extra("export")
    found = export_model(load_model(model), path, format, **given)
    compared = "the float32 file" if format == "onnx-int8" else "PyTorch"
    print(
        f"Wrote {path}. On {found.inputs} random inputs it differs from {compared} by {found.largest:.1e} at most "
        f"(relative), and has the same best class for {100 * found.agreement:.0f} %."
    )
