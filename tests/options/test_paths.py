"""~ and environment variables in paths."""

import dataclasses
from pathlib import Path
from typing import Literal

from option_fixtures import read, refusal

from gatedcir.commands.pictures import Options as Pictures
from gatedcir.options.config import Config
from gatedcir.options.parsing import from_dict, parse, to_dict


def test_home_and_variables_are_replaced_in_every_path(yaml_file, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/data")
    flags = ["--dataset", "CIRR", "--data-path=~/cirr", "--backbone=$HOME/run"]
    flags += ["--output", "${DATA}/run", "--cache-features=~/features"]
    text = "dataset: CIRR\ndata-path: ~/cirr\nbackbone: $HOME/run\n"
    text += "output-dir: ${DATA}/run\ncache-features: ~/features\n"
    for found in (read(*flags), read("--config", yaml_file(text))):
        assert found.data.data_path == tmp_path / "cirr"
        assert found.backbone.backbone == f"{tmp_path}/run"
        assert found.run.output == Path("/data/run")
        assert found.run.cache_features == tmp_path / "features"
    (tmp_path / "options.yaml").write_text(text, encoding="utf-8")
    assert read("--config=~/options.yaml").run.output == Path("/data/run")
    given = ["--model-path=~/run", "--output", "x", "--image=~/a.png", "--text", "costs $5 ~/b"]
    pictures = parse(Pictures, given, description="")
    assert (pictures.model_path, pictures.image) == (tmp_path / "run", tmp_path / "a.png")
    assert pictures.text == ("costs $5 ~/b",)


def test_a_variable_that_is_not_set_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("NOWHERE", raising=False)
    for path in ("$NOWHERE/x", "${NOWHERE}/x"):
        message = refusal("--dataset", "CIRR", "--data-path", path)
        assert message.startswith(
            f"{path} needs the environment variable NOWHERE, which is not set"
        )
    (tmp_path / "$NOWHERE").mkdir()  # a folder of that name is there
    found = read("--dataset", "CIRR", "--data-path", str(tmp_path / "$NOWHERE"))
    assert found.data.data_path == tmp_path / "$NOWHERE"
    # What a checkpoint says of the machine that it was trained on is left as it is.
    assert from_dict(Config, to_dict(found) | {"data-path": "$NOWHERE/~"}).data.data_path == Path(
        "$NOWHERE/~"
    )


def test_a_folder_called_tilde_does_not_stand_for_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~" / "cirr").mkdir(parents=True)
    found = read("--dataset", "CIRR", "--data-path", "~/cirr")
    assert found.data.data_path == Path("/home/me/cirr")


@dataclasses.dataclass(frozen=True)
class Several:
    """Paths as other commands may take them."""

    inputs: tuple[Path, ...] = ()
    choice: Literal["none"] | Path | None = None


def test_paths_in_lists_and_unions_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = parse(Several, ["--inputs", "~/a", "b", "--choice", "~/c"], description="")
    assert found == Several((Path("/home/me/a"), Path("b")), Path("/home/me/c"))
    assert parse(Several, ["--choice", "none"], description="").choice == "none"


def test_names_that_no_file_can_have_are_refused(yaml_file):
    for escape in (r"\0", r"\ud83d"):
        message = refusal("--config", yaml_file(f'dataset: CIRR\noutput: "a{escape}b"\n'))
        assert "has letters that no file's name can have; name another path" in message
