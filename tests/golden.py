"""Golden files: inputs, parameters and outputs of the published implementation on seeded random data."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from dedn_hf import DEDNConfig, DEDNForZeroShot


def load(path: str | Path) -> tuple[DEDNForZeroShot, dict[str, torch.Tensor], dict]:
    """Build a model with the parameters in `X.safetensors` and `X.json`; `path` is either of them, or `X`.

    Returns:
        The model (no backbone, float32, training mode), all tensors of the file, and the settings and losses.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    tensors = load_file(stem.with_name(stem.name + ".safetensors"))
    meta = json.loads(stem.with_name(stem.name + ".json").read_text())
    model = DEDNForZeroShot(_config(tensors, meta))
    model.load_state_dict(_state_dict(model, tensors))
    return model.train(), tensors, meta


def _config(tensors: dict[str, torch.Tensor], meta: dict) -> DEDNConfig:
    num_classes, num_attributes = tensors["class_attributes"].shape
    down = tensors.get("coarse.region_value.down")
    return DEDNConfig(
        feature_shape=list(tensors["features"].shape[1:]),
        attribute_names=[f"attribute {i}" for i in range(num_attributes)],
        attribute_groups=[f"group {g}" for g in tensors["attribute_group"].tolist()],
        id2label={i: f"class {i}" for i in range(num_classes)},
        embedding_size=tensors["word_vectors"].shape[1],
        query_rank=None if down is None else down.shape[1],
        region_weight=meta["eval_region_weight"],
        calibration_weight=meta["calibration_weight"],
        distillation_weight=meta["distillation_weight"],
        alignment_weight=meta["alignment_weight"],
        margin=meta["margin"] + 1,  # the published code gives delta minus the seen bias of 1
    )


def _state_dict(model: DEDNForZeroShot, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    num_classes = len(tensors["class_attributes"])
    state["class_attributes"] = tensors["class_attributes"].float()
    state["seen"] = torch.zeros(num_classes, dtype=torch.bool).index_fill_(0, tensors["seen_classes"], True)
    group = tensors["attribute_group"]
    # The fine expert's matrices are stacked by group, in the order in which groups first appear.
    for key in [key for key in tensors if key.startswith("coarse.")]:
        name = key.removeprefix("coarse.")
        ids = list(dict.fromkeys(group.tolist()))
        fine = [tensors[f"fine.{g}.{name}"] for g in ids]
        if name == "attribute_embeddings":
            state[f"experts.coarse.{name}"] = tensors[key]
            for g, embeddings in zip(ids, fine, strict=True):
                state[f"experts.fine.{name}"][group == g] = embeddings
        else:
            state[f"experts.coarse.{name.replace('.', '_')}"] = tensors[key][None]
            state[f"experts.fine.{name.replace('.', '_')}"] = torch.stack(fine)
    return state
