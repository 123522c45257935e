"""`dedn push` and `dedn push-data`: what is published loads again, and nothing else is ever sent.

Everything here goes through the real client against the server of `hub_server.py` on loopback.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time

import datasets
import huggingface_hub.utils
import pytest
import torch
import transformers
from huggingface_hub import HfApi, constants, snapshot_download

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.cli import main
from dedn_hf.data import load, prepare
from dedn_hf.publish.hub import push_data, push_model
from tests.hub_server import HubServer
from tests.tiny_runs import FEATURE_SHAPE, feature_model, image_model

TOKEN = "hf_" + "Ada0" * 9  # put together here, so that no file of ours looks as if it held one
UNWANTED = [
    "checkpoints/step-1/state.bin",
    ".cache/huggingface/a.lock",
    ".training.lock",
    "photos/bird.jpg",
    "birds.parquet",
    "notes.txt",
]
# The client's own way to send files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server that the libraries take for the Hub, with ada logged in; they read these settings at their import."""
    with HubServer({TOKEN: "ada", "hf_of_eve": "eve"}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        huggingface_hub.utils.close_session()


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that would have been waited."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A saved model whose weights are several files, and a prepared data set."""
    originals = tmp_path_factory.mktemp("originals")
    feature_model().save_pretrained(originals / "model", max_shard_size="2KB")
    prepare("shapes", originals / "shapes", images_per_class=5, image_size=16)
    return originals


@pytest.fixture
def folder(originals, tmp_path):
    """The model's folder, to push or to spoil."""
    return shutil.copytree(originals / "model", tmp_path / "model")


@pytest.fixture
def data(originals, tmp_path):
    """The data set's folder, to push or to spoil."""
    return shutil.copytree(originals / "shapes", tmp_path / "shapes")


@torch.no_grad()
def logits(model: DEDNForZeroShot) -> torch.Tensor:
    return model.eval()(features=torch.ones(2, *FEATURE_SHAPE)).logits


def contents(folder) -> dict[str, bytes]:
    """Path -> content of every file of a folder, as `Repo.files`."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("something")


# Push and pull -------------------------------------------------------------------------------------------------------


def test_what_is_published_is_listed_downloaded_at_a_commit_and_gives_the_same_logits(hub, folder, tmp_path):
    assert HfApi().whoami()["name"] == "ada"
    first = push_model(folder, "ada/bird")
    other = feature_model(coarse_weight=0.25)
    other.save_pretrained(folder, max_shard_size="2KB")
    second = push_model(folder, "ada/bird", message="Fewer coarse scores")

    assert [commit.title for commit in hub.repos["model", "ada/bird"].commits] == [
        "initial commit",
        "Upload model",
        "Fewer coarse scores",
    ]
    assert set(HfApi().list_repo_files("ada/bird")) == {*first.files, ".gitattributes"}
    assert first.files == sorted(contents(folder))
    pinned = DEDNForZeroShot.from_pretrained("ada/bird", revision=first.commit)
    assert torch.equal(logits(pinned), logits(feature_model()))
    latest = DEDNForZeroShot.from_pretrained("ada/bird")
    assert torch.equal(logits(latest), logits(other))
    assert not torch.equal(logits(pinned), logits(latest))
    assert second.commit == HfApi().model_info("ada/bird").sha


@pytest.mark.slow
def test_the_command_publishes_a_model_that_loads_where_this_package_is_not_installed(hub, tmp_path):
    model = image_model(image_size=32).eval()
    model.save_pretrained(tmp_path / "model")
    surroundings = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    surroundings |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number adds up in another order
    surroundings |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_TOKEN": TOKEN}

    def run(*command: str, home: str) -> str:
        environment = {**surroundings, "HF_HOME": str(tmp_path / home)}
        done = subprocess.run(
            [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = run("-m", "dedn_hf", "push", "model", "ada/bird", home="here")
    repo = hub.repos["model", "ada/bird"]
    assert repo.private and len(repo.commits) == 2 and repo.files() == contents(tmp_path / "model")
    assert f"{hub.url}/ada/bird (private), commit {repo.commits[-1].sha}" in printed

    code = f"""
        import sys, torch
        sys.modules["dedn_hf"] = None
        from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification
        pinned = {{"revision": {repo.commits[-1].sha!r}, "trust_remote_code": True}}
        model = AutoModelForZeroShotImageClassification.from_pretrained("ada/bird", **pinned).eval()
        images = torch.arange(3 * 40 * 40, dtype=torch.uint8).reshape(3, 40, 40)
        pixels = AutoImageProcessor.from_pretrained("ada/bird", **pinned)(images=images, return_tensors="pt")
        with torch.no_grad():
            torch.save((pixels["pixel_values"], model(**pixels).logits), "elsewhere.pt")
    """
    run("-c", textwrap.dedent(code), home="elsewhere")
    pixels, expected = torch.load(tmp_path / "elsewhere.pt", weights_only=True)
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, expected)


def test_push_to_hub_publishes_what_save_pretrained_writes_in_one_commit(hub, tmp_path):
    feature_model().save_pretrained(tmp_path / "saved")
    feature_model().push_to_hub("ada/bird")
    repo = hub.repos["model", "ada/bird"]
    assert repo.files() == contents(tmp_path / "saved")
    assert "README.md" in repo.files() and len(repo.commits) == 2


def test_a_published_data_set_loads_as_the_prepared_folder_does(hub, data, tmp_path, capsys):
    assert main(["push-data", str(data), "ada/shapes"]) == 0
    repo = hub.repos["dataset", "ada/shapes"]
    assert repo.private and len(repo.commits) == 2 and repo.files() == contents(data)
    assert f"{hub.url}/datasets/ada/shapes (private), commit {repo.commits[-1].sha}" in capsys.readouterr().out
    for validation in (False, True):
        local, table = load(data, validation=validation, cache_dir=tmp_path / "local")
        config = "validation" if validation else "default"
        pulled = datasets.load_dataset("ada/shapes", config, revision=repo.commits[-1].sha)
        assert {split: rows.features for split, rows in pulled.items()} == {s: r.features for s, r in local.items()}
        assert {split: rows[:] for split, rows in pulled.items()} == {s: r[:] for s, r in local.items()}
    pulled = AttributeTable.load(snapshot_download("ada/shapes", repo_type="dataset", allow_patterns="attributes.*"))
    assert (pulled.class_names, pulled.roles) == (table.class_names, table.roles)
    assert (pulled.class_attributes == table.class_attributes).all()


def test_a_branch_is_made_and_main_stays_as_it_is(hub, folder):
    assert main(["push", str(folder), "ada/bird", "--revision", "draft", "--message", "A try"]) == 0
    repo = hub.repos["model", "ada/bird"]
    assert repo.files("main") == {} and repo.files("draft") == contents(folder)
    assert repo.at("draft").title == "A try"


# What goes up, and where ---------------------------------------------------------------------------------------------


def test_checkpoints_caches_and_data_stay_and_are_named(hub, folder, capsys):
    wanted = contents(folder)
    write(folder, *UNWANTED, "run.json", "quickstart.png")
    assert main(["push", str(folder), "ada/bird"]) == 0
    files = hub.repos["model", "ada/bird"].files()
    assert files == {**wanted, "run.json": b"something", "quickstart.png": b"something"}
    assert (
        "Left out: .cache/, .training.lock, birds.parquet, checkpoints/, notes.txt, photos/\n"
        in capsys.readouterr().out
    )


def test_of_a_data_set_only_what_prepare_writes_is_published(hub, data):
    wanted = contents(data)
    write(data, "data/cache-1.arrow", "images/bird.jpg", ".cache/a.lock")
    assert push_data(data, "ada/shapes").left_out == [".cache/", "data/cache-1.arrow", "images/"]
    assert hub.repos["dataset", "ada/shapes"].files() == wanted


def test_weights_of_an_earlier_push_do_not_stay_beside_the_new_ones(hub, folder):
    push_model(folder, "ada/bird")
    whole = folder.parent / "whole"
    feature_model(coarse_weight=0.25).save_pretrained(whole)
    published = push_model(whole, "ada/bird")
    assert all(name.startswith("model") for name in published.removed) and len(published.removed) > 2
    repo = hub.repos["model", "ada/bird"]
    assert repo.files() == contents(whole) and len(repo.commits) == 3


def test_what_a_killed_push_left_in_the_temporary_folder_is_removed(hub, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "dedn-push-killed" / "content" / "data").mkdir(parents=True)
    push_model(folder, "ada/bird")
    assert not list(tmp_path.glob("dedn-push-*"))


def test_what_a_killed_push_to_hub_left_is_removed_and_it_works_in_a_folder_that_can_be_found_again(
    hub, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary" / "dedn-push-killed" / "content").mkdir(parents=True)
    create_commit, found = HfApi.create_commit, []

    def look(*arguments, **options):
        found.extend((tmp_path / "temporary").iterdir())
        assert (found[0] / "content" / "model.safetensors").exists()
        return create_commit(*arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", look)
    feature_model().push_to_hub("ada/bird")
    assert len(found) == 1 and found[0].name.startswith("dedn-push-")
    assert not list((tmp_path / "temporary").iterdir())


def test_nothing_new_makes_no_commit(hub, folder, capsys):
    first = push_model(folder, "ada/bird")
    again = push_model(folder, "ada/bird")
    assert first.changed and not again.changed and again.commit == first.commit
    assert len(hub.repos["model", "ada/bird"].commits) == 2
    main(["push", str(folder), "ada/bird"])
    assert f"Nothing has changed since commit {first.commit}" in capsys.readouterr().out


def test_public_is_only_what_was_said_to_be(hub, folder, capsys):
    assert push_model(folder, "ada/private").private
    assert main(["push", str(folder), "ada/public", "--public"]) == 0
    assert not hub.repos["model", "ada/public"].private
    (folder / "README.md").write_text("# Something that is not for everyone yet")
    assert main(["push", str(folder), "ada/public"]) == 2
    assert "ada/public is public" in capsys.readouterr().err
    assert len(hub.repos["model", "ada/public"].commits) == 2
    assert main(["push", str(folder), "ada/public", "--public"]) == 0
    assert len(hub.repos["model", "ada/public"].commits) == 3


# What is refused before anything is sent -----------------------------------------------------------------------------


def truncate_weights(folder):
    path = sorted(folder.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-8])


def break_numbers(folder):
    model = feature_model()
    model.experts["coarse"].attribute_embeddings.data.fill_(float("nan"))
    model.save_pretrained(folder, max_shard_size="2KB")


def describe_other_attributes(folder):
    config = json.loads((folder / "config.json").read_text())
    config["attribute_names"] = config["attribute_names"][:-1]
    (folder / "config.json").write_text(json.dumps(config))


MODEL_FAULTS = {
    "no folder": (lambda folder: folder.rename(folder.with_name("gone")), "There is no folder"),
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "no config.json"),
    "no card": (lambda folder: (folder / "README.md").unlink(), r"no model card \(README.md\)"),
    "no weights": (lambda folder: [path.unlink() for path in folder.glob("*.safetensors")], "holds no weights"),
    "a shard too few": (lambda folder: sorted(folder.glob("*.safetensors"))[0].unlink(), "does not load again"),
    "truncated weights": (truncate_weights, "does not load again(.|\n)*SafetensorError"),
    "a number too few": (describe_other_attributes, "does not load again"),
    "no numbers": (break_numbers, "does not load again(.|\n)*not finite"),
    "code that is missing": (lambda folder: (folder / "experts.py").unlink(), "does not load again(.|\n)*experts.py"),
    "a broken table": (lambda folder: (folder / "attributes.csv").write_text("class\n"), "needs a header line"),
    "unfinished training": (lambda folder: (folder / "checkpoints").mkdir(), "training in .* has not finished"),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_model_that_would_not_load_again_is_refused_and_nothing_is_sent(fault, hub, folder):
    spoil, message = MODEL_FAULTS[fault]
    spoil(folder)
    with pytest.raises(ValueError, match=message) as refusal:
        push_model(folder, "ada/bird")
    assert str(folder) in str(refusal.value) and "dedn-push-" not in str(refusal.value)
    assert hub.requests == []


def lose_rows(folder):
    path = sorted(folder.glob("data/*-fit*.parquet"))[0]
    datasets.Dataset.from_parquet(str(path), cache_dir=str(folder.parent)).select(range(5)).to_parquet(path)


def rename_a_class(folder):
    table = AttributeTable.load(folder)
    table.replace(class_names=["roc", *table.class_names[1:]]).save(folder)


DATA_FAULTS = {
    "not prepared": (lambda folder: (folder / "dedn.json").unlink(), "holds no prepared data set"),
    "no card": (lambda folder: (folder / "README.md").unlink(), "no data set card"),
    "a missing file": (lambda folder: sorted(folder.glob("data/*"))[0].unlink(), "does not load again"),
    "a truncated file": (
        lambda folder: os.truncate(sorted(folder.glob("data/*"))[0], 10_000),
        "does not load again(.|\n)*parquet",
    ),
    "missing rows": (lose_rows, "images in place of"),
    "another table": (rename_a_class, "other classes"),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_a_data_set_that_would_not_load_again_is_refused_and_nothing_is_sent(fault, hub, data):
    spoil, message = DATA_FAULTS[fault]
    spoil(data)
    with pytest.raises(ValueError, match=message):
        push_data(data, "ada/shapes")
    assert hub.requests == []


SECRETS = {
    "Hugging Face": "hf_" + "x1Y2" * 9,
    "GitHub": "ghp_" + "x1Y2" * 9,
    "GitHub, fine grain": "github_" + "pat_" + "x1Y2" * 20,
    "AWS": "AKIA" + "X1Y2" * 4,
    "OpenAI": "sk-" + "x1Y2" * 12,
    "OpenAI, project": "sk-" + "proj-" + "x1Y2" * 30,
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_token_stops_everything_and_is_not_repeated(kind, hub, folder, capsys):
    with open(folder / "README.md", "a") as card:
        card.write(f"\nDownload it with {SECRETS[kind]} and be happy.\n")
    line = (folder / "README.md").read_text().count("\n")
    assert main(["push", str(folder), "ada/bird"]) == 2
    said = capsys.readouterr().err
    assert f"{folder}/README.md, line {line}, holds what looks like" in said and SECRETS[kind] not in said
    assert hub.requests == []


def hide_in_weights(folder, secret):
    from safetensors.torch import load_file, save_file

    path = sorted(folder.glob("*.safetensors"))[0]
    save_file(load_file(path), path, metadata={"format": "pt", "note": secret})


def hide_in_picture(folder, secret):
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", secret)
    Image.new("RGB", (4, 4)).save(folder / "plot.png", pnginfo=text)


HIDING_PLACES = {
    "weights": hide_in_weights,
    "picture": hide_in_picture,
    "code": lambda folder, secret: (folder / "experts.py").write_text(f"token = {secret!r}"),
    "record": lambda folder, secret: (folder / "run.json").write_text(json.dumps({"command": f"x\n{secret}"})),
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_a_token_is_found_in_any_file(place, hub, folder):
    HIDING_PLACES[place](folder, SECRETS["Hugging Face"])
    with pytest.raises(ValueError, match="looks like a Hugging Face token"):
        push_model(folder, "ada/bird")
    assert hub.requests == []


def test_a_token_in_a_data_set_is_found(hub, data):
    with open(data / "README.md", "a") as card:
        card.write(SECRETS["Hugging Face"])
    with pytest.raises(ValueError, match="README.md, line .* looks like a Hugging Face token"):
        push_data(data, "ada/shapes")
    assert hub.requests == []


def test_the_token_that_is_used_is_found_whatever_it_looks_like(hub, folder):
    (folder / "requirements.txt").write_text("torch\n# hf_of_eve\n")
    with pytest.raises(ValueError, match="requirements.txt, line 2, .* the token that you push with"):
        push_model(folder, "eve/bird", token="hf_of_eve")
    assert hub.requests == []


def test_a_token_in_what_stays_here_is_no_matter(hub, folder):
    (folder / ".env").write_text(SECRETS["Hugging Face"])
    assert push_model(folder, "ada/bird").left_out == [".env"]


@pytest.mark.parametrize("name", ["bird", "ada/birds/bird", "ada/bird--two", "ada/bird.git", "ada/a bird"])
def test_a_name_that_cannot_be_is_refused(name, hub, folder, capsys):
    assert main(["push", str(folder), name]) == 2
    assert name in capsys.readouterr().err
    assert hub.requests == []


# Broken connections --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    huggingface_hub.__version__.startswith("1.3."),
    reason="it does not try again by itself; the message says what to do",
)
def test_an_upload_that_breaks_off_is_finished_within_the_same_push(hub, folder, waits):
    hub.go_wrong("PUT /lfs/", times=2)
    push_model(folder, "ada/bird")
    assert hub.repos["model", "ada/bird"].files() == contents(folder) and waits


def test_after_a_lasting_break_the_same_command_sends_only_what_is_missing(hub, folder, waits, capsys):
    shards = len(list(folder.glob("*.safetensors")))
    push = ["push", str(folder), "ada/bird"]
    push_model(folder, "ada/copy")  # only to learn the addresses
    addresses = hub.sent("PUT /lfs/")
    assert len(addresses) == shards > 2
    hub.blobs.clear(), hub.requests.clear()

    hub.go_wrong(addresses[0], times=100)
    assert main(push) == 2
    said = capsys.readouterr().err
    assert "Give the same command again" in said and "Traceback" not in said
    assert hub.repos["model", "ada/bird"].files() == {}
    arrived = {f"PUT /lfs/{oid}" for oid in hub.blobs}  # others may not have begun: they go at the same time
    assert arrived and addresses[0] not in arrived

    hub.faults.clear(), hub.requests.clear()
    assert main(push) == 0
    assert sorted(hub.sent("PUT /lfs/")) == sorted(set(addresses) - arrived)
    assert hub.repos["model", "ada/bird"].files() == contents(folder)
    assert len(hub.repos["model", "ada/bird"].commits) == 2


COMMIT = "POST .*/commit/main"


@pytest.mark.parametrize(
    ("request_", "how"),
    [
        ("POST /api/repos/create", "lose the answer"),
        ("GET /api/models/ada/bird", "hang up"),
        ("POST /api/validate-yaml", "503"),
        (COMMIT, "hang up"),
        (COMMIT, "503"),
        (COMMIT, "lose the answer"),
    ],
)
def test_a_request_that_fails_is_made_again_and_nothing_happens_twice(request_, how, hub, folder, waits):
    hub.go_wrong(request_, how=how)
    assert push_model(folder, "ada/bird").changed
    assert len(hub.sent(request_)) == (1 if (request_, how) == (COMMIT, "lose the answer") else 2)
    repo = hub.repos["model", "ada/bird"]
    assert repo.files() == contents(folder) and len(repo.commits) == 2
    assert waits == [1]


def test_files_that_went_with_a_lost_answer_are_not_removed_twice(hub, folder, waits):
    push_model(folder, "ada/bird")
    feature_model().save_pretrained(folder.parent / "whole")
    hub.go_wrong(COMMIT, how="lose the answer")
    assert push_model(folder.parent / "whole", "ada/bird").removed
    assert hub.repos["model", "ada/bird"].files() == contents(folder.parent / "whole")


# Errors --------------------------------------------------------------------------------------------------------------


def said_after_push(folder, capsys, name: str = "ada/bird") -> str:
    assert main(["push", str(folder), name]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_without_a_login_it_says_how_to_log_in(hub, folder, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert "Not logged in. Run `hf auth login`" in said_after_push(folder, capsys)
    assert hub.requests == []


def test_a_token_that_is_not_accepted(hub, folder, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "does not accept the token. Run `hf auth login`" in said_after_push(folder, capsys)


def test_a_repository_of_somebody_else(hub, folder, capsys):
    assert "may not write to eve/bird" in said_after_push(folder, capsys, "eve/bird")
    push_model(folder, "eve/bird", token="hf_of_eve", private=False)
    (folder / "README.md").write_text("# Mine now")
    assert main(["push", str(folder), "eve/bird", "--public"]) == 2
    assert "may not write to eve/bird" in capsys.readouterr().err
    assert len(hub.repos["model", "eve/bird"].commits) == 2


def test_offline_mode(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "Unset HF_HUB_OFFLINE" in said_after_push(folder, capsys)
    assert hub.requests == []


def test_a_host_that_cannot_be_reached_is_tried_four_times(hub, folder, monkeypatch, waits, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "connection to http://127.0.0.1:9 failed" in said_after_push(folder, capsys)
    assert waits == [1, 3, 9]
