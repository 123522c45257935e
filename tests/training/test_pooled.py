"""The pooled expert learns from all training images before the other experts do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dedn_hf import DEDNForZeroShot
from dedn_hf.data.transforms import evaluation_transform
from dedn_hf.training.experiment import learn_pooled_expert, open_caches, run, training_images
from dedn_hf.training.pooled import pooled_features
from tests.tiny_runs import image_model, load_tiny
from tests.training.test_run import experiment, full_task, settings

POOLED = {"pooled_weight": 0.6, "center_attributes": True, "attribute_power": 0.5}


def tiny_model(**config):
    torch.manual_seed(0)
    return image_model(**POOLED, **config)


def weight_after(model, tmp_path, accelerator, task=None, features="cache"):
    given = experiment(tmp_path, features=features and tmp_path / features)
    caches = open_caches(given, model, settings(), accelerator)
    learn_pooled_expert(model, task or full_task(*load_tiny()), settings(), caches, accelerator)
    return model.pooled_expert.weight.clone()


def test_a_run_saves_it_with_the_model_and_the_record_says_so(accelerator, tmp_path):
    record = run(experiment(tmp_path, config=POOLED), settings(epochs=1), tmp_path / "run", accelerator)
    model = DEDNForZeroShot.from_pretrained(tmp_path / "run")
    assert model.config.expert_names == ["coarse", "fine", "pooled"] and model.pooled_expert.weight.any()
    assert record["model"]["config"]["pooled_weight"] == 0.6


def test_it_tells_the_training_images_apart_at_once(accelerator, tmp_path):
    model, task = tiny_model().eval(), full_task(*load_tiny())
    weight_after(model, tmp_path, accelerator)
    pooled = pooled_features(model, open_images(model, task))
    logits = model.pooled_expert(pooled.mT)[0] @ model.normalized_class_attributes().T
    right = logits[:, model.seen].argmax(1) == torch.searchsorted(model.seen.nonzero()[:, 0], task.labels["train"])
    assert right.float().mean() > 0.9


def open_images(model, task):
    return task.decoded(evaluation_transform(model), evaluation_transform(model))("train")


def test_cached_features_give_what_images_give(accelerator, tmp_path):
    cached = weight_after(tiny_model(), tmp_path, accelerator)
    decoded = weight_after(tiny_model(), tmp_path, accelerator, features=None)
    assert (cached - decoded).norm() < 0.05 * decoded.norm()  # a cache keeps 16 bits


def test_with_flip_test_it_learns_from_the_mirror_images_too(accelerator, tmp_path):
    model, task = tiny_model(flip_test=True), full_task(*load_tiny())
    given = experiment(tmp_path)
    caches = open_caches(given, model, settings(), accelerator)
    pooled = pooled_features(model, training_images(task, model, settings(), caches))
    assert pooled.shape == (20, 2, model.config.feature_shape[0])
    assert not torch.equal(pooled[:, 0], pooled[:, 1])


@pytest.mark.parametrize("whole_table", [True, False])
def test_photos_of_some_of_its_classes_do_not_make_it_forget_the_others(accelerator, tmp_path, whole_table):
    model, task = tiny_model(), full_task(*load_tiny())
    before = weight_after(model, tmp_path, accelerator)
    model.learned_before = {name for name, seen in zip(task.table.class_names, task.table.seen, strict=True) if seen}
    labels = task.labels["train"]
    two = torch.isin(labels, labels.unique()[:2])
    images = {**task.images, "train": task.images["train"].select(np.flatnonzero(two))}
    part = replace(task, images=images, labels={**task.labels, "train": labels[two]})
    if not whole_table:  # as a folder of photos gives it: without the learned classes that have no photos there
        rest = labels.unique()[2:].tolist()
        roles = ["unseen" if label in rest else role for label, role in enumerate(task.table.roles)]
        part = replace(part, table=task.table.replace(roles=roles))
    assert torch.equal(weight_after(model, tmp_path, accelerator, part), before)


def test_new_classes_with_few_photos_are_only_described_to_it(accelerator, tmp_path):
    model, task = tiny_model(), full_task(*load_tiny())
    labels = task.labels["train"]
    few = labels.unique()[0]
    images = {**task.images, "train": task.images["train"].select(np.flatnonzero(labels != few))}
    rest = replace(task, images=images, labels={**task.labels, "train": labels[labels != few]})
    without = weight_after(model, tmp_path, accelerator, rest)
    model.handicaps = torch.zeros(len(model.seen))
    assert not torch.equal(weight_after(model, tmp_path, accelerator), without)
    model.handicaps[few] = 9.0
    assert torch.equal(weight_after(model, tmp_path, accelerator), without)


def test_it_needs_a_frozen_backbone(accelerator, tmp_path):
    with pytest.raises(ValueError, match="pooled_weight needs a frozen backbone.*train_backbone=false"):
        run(
            experiment(tmp_path, config=POOLED, features=None),
            settings(train_backbone=True),
            tmp_path / "run",
            accelerator,
        )
