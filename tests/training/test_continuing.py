"""Going on with a model: a few photos of a class that was only described are enough, and do not cost the others."""

import numpy as np
import pytest
import torch

from dedn_hf import DEDNForZeroShot
from dedn_hf.data.tasks import Task
from dedn_hf.training.continuing import handicaps, has_enough_photos, started
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.loop import fit
from dedn_hf.training.settings import TrainingSettings
from tests.tiny_runs import ROLES, FeatureMaps, feature_model, feature_task, tiny_table

SEEN = [label for label, role in enumerate(ROLES) if role != "unseen"]
NEW = [label for label, role in enumerate(ROLES) if role == "unseen"]


def test_a_newly_learned_class_makes_up_for_its_few_photos():
    counts, was_seen = np.array([40, 60, 5, 0, 0, 50]), np.array([True, True, False, False, True, False])
    torch.testing.assert_close(handicaps(counts, was_seen), torch.tensor([0, 0, 1.5 * np.log(10), 0, 0, 0]).float())


@pytest.mark.parametrize("counts", [[0, 0, 5, 7], [0, 0, 0, 0]])
def test_without_photos_of_the_others_nothing_is_made_up_for(counts):
    assert handicaps(np.array(counts), np.array([True, True, False, False])) is None


def test_a_handicap_counts_in_the_losses_only_and_is_not_saved(tmp_path):
    model, (_, inputs) = feature_model().eval(), feature_task()
    batch = inputs("train").__getitems__(list(range(8)))
    before = model(**batch)
    model.handicaps = torch.zeros(7)
    torch.testing.assert_close(model(**batch).loss, before.loss)
    model.handicaps[int(batch["labels"][0])] = 2.0
    after = model(**batch)
    assert after.loss > before.loss and torch.equal(after.logits, before.logits)
    model.save_pretrained(tmp_path)
    assert DEDNForZeroShot.from_pretrained(tmp_path).handicaps is None


def test_classes_that_were_learned_before_have_no_handicap(tmp_path):
    feature_model().save_pretrained(tmp_path)
    table = tiny_table().replace(roles=["train"] * 7)
    model = started(str(tmp_path), table, [label for label in SEEN for _ in range(20)] + [NEW[0]] * 2)
    assert model.handicaps.nonzero().flatten().tolist() == [NEW[0]]
    assert started(str(tmp_path), table, []).handicaps is None


def test_beside_a_pooled_expert_the_trained_ones_make_up_for_it_alone(tmp_path):
    feature_model(pooled_weight=0.6).save_pretrained(tmp_path)
    labels = [label for label in SEEN for _ in range(20)] + [NEW[0]] * 2 + [NEW[1]] * 15
    model = started(str(tmp_path), tiny_table().replace(roles=["train"] * 7), labels)
    was_seen = np.isin(np.arange(7), SEEN)
    torch.testing.assert_close(0.4 * model.handicaps, handicaps(np.bincount(labels, minlength=7), was_seen))
    assert (~has_enough_photos(model)).nonzero().flatten().tolist() == [NEW[0]]


def trained(model: DEDNForZeroShot, labels: list[int], table, accelerator, folder, epochs: int) -> dict:
    """Scores after some epochs on noisy feature maps of these labels, on others."""
    data = {
        "train": FeatureMaps(labels, 1),
        "seen": FeatureMaps(SEEN * 8, 2),
        "unseen": FeatureMaps(NEW * 12, 3),
    }
    for maps in data.values():
        maps.features += 1.5 * torch.randn(maps.features.shape, generator=torch.Generator().manual_seed(4))
    task = Task("tiny", table, {}, {split: maps.labels for split, maps in data.items()})
    settings = TrainingSettings(
        epochs=epochs, batch_size=14, learning_rate=1e-3, select_on="last", evaluate_every=epochs
    )
    fit(model, task, data.__getitem__, settings, accelerator, folder)
    return evaluate(model.eval(), data.__getitem__, tiny_table().seen, accelerator)[0]


def test_few_photos_of_a_described_class_are_enough_beside_many_of_the_others(tmp_path, accelerator):
    model, table = feature_model(), tiny_table()
    before = trained(model, SEEN * 20, table, accelerator, tmp_path / "one", epochs=6)
    model.save_pretrained(tmp_path / "model")
    everything, labels = table.replace(roles=["train"] * 7), SEEN * 20 + NEW * 3
    after = {}
    for given in (labels, ()):
        model = started(str(tmp_path / "model"), everything, given)
        after[len(given)] = trained(model, labels, everything, accelerator, tmp_path / f"two-{len(given)}", epochs=4)
    made_up_for, plain = after[len(labels)], after[0]
    assert made_up_for["U"] > plain["U"]
    assert made_up_for["H"] > max(before["H"], plain["H"])
