"""The card of a model: what the Hub reads, and a text that says no more than the model itself knows.

How a model was trained and what it scores is not in it, so this card claims neither. A training run of `dedn_hf`
writes a longer card from its own record, with the parts that are public here.
"""

import json
from collections import Counter

from huggingface_hub import ModelCard, ModelCardData

from .attribute_table import AttributeTable
from .configuration_dedn import DEDNConfig

TASK = "zero-shot-image-classification"
TAGS = ["dedn", "zero-shot-learning", "generalized-zero-shot-learning", "attributes", "timm"]
PAPER = "https://arxiv.org/abs/2404.16348"
MODEL_ID, PHOTO = "path/to/model", "photo.jpg"  # stand-ins in the example code
CITATION = """\
@inproceedings{rao2024dedn,
  title     = {Dual Expert Distillation Network for Generalized Zero-Shot Learning},
  author    = {Rao, Zhijie and Guo, Jingcai and Lu, Xiaocheng and Liang, Jingming and Zhang, Jie and Wang, Haozhao
               and Wei, Kang and Cao, Xiaofeng},
  booktitle = {Proceedings of the Thirty-Third International Joint Conference on Artificial Intelligence (IJCAI)},
  year      = {2024},
  url       = {https://arxiv.org/abs/2404.16348},
}"""

_TEXT = """
# {name}

A [Dual Expert Distillation Network]({paper}) (DEDN). It recognises classes by their
attributes: a class of which it has seen no picture needs nothing but a description, one number an attribute.

- Backbone: {backbone}
- Feature map: {feature_map}
- Classes: {classes}
- Attributes: {attributes}
- Experts: {experts}

This card was written when the model was saved, from the model alone. It does not know what the model was trained on
or how accurate it is: whoever publishes the model should say so here.

## Use

{usage}

## Limits

- Every picture is given to one of the candidate classes, also a picture of something else.
- Scores are shares among the candidates. They are no probabilities that were checked against anything.
- A description is only as good as its attributes, and its numbers have to be in the scale of the model's own classes.

## Licence

The code of the model is licensed under Apache-2.0. The licence of the weights depends on what they were trained on,
and is not stated here.

## Citation

```bibtex
{citation}
```
"""

_PIPELINE = """\
```python
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model={model_id}, trust_remote_code=True)
classify({photo}, top_k=5)  # among all classes of the model: [{{"label": ..., "score": ...}}, ...]
{chosen}```
"""

_CHOSEN = """\
labels = [{labels}]
classify({photo}, candidate_labels=labels)
# A class by a description; an attribute that is left out has the mean of the model's classes.
description = {{{description}}}
classify({photo}, candidate_labels={{labels[0]: None, "a new class": description}})
"""

_PIXELS = """\
```python
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification

model = AutoModelForZeroShotImageClassification.from_pretrained({model_id}, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained({model_id})
pixels = processor(images=Image.open({photo}).convert("RGB"), return_tensors="pt")["pixel_values"]
output = model(pixels, output_attentions=True)
print(model.config.id2label[int(output.logits.argmax())])
output.attribute_scores  # what the model thinks of each attribute: images x attributes
output.region_maps  # where it looked for each: images x experts x attributes x regions
```
"""

_FEATURES = """\
```python
import torch
from transformers import AutoModelForZeroShotImageClassification

model = AutoModelForZeroShotImageClassification.from_pretrained({model_id}, trust_remote_code=True).eval()
features = torch.rand(1, *model.config.feature_shape)  # in place of these: a feature map of the model's backbone
print(model.config.id2label[int(model(features=features).logits.argmax())])
```
"""

_OTHER_CLASSES = """\
Other classes from now on, without training:

```python
table = model.attribute_table
table.to_csv("classes.csv")  # a row a class, a column an attribute: add or remove rows with any spreadsheet
model.set_classes(type(table).from_csv("classes.csv"))
```"""


def basic_card(config: DEDNConfig, table: AttributeTable, model_id: str = MODEL_ID) -> ModelCard:
    """The card of a model of which nothing is known but the model itself.

    Args:
        config, table: of the model. model_id: folder or Hub name that the example code loads.
    """
    backbone = f"`{config.backbone}` (timm), images of {config.image_size} x {config.image_size} pixels"
    images = config.backbone is not None
    labels = example_classes(table) if images else []
    seen = int(table.seen.sum())
    text = _TEXT.format(
        name=f"DEDN, {config.backbone or 'features only'}, {len(table)} classes",
        paper=PAPER,
        backbone=backbone if images else "none: the model takes feature maps that were computed before",
        feature_map="{} channels, {} x {} regions".format(*config.feature_shape),
        classes=f"{len(table)}, of which {seen} are marked as seen and {len(table) - seen} as unseen",
        attributes=describe_groups(Counter(config.attribute_groups)),
        experts=" and ".join(config.experts),
        usage=usage(table, model_id, images),
        citation=CITATION,
    )
    return ModelCard(f"---\n{card_data(labels).to_yaml()}\n---\n{text}")


def card_data(labels: list[str], image: str | None = None, **more) -> ModelCardData:
    """Metadata that any DEDN has: task, library, tags, and an example for the Hub's widget.

    Args:
        labels: class names for the widget to choose among; those with a comma cannot be written there.
        image: path of the example's picture in the repository, or its URL. more: further metadata.
    """
    names = ", ".join(label for label in labels if "," not in label)
    example = {"src": image, "candidate_labels": names, "example_title": "Some of its classes"}
    example = {key: value for key, value in example.items() if value is not None}
    tags = [*TAGS, *more.pop("tags", [])]
    return ModelCardData(
        pipeline_tag=TASK, library_name="transformers", tags=tags, widget=[example] if names else None, **more
    )


def example_classes(table: AttributeTable, count: int = 4) -> list[str]:
    """A few classes of the model, half of them unseen where there are as many."""
    unseen = [name for name, seen in zip(table.class_names, table.seen, strict=True) if not seen][: count // 2]
    seen = [name for name, seen in zip(table.class_names, table.seen, strict=True) if seen]
    return [*unseen, *seen[: count - len(unseen)]]


def describe_groups(groups: dict[str, int], most: int = 12) -> str:
    """'312 in 6 groups: head 87, leg 15, ...' from the number of attributes in each group."""
    named = ", ".join(f"{name} {count}" for name, count in list(groups.items())[:most])
    more = f" and {len(groups) - most} more" if len(groups) > most else ""
    return f"{sum(groups.values())} in {len(groups)} group{'s' * (len(groups) > 1)}: {named}{more}"


def usage(table: AttributeTable | None, model_id: str = MODEL_ID, images: bool = True) -> str:
    """Example code in Markdown: the pipeline, the model, other classes.

    Args:
        table: classes of the model, for examples that name some; None: the examples name none.
        images: False for a model without a backbone, which takes feature maps only.
    """
    model_id, photo = quoted(model_id), quoted(PHOTO)
    if not images:
        return _FEATURES.format(model_id=model_id) + "\n" + _OTHER_CLASSES
    chosen = ""
    if table is not None:
        labels = ", ".join(map(quoted, example_classes(table)))
        description = ", ".join(f"{quoted(name)}: {value}" for name, value in example_description(table).items())
        chosen = _CHOSEN.format(photo=photo, labels=labels, description=description)
    blocks = [_PIPELINE.format(model_id=model_id, photo=photo, chosen=chosen)]
    return "\n".join([*blocks, _PIXELS.format(model_id=model_id, photo=photo), _OTHER_CLASSES])


def quoted(text: str) -> str:
    """As it stands in Python code, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def example_description(table: AttributeTable, count: int = 2) -> dict[str, float]:
    """A few attributes and values that could describe a class: the strongest ones of the table's last class."""
    row = table.class_attributes[-1]
    strongest = abs(row).argsort(kind="stable")[::-1][:count]
    return {table.attribute_names[a]: round(float(row[a]), 2) or 1.0 for a in strongest}
