"""Reranking: the order that a judge gives, and the stage that trains the model's own."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import SHORT, bad
from cut_runs import assert_goes_on, interrupted

import blip_fine_tune_2
import blip_validate
from gatedcir.assemble.evaluator import open_evaluator
from gatedcir.assemble.model import restore
from gatedcir.commands import report
from gatedcir.data.triplets import Split, Triplet
from gatedcir.evaluation.ranking import Ranking
from gatedcir.evaluation.reranking import (
    Asked,
    Candidate,
    Gain,
    MatchReranker,
    format_gain,
    reranked,
)
from gatedcir.models import qformer as passes
from gatedcir.options.config import DataConfig
from gatedcir.run_folder import checkpoint
from gatedcir.training import rerank_stage

NAMES = ("a", "b", "c", "d", "e", "f")


class ByName:
    """Likes later letters. Notes what it is asked."""

    def __init__(self):
        self.asked = []

    def rerank(self, query, candidates):
        self.asked.append((query, candidates))
        return np.array([ord(candidate.name) for candidate in candidates], dtype=float)


def ranking(*, removed):
    """One query with the reference "b" and the target "d", which the search found last of four."""
    triplet = Triplet("0", "b", ("d",), ("is red",), ("b", "d", "f"))
    split = Split("val", (triplet,), NAMES, {}, "", reference_removed=removed)
    return Ranking(
        split,
        references=np.array([1]),
        targets=np.array([3]),
        images=np.array([[2, 1, 0, 3, -1]]),
        members=np.array([[1, 3, 5, -1]]),
        member_similarity=np.array([[0.9, 0.1, 0.05, -np.inf]], dtype=np.float32),
        similarity=np.array([[0.9, 0.8, 0.7, 0.6, -np.inf]], dtype=np.float32),
        target_similarity=np.array([0.6], dtype=np.float32),
    )


def judged(judge, top, *, removed=True):
    return reranked(ranking(removed=removed), judge, top=top, text=" ".join)


@pytest.mark.parametrize(
    ("top", "removed", "images", "target", "group"),
    [
        (3, True, [3, 1, 2, 0, -1], 0, 1),  # the reference stays where it was, and does not count
        (2, True, [2, 1, 0, 3, -1], 2, 1),  # the target was third, behind the reordered ones
        (9, False, [3, 2, 1, 0, -1], 0, 1),  # the reference is one of the candidates
    ],
)
def test_the_first_images_and_the_group_take_the_order_of_the_judge(
    top, removed, images, target, group
):
    found = judged(ByName(), top, removed=removed)
    assert found.ranking.images.tolist() == [images]
    assert found.ranking.target_ranks.tolist() == [target]
    assert found.ranking.group_ranks.tolist() == [group]  # "f" is in front of "d" for the judge
    assert found.first.images.tolist() == [[2, 1, 0, 3, -1]]


def test_the_judge_is_asked_for_each_image_once_with_the_similarity_of_the_search():
    judge = ByName()
    judged(judge, 3)
    [(query, candidates)] = judge.asked
    assert query == Asked("b", "is red")
    expected = {"a": 0.7, "c": 0.9, "d": 0.1, "f": 0.05}  # "d" as a member of the group
    assert {c.name: pytest.approx(c.similarity) for c in candidates} == expected


def test_the_table_names_gain_and_ceiling():
    def metrics(parts):
        return {"recall_at1": float(100 * np.mean([part.target_ranks == 0 for part in parts]))}

    gain = Gain.of([judged(ByName(), 3)], metrics, top=2)
    assert gain.ceiling == 0 and gain.before == {"recall_at1": 0} and gain.milliseconds > 0
    text = format_gain(gain)
    assert "recall_at1    0.00  100.00  +100.00" in text and "0.00% among its first 2" in text


def flags_of(cirr_run, output, *more):
    flags = ["--stage", "rerank", "--from", str(cirr_run), *SHORT[2:], "--learning-rate", "1e-3"]
    flags += ["--num-epochs", "1", "--rerank", "5", "--rerank-negatives", "3", "--limit", "6"]
    flags += ["--batch-size", "2", "--accumulate", "2", "--save-training", *more]
    return [*flags, "--output", str(output)]


@pytest.fixture(scope="module")
def rerank_run(cirr_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("rerank") / "run"
    blip_fine_tune_2.main(flags_of(cirr_run, output))
    return output


def test_only_the_matcher_is_trained(cirr_run, rerank_run):
    before, after = (checkpoint.load(run).weights for run in (cirr_run, rerank_run))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    added = after.keys() - before.keys()
    assert added and all(name.startswith("matcher.") for name in added)
    head = "matcher.head.weight"
    assert not torch.equal(after[head], before["backbone.itm_head.weight"])


def test_a_stage_that_was_stopped_within_an_epoch_goes_on_as_if_it_had_not(
    cirr_run, rerank_run, tmp_path, monkeypatch
):
    flags = flags_of(cirr_run, tmp_path / "run", "--save-every-steps", "1")
    interrupted(monkeypatch, flags, step=2)
    assert_goes_on(tmp_path / "run", epoch=0, steps=1, whole=rerank_run)


def test_a_stage_whose_start_was_moved_is_told_where(cirr_run, tmp_path, monkeypatch):
    first, run = shutil.copytree(cirr_run, tmp_path / "first"), tmp_path / "run"
    interrupted(monkeypatch, flags_of(first, run, "--save-every-steps", "1"), step=2)
    moved = first.rename(tmp_path / "moved")
    bad(blip_fine_tune_2, ["--resume", run], "first, where no weights are now", "with --backbone")
    blip_fine_tune_2.main(["--resume", str(run), "--backbone", str(moved)])
    said = checkpoint.load(run).provenance["recipes"]
    assert said[0] == f"--stage rerank, --rerank-negatives 3, from {first}"
    assert str(moved) not in str(said)


def test_a_stage_whose_matcher_guesses_says_so_once(cirr_run, tmp_path, capsys):
    flags = flags_of(cirr_run, tmp_path / "run", "--num-epochs", "2", "--rerank-easy", "1")
    blip_fine_tune_2.main([*flags, "--learning-rate", "1e-9"])
    assert capsys.readouterr().out.count("train longer, or with a higher --learning-rate") == 1


def test_evaluation_reranks_and_names_the_ceiling(cirr_run, rerank_run, home, tmp_path, capsys):
    files = [tmp_path / f"{name}.json" for name in ("first", "same", "rerank")]
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), "--num-workers", "0"]
    blip_validate.main(["--model-path", str(cirr_run), *data, "--output", str(files[0])])
    here = ["--model-path", str(rerank_run), *data]
    blip_validate.main([*here, "--rerank", "0", "--output", str(files[1])])
    assert "reranked" not in capsys.readouterr().out
    blip_validate.main([*here, "--rerank", "3", "--output", str(files[2])])
    out = capsys.readouterr().out
    assert "reranked: the first 3 of each query" in out and "which no reranking exceeds" in out
    first, same, third = (json.loads(file.read_text()) for file in files)
    assert first["metrics"] == same["metrics"] == third["reranked"]["before"]
    assert third["metrics"] != first["metrics"] and third["reranked"]["top"] == 3
    # Reranking three images moves no target into or out of the first five.
    assert third["metrics"]["recall_at5"] == first["metrics"]["recall_at5"]
    # The halves of a query are searched and compared with the search, as without a judge.
    assert third["composition"] == same["composition"]
    assert third["single_inputs"] == same["single_inputs"]
    assert "| search |" in " ".join(out.split()) and "search on the rest" in out
    assert "metrics_without_gate" not in third and "reranked" not in same


def test_a_page_shows_the_halves_of_a_query_next_to_the_search(rerank_run, tmp_path):
    report.main([str(rerank_run), "--output", str(tmp_path / "report.html"), "--num", "1"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{rerank_run.name}, its search alone, recall_at1" in page
    assert "judges the first 50 images" not in page  # there are fewer
    assert re.search(r"judges the first \d+ images of each query again, in \d+\.\d ms", page)
    assert "search alone</th>" in page and "which no reranking exceeds" in page


def test_the_matcher_judges_each_pair_by_itself(rerank_run, home):
    data = DataConfig("CIRR", home / "cirr_dataset", num_workers=0)
    evaluator, [split] = open_evaluator(rerank_run, data, "val")
    judge = MatchReranker(evaluator.model, evaluator.tokenizer, evaluator.read, evaluator.runs_on)
    query = Asked(split.triplets[0].reference, split.triplets[0].captions[0])
    candidates = [Candidate(name, 0.5) for name in split.gallery[4:8]]
    together = judge.rerank(query, candidates)
    alone = [judge.rerank(query, [candidate])[0] for candidate in candidates]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert len({round(float(score), 4) for score in together}) == 4
    raised = judge.rerank(query, [candidates[0]._replace(similarity=0.6)])
    assert raised[0] - alone[0] == pytest.approx(0.2 / evaluator.model.temp.item(), rel=0.01)


def test_every_weight_of_the_matcher_is_used(rerank_run):
    """Processes that share gradients wait for each of them."""
    model, tokenizer, _ = restore(checkpoint.load(rerank_run))
    rerank_stage.freeze(model)
    text = tokenizer(["is red", "has two dogs"])
    tokens = model.visual_tokens(torch.randn(2, 3, 64, 64))[0]
    model.match(model.prompts_of(tokens, text), text, tokens).sum().backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []


def test_the_matcher_is_the_same_with_the_pass_of_gpus(rerank_run, monkeypatch):
    """With their pass every row of every layer is computed, the words' of the last one too."""
    model, tokenizer, _ = restore(checkpoint.load(rerank_run))
    text = tokenizer(["is red", "has two dogs"])
    tokens = model.visual_tokens(torch.randn(2, 3, 64, 64))[0]
    found = {}
    for saves in (True, False):
        monkeypatch.setattr(passes, "saves_arithmetic", lambda device, saves=saves: saves)
        prompts = model.prompts_of(tokens, text)
        found[saves] = model.match(prompts, text, tokens)
    torch.testing.assert_close(found[True], found[False], atol=1e-5, rtol=1e-5)


def test_a_stage_without_a_matcher_is_refused(home, cirr_run):
    flags = ["--dataset", "CIRR", "--backbone", cirr_run, "--stage", "rerank"]
    bad(blip_fine_tune_2, flags, "no matcher to train", "--from RUN")


@pytest.mark.parametrize(("negatives", "easy"), [(2, 0), (2, 3), (9, 9)])
def test_wrong_images_are_of_the_first_ones_and_of_all(negatives, easy):
    """Of twelve images, two are right and four are the hardest. No drawn one is right, or twice."""
    names = list("abcdefghijkl")
    data = rerank_stage.JudgedTriplets(
        [Triplet("0", "a", ("b", "c"), ("is red",))],
        {name: torch.tensor(row) for row, name in enumerate(names)},
        seed=0,
        images=names,
        negatives=negatives,
        easy=easy,
    )
    data.hardest = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10, 11, 0]])[:, : max(4, data.negatives)]
    among = {names[i] for i in data.hardest[0].tolist()}
    seen = []
    for data.epoch in range(9):
        target, *wrong = (names[i] for i in rows_of(data[[0]]))
        assert target in "bc" and not {"b", "c"} & set(wrong)
        assert len(wrong) == min(negatives, 10) + min(easy, 10)
        hard, others = wrong[: data.negatives], wrong[data.negatives :]
        assert set(hard) <= among and all(len(set(s)) == len(s) for s in (hard, others))
        seen.append(others)
    assert not easy or (len({tuple(s) for s in seen}) > 1 and {n for s in seen for n in s} - among)


def rows_of(batch):
    """The rows of a triplet's candidates among all images, whose pictures are their numbers."""
    return [int(batch.images[place].item()) for place in batch.candidates[0].tolist()]
