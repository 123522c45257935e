"""Inference: ours against the published formulation, which computes V P at every call.

python benchmarks/inference.py            results/inference.json
python benchmarks/inference.py --quick    small sizes, nothing written
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import alternate, report
from benchmarks.published import PublishedDEDN
from benchmarks.step import example_table
from dedn_hf import DEDNForZeroShot

MODELS = {"ours": DEDNForZeroShot, "published": PublishedDEDN}


def runner(model: torch.nn.Module, **inputs: torch.Tensor):
    """A function without arguments that classifies `inputs`."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return model(**inputs).logits.argmax(dim=1).cpu()  # waits for the device

    return run


def main() -> None:
    """Measure features and pixels, with one image and with 32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    table, rows = example_table(), []
    shape = [64, 4, 4] if arguments.quick else [2048, 7, 7]
    backbone, size = ("resnet10t", 64) if arguments.quick else ("resnet50", 224)
    for kind, config in (
        ("features", {"backbone": None, "feature_shape": shape}),
        ("pixels", {"backbone": backbone, "image_size": size, "pretrained": False}),
    ):
        models = {name: cls.from_timm(table=table, **config) for name, cls in MODELS.items()}
        models = {name: model.to(arguments.device).eval() for name, model in models.items()}
        for batch in (1, 32):
            images = torch.randn(batch, *([3, size, size] if kind == "pixels" else shape), device=arguments.device)
            name = {"features": "features", "pixels": "pixel_values"}[kind]
            runs = {model_name: runner(model, **{name: images}) for model_name, model in models.items()}
            seconds = alternate(runs, arguments.repeats, warmup=2)
            rows.append(
                {
                    "input": kind,
                    "batch": batch,
                    "published ms": 1000 * seconds["published"],
                    "ours ms": 1000 * seconds["ours"],
                    "times faster": seconds["published"] / seconds["ours"],
                }
            )
    what = f"feature map {' x '.join(map(str, shape))}, {backbone} at {size} pixels, {arguments.device}"
    report("inference", rows, what, not arguments.quick)


if __name__ == "__main__":
    main()
