"""The data that a saved model is examined on: the same classes, and features in the precision that they have."""

import pytest
import torch

from dedn_hf.data.tasks import test_task as full_task
from dedn_hf.training.experiment import Experiment, open_caches, without_paths
from dedn_hf.training.inputs import inputs_from, require_same_classes
from dedn_hf.training.settings import TrainingSettings
from tests.tiny_runs import feature_model, image_model, load_tiny, tiny_table


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_cache_of_a_run_is_used_whatever_its_precision(precision, accelerator, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model, task = image_model(flip_test=True), full_task(*load_tiny())
    settings = TrainingSettings(feature_precision=precision)
    plain, mirrored = open_caches(Experiment(load_tiny, None, tmp_path / "cache"), model, settings, accelerator)
    monkeypatch.setattr(type(model), "extract_features", lambda *_: pytest.fail("the backbone ran"))
    batch = inputs_from(model, task, load_tiny, tmp_path / "cache", accelerator)("seen").__getitems__([0])
    row = plain.rows([task.images["seen"]["file"][0]])
    assert torch.equal(batch["features"][0], torch.cat([plain.read(row), mirrored.read(row)]))


def test_a_model_is_examined_on_the_classes_that_were_seen_and_unseen_in_its_training():
    table, model = tiny_table(), feature_model()
    require_same_classes(model, table.select(table.class_names[::-1]))
    with pytest.raises(ValueError, match="was trained on the class 'bird a', which counts as unseen here"):
        require_same_classes(model, table.replace(roles=["unseen", *table.roles[1:]]))
    with pytest.raises(ValueError, match="was not trained on the class 'bird b', which counts as seen here"):
        require_same_classes(model, table.replace(roles=["train", "train", *table.roles[2:]]))
    with pytest.raises(ValueError, match="does not know the class 'bird z'"):
        require_same_classes(model, table.replace(class_names=["bird z", *table.class_names[1:]]))


def test_run_json_names_files_without_their_folders_also_where_there_are_several(tmp_path):
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for file in files:
        file.touch()
    options = {"csv": list(map(str, files)), "names": str(files[0]), "use": ["mass"], "data_dir": "photos"}
    assert without_paths(options) == {"csv": ["a.csv", "b.csv"], "names": "a.csv", "use": ["mass"]}
