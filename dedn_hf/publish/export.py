"""Models for other runtimes: `export_onnx`, `quantize_onnx` (int8) and `export_program` (torch.export).

What is exported takes a batch of any size and gives `logits` (B x K) and `attribute_scores` (B x A), as the model does
in evaluation. Whatever does not depend on the image, such as the experts' queries, is computed once and stored. An
export is compared with the model before its file is kept; a failed one leaves nothing behind.

To classify without Python, with any ONNX runtime, read the file's metadata (JSON texts):

1. `preprocessing`: resize the RGB image so that its shorter side has `shortest_edge` pixels (filter `interpolation`),
   or to `height` x `width`, whatever its ratio, if these are there instead. Cut `crop_size` x `crop_size` out of its
   centre, divide by 255, subtract `mean` and divide by `std` (per channel).
2. Give it as `pixel_values`, float32, B x 3 x crop_size x crop_size. A model without backbone takes `features`.
3. The largest logit of an image is at the index of its class in `class_names`; `attribute_scores` are in the order of
   `attribute_names`. With classes as an input there are no `class_names`: give `class_attributes` (K x A, float32,
   values as in the model's table) and `seen` (K, bool: trained on) for any K classes, and logits are in their order.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from dedn_hf import __version__
from dedn_hf.modeling.experts import Expert, Experts
from dedn_hf.modeling.saving import require_writable, temporary_folder, whole_file
from dedn_hf.publish.extras import require_extra

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

Run = Callable[[dict[str, torch.Tensor]], Sequence[np.ndarray]]
OUTPUTS = ("logits", "attribute_scores")
TOLERANCE, FINITE = 1e-4, sys.float_info.max
CLASSES = ("baked", "input")
SUFFIXES = {"onnx": ".onnx", "onnx-int8": ".int8.onnx", "torch": ".pt2"}
LARGEST_FILE = 2**31  # bytes of a protobuf message, which an ONNX file is


class Difference(NamedTuple):
    """How far the outputs of an exported model are from those that it should give, over random inputs.

    Args:
        largest: largest difference, relative to the largest value of the same output.
        agreement: share of the inputs with the same best class, 0..1.
        inputs: how many there were.
    """

    largest: float
    agreement: float
    inputs: int


def export_model(
    model: DEDNForZeroShot,
    path: str | Path,
    format: str = "onnx",
    *,
    classes: str = "baked",
    opset: int | None = None,
) -> Difference:
    """Export to one of the formats 'onnx', 'onnx-int8' and 'torch'.

    Args and errors as `export_onnx`; also ValueError for an unknown format, or an opset with 'torch'.
    """
    if format not in SUFFIXES:
        raise ValueError(f"Unknown format {format!r}; use one of {', '.join(SUFFIXES)}.")
    if format == "torch":
        if opset is not None:
            raise ValueError("An opset belongs to ONNX; leave it out with the format 'torch'.")
        return export_program(model, path, classes=classes)
    if format == "onnx":
        return export_onnx(model, path, classes=classes, opset=opset)
    with temporary_folder("dedn-export-") as folder:
        export_onnx(model, folder / "model.onnx", classes=classes, opset=opset)
        return quantize_onnx(folder / "model.onnx", path)


def export_onnx(
    model: DEDNForZeroShot, path: str | Path, *, classes: str = "baked", opset: int | None = None
) -> Difference:
    """Write a model as one ONNX file, float32, that takes any number of images; the module says how to use it.

    Args:
        model: stays as it is; of lower precision, it is exported in float32.
        path: the file to write, or to replace.
        classes: 'baked', the model's own classes; 'input', any number of classes are given with every batch.
        opset: version of the ONNX operators; default, what torch recommends.

    Returns:
        How it differs from the model, by 1e-4 at most.

    Raises:
        ValueError: onnx, onnxscript or onnxruntime is missing, the model cannot be exported or is larger than 2 GB,
            the exported one gives other numbers, or nothing can be written there. OSError: the disk is full.
    """
    require_writable(path)
    require_extra("export")
    shapes = input_shapes(model, classes)
    reference = copy.deepcopy(model).float().cpu().eval()
    if sum(tensor.nbytes for tensor in reference.state_dict().values()) > LARGEST_FILE:
        raise ValueError(
            "The model is larger than 2 GB, which one ONNX file cannot hold. Use the format 'torch' (--format torch)."
        )
    with whole_file(path) as unfinished:
        program = to_onnx(traced(Classifier(reference, classes), shapes), shapes, opset)
        program.model.metadata_props.update(metadata(reference, classes))
        program.save(unfinished)
        return difference(run_file(open_session(unfinished)), run_model(reference), shapes)


def quantize_onnx(path: str | Path, out: str | Path) -> Difference:
    """Write an ONNX file of `export_onnx` with the backbone's weights as 8-bit integers.

    onnxruntime's dynamic quantisation: convolutions and matrix products with constant weights. Each batch gives their
    inputs a scale, so that the scores of an image depend a little on the others in its batch. What has few weights
    stays in float32 (`kept_exact`). It makes the file smaller, but seldom a convolutional network faster, for which
    onnxruntime has better kernels in float32; benchmarks/README.md has sizes, times and accuracies.

    Args:
        path: the float32 file. out: the file to write, or to replace.

    Returns:
        How it differs from the float32 file. The inputs are noise: measure accuracy on images (benchmarks/).

    Raises:
        ValueError: packages are missing, the file was not written by `export_onnx` or has no backbone, the outputs
            are not finite, or nothing can be written there. OSError: the file cannot be read, or the disk is full.
    """
    require_writable(out)
    require_extra("export")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}. dedn export MODEL --format onnx writes one.")
    session = open_session(path)
    shapes = {value.name: tuple(value.shape) for value in session.get_inputs()}
    if [value.name for value in session.get_outputs()] != list(OUTPUTS):
        raise ValueError(f"{path} was not written by export_onnx: its outputs are not {' and '.join(OUTPUTS)}.")
    if "features" in shapes:
        raise ValueError("A model without backbone has no weights worth quantising: export it with the format 'onnx'.")
    with whole_file(out) as unfinished, quiet():
        # Unsigned weights: with signed ones, processors without VNNI instructions saturate at 16 bits.
        quantize_dynamic(
            path,
            unfinished,
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=kept_exact(onnx.load(path).graph),
        )
        quantized, exact = run_file(open_session(unfinished)), run_file(session)
        return difference(quantized, exact, shapes, batches=(1, 3, 12), tolerance=FINITE)


def export_program(model: DEDNForZeroShot, path: str | Path, *, classes: str = "baked") -> Difference:
    """Write a model as a program of torch.export (.pt2), float32, that takes any number of images.

    `torch.export.load(path).module()(pixel_values=...)` gives a dictionary of the outputs. What an ONNX file has as
    metadata is in the file `metadata.json` inside (`torch.export.load(path, extra_files={"metadata.json": ""})`).

    Args, result and errors as `export_onnx`, without its packages and its limit of size.
    """
    require_writable(path)
    shapes = input_shapes(model, classes)
    reference = copy.deepcopy(model).float().cpu().eval()
    described = {key: json.loads(text) for key, text in metadata(reference, classes).items()}
    with whole_file(path) as unfinished:
        program = traced(Classifier(reference, classes), shapes)
        with open(unfinished, "wb") as file:  # torch does not take a path that has no suffix
            torch.export.save(program, file, extra_files={"metadata.json": json.dumps(described)})
        loaded = torch.export.load(unfinished).module()
        return difference(lambda inputs: arrays(loaded(**inputs)), run_model(reference), shapes)


def default_path(model: str, format: str) -> Path:
    """Where to write a saved model: into its folder, or, for one from the Hub, into the current one."""
    return (Path(model) if Path(model).is_dir() else Path()) / f"model{SUFFIXES[format]}"


# What is exported ----------------------------------------------------------------------------------------------------


class FixedExpert(nn.Module):
    """An expert whose queries have been computed: all that is left of its embeddings and matrices."""

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.attentions = []
        for name, (keys, values) in expert().items():
            self.attentions.append(name)
            self.register_buffer(f"{name}_keys", keys)
            self.register_buffer(f"{name}_values", values)

    def forward(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """As `Expert`."""
        return {name: (getattr(self, f"{name}_keys"), getattr(self, f"{name}_values")) for name in self.attentions}


class Classifier(nn.Module):
    """Images, and classes where these are an input, to logits and attribute scores.

    Args:
        model: in evaluation mode; stays as it is. classes: 'baked' or 'input'.
    """

    @torch.no_grad()
    def __init__(self, model: DEDNForZeroShot, classes: str) -> None:
        super().__init__()
        self.model = copy.deepcopy(model, {id(model.backbone): model.backbone})  # the backbone is shared, not copied
        self.model.experts = Experts({name: FixedExpert(expert) for name, expert in model.experts.items()})
        if classes == "baked":
            self.register_buffer("normalized", model.normalized_class_attributes().clone())
            self.register_buffer("bias", model.class_bias(model.seen))

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        class_attributes: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Arguments as of the model; class_attributes (K x A) and seen (K bool) only where classes are an input."""
        scores = self.model.score_attributes(pixel_values, features)
        if class_attributes is None:
            normalized, bias = self.normalized, self.bias
        else:
            normalized = self.model.normalized_class_attributes(class_attributes)
            bias = self.model.class_bias(seen)
        return {"logits": scores @ normalized.T + bias, "attribute_scores": scores}


def input_shapes(model: DEDNForZeroShot, classes: str) -> dict[str, tuple[int | str, ...]]:
    """Shape of each input, with names in place of the sizes that may vary. Raises ValueError."""
    if classes not in CLASSES:
        raise ValueError(f"classes is {classes!r}; use one of {', '.join(CLASSES)}.")
    config = model.config
    shapes: dict[str, tuple[int | str, ...]] = {"features": ("batch", *[2] * config.flip_test, *config.feature_shape)}
    if model.backbone is not None:
        shapes = {"pixel_values": ("batch", 3, config.image_size, config.image_size)}
    if classes == "input":
        shapes |= {"class_attributes": ("classes", config.num_attributes), "seen": ("classes",)}
    return shapes


def metadata(model: DEDNForZeroShot, classes: str) -> dict[str, str]:
    """What a user of the file must know, as JSON texts by name."""
    config = model.config
    described: dict[str, object] = {"dedn_hf": __version__, "attribute_names": config.attribute_names}
    if classes == "baked":
        described["class_names"] = [config.id2label[label] for label in range(config.num_labels)]
        described["seen"] = model.seen.tolist()
    if model.backbone is not None:
        side = config.resized_side
        described["preprocessing"] = {
            **({"height": side, "width": side} if config.crop_mode == "squash" else {"shortest_edge": side}),
            "crop_size": config.image_size,
            "interpolation": config.interpolation,
            "mean": list(config.image_mean),
            "std": list(config.image_std),
        }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in described.items()}


@torch.no_grad()
def traced(classifier: Classifier, shapes: dict[str, tuple]) -> torch.export.ExportedProgram:
    """The classifier as a graph, for any batch size. Raises ValueError where torch cannot make one."""
    sizes = {name: torch.export.Dim(name) for axes in varying(shapes).values() for name in axes.values()}
    dynamic = {name: {axis: sizes[size] for axis, size in axes.items()} for name, axes in varying(shapes).items()}
    with explained("torch.export"), without_stack_traces():
        inputs = random_inputs(shapes, batch=2)
        program = torch.export.export(classifier.eval(), (), inputs, dynamic_shapes=dynamic)
    for graph in filter(lambda module: isinstance(module, torch.fx.GraphModule), program.graph_module.modules()):
        for node in graph.graph.nodes:
            node.meta.pop("stack_trace", None)  # of torch releases that note it all the same
    return program


def to_onnx(
    program: torch.export.ExportedProgram, shapes: dict[str, tuple], opset: int | None
) -> torch.onnx.ONNXProgram:
    """The same program of ONNX operators. Raises ValueError where torch cannot make one, or not of this opset."""
    with explained("torch.onnx"), without_stack_traces(), quiet():
        converted = torch.onnx.export(
            program,
            input_names=list(shapes),
            output_names=OUTPUTS,
            dynamic_shapes=varying(shapes),
            opset_version=opset,
            verbose=False,
        )
    for graph in (converted.model.graph, *converted.model.functions.values()):
        for node in graph:
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    made = converted.model.opset_imports[""]
    if opset not in (None, made):
        raise ValueError(f"torch cannot write this model with opset {opset}. Use opset {made}, or leave it out.")
    return converted


def varying(shapes: dict[str, tuple]) -> dict[str, dict[int, str]]:
    """Axes that have a name in place of a size, of each input."""
    return {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in shapes.items()
    }


@contextmanager
def explained(exporter: str) -> Iterator[None]:
    """Turn what an exporter raises into ValueError: which backbones it can translate is known only by trying."""
    try:
        yield
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ValueError(f"{exporter} cannot export this model. {type(error).__name__}: {first}") from error


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """Let torch not note where each node was made.

    It would tell every user of the file the paths of this machine, and takes up to a third of the time.
    """
    before = getattr(torch.fx.config, "do_not_emit_stack_traces", False)  # older releases have no such setting
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


def kept_exact(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that stay in float32, because they have few weights and rounding them costs much.

    The first convolution, convolutions in groups (their weights get one scale for all channels), and the product of
    attribute scores and class attributes.
    """
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    groups = [node for node in convolutions if any(each.name == "group" and each.i > 1 for each in node.attribute)]
    makers = {name: node for node in graph.node for name in node.output}
    product = makers["logits"]
    while product.op_type not in ("MatMul", "Gemm"):
        product = makers[next(name for name in product.input if name in makers)]
    return [node.name for node in (*convolutions[:1], *groups, product)]


# The comparison: torch's own verification logs a difference but keeps the file, and knows one format only ------------


def difference(
    run: Run, expected: Run, shapes: dict[str, tuple], batches: Sequence[int] = (1, 3), tolerance: float = TOLERANCE
) -> Difference:
    """How far `run` is from `expected`, on batches of random inputs of several sizes.

    Raises ValueError for a difference above the tolerance, or another shape.
    """
    largest, same = 0.0, []
    for batch in batches:
        inputs = random_inputs(shapes, batch)
        outputs, wanted = run(inputs), expected(inputs)
        for name, output, want in zip(OUTPUTS, outputs, wanted, strict=True):
            if output.shape != want.shape:
                raise ValueError(f"The exported {name} have shape {output.shape} in place of {want.shape}.")
            distance = float(np.abs(output - want).max() / np.abs(want).max())
            largest = max(largest, distance) if np.isfinite(distance) else np.inf
        same += (outputs[0].argmax(axis=1) == wanted[0].argmax(axis=1)).tolist()
    if not largest <= tolerance:
        raise ValueError(
            f"The exported model differs from what it should give by {largest:.1e} (relative), more than "
            f"{tolerance:.0e}. Nothing was written."
        )
    return Difference(largest, sum(same) / len(same), len(same))


def random_inputs(shapes: dict[str, tuple], batch: int) -> dict[str, torch.Tensor]:
    """Inputs of these shapes: normally distributed, classes seen or not by chance; the same for the same batch."""
    sizes = {"batch": batch, "classes": batch + 4}
    generator = torch.Generator().manual_seed(batch)
    inputs = {
        name: torch.randn([sizes.get(size, size) for size in shape], generator=generator)
        for name, shape in shapes.items()
    }
    return {name: values > 0 if name == "seen" else values for name, values in inputs.items()}


def run_model(model: DEDNForZeroShot) -> Run:
    """What the model itself gives. Classes that are an input become its own."""

    @torch.no_grad()
    def run(inputs: dict[str, torch.Tensor]) -> list[np.ndarray]:
        images = dict(inputs)
        if "seen" in images:
            model.class_attributes, model.seen = images.pop("class_attributes"), images.pop("seen")
        return arrays(model(**images))

    return run


def run_file(session: onnxruntime.InferenceSession) -> Run:
    """What an ONNX file gives."""
    return lambda inputs: session.run(list(OUTPUTS), {name: values.numpy() for name, values in inputs.items()})


def arrays(outputs) -> list[np.ndarray]:
    """The outputs of a model or program, in the order of an ONNX file."""
    return [outputs[name].detach().numpy() for name in OUTPUTS]


def open_session(path: str | Path) -> onnxruntime.InferenceSession:
    """An ONNX file, ready to run on as many threads of the CPU as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def quiet() -> Iterator[None]:
    """No log messages below errors: the exporters have many, on what they do inside."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
