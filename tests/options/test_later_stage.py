"""What a later stage takes from its run, wherever the run and the stage are named."""

import pytest
import yaml

from gatedcir.errors import UserError
from gatedcir.options.later_stage import below_flags

RUN = {"dataset": "CIRR", "batch-size": 7, "model": {"matcher": "none", "prompts": 8}}
STAGES = {"bank": {"query-branch": "second"}, "rerank": {"matcher": "itm"}}


def written(path, options):
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path):
    return written(tmp_path / "run" / "config.yaml", RUN).parent


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("named", ["by flags", "by a file", "by both"])
def test_the_run_and_the_stage_may_be_named_by_flags_and_by_a_file(run, tmp_path, stage, named):
    start = str(run) if named == "by a file" else "other"
    file = written(tmp_path / "file.yaml", {"stage": stage, "from": start})
    flags = ["--config", str(file)] * (named != "by flags")
    flags += ["--from-run", str(run)] * (named != "by a file")
    flags += ["--stage", stage] * (named == "by flags")
    found = below_flags(flags)
    assert found.pop("model") == {**RUN["model"], **STAGES[stage]}
    assert found == {"dataset": "CIRR", "backbone": str(run)}


@pytest.mark.parametrize("stage", ["whole", "bank", "rerank"])
def test_a_matcher_stays_only_where_its_search_does(tmp_path, stage):
    run = tmp_path / "run"
    written(run / "config.yaml", {**RUN, "model": {"matcher": "itm"}})
    found = below_flags(["--from", str(run), "--stage", stage])["model"]["matcher"]
    assert found == ("itm" if stage == "rerank" else "none")


def test_a_flag_wins_over_the_stage_of_a_file(run, tmp_path):
    file = written(tmp_path / "file.yaml", {"stage": "bank", "from-run": str(run)})
    found = below_flags(["--config", str(file), "--stage", "whole"])
    assert found["model"] == RUN["model"]


def test_a_file_with_a_stage_alone_is_asked_for_the_run(tmp_path):
    words = ["--config", str(written(tmp_path / "file.yaml", {"stage": "bank"}))]
    with pytest.raises(UserError, match=r"--stage bank goes on with .* name its run with --from"):
        below_flags(words)
    assert below_flags([*words, "--dataset", "CIRR"]) == {}


def test_help_reads_no_file(tmp_path):
    assert below_flags(["--config", str(tmp_path / "gone.yaml"), "--help"]) == {}
    with pytest.raises(UserError, match=r"no config file .*gone\.yaml"):
        below_flags(["--config", str(tmp_path / "gone.yaml")])
