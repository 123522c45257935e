"""What cannot be opened as a model is refused in one line that says what to give."""

import pytest

from dedn_hf.publish import load_model
from tests.tiny_runs import image_model


@pytest.fixture
def folder(tmp_path):
    image_model().save_pretrained(tmp_path / "birds")
    return tmp_path / "birds"


def refusal(name) -> str:
    with pytest.raises(ValueError) as refused:
        load_model(str(name))
    return str(refused.value)


@pytest.mark.parametrize("name", ["brids", "./brids", "/brids", "models/brids"])
def test_a_name_that_is_nothing_is_said_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(name)
    assert said.startswith(f"{name} is neither the folder of a model nor the id of one on the Hub.")
    assert "\n" not in said and ("huggingface.co" in said) == (name == "models/brids")


def test_a_file_of_a_model_names_its_folder(folder):
    assert (
        refusal(folder / "config.json")
        == f"{folder / 'config.json'} is a file. Give the folder of the model, {folder}."
    )


def test_damaged_weights_are_called_so(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert refusal(folder).startswith(f"The weights of {folder} are damaged")


def test_of_a_training_that_was_stopped_it_says_how_to_go_on(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert "the same dedn train goes on" in refusal(tmp_path)
