"""The bank stage: exact similarities and gradients, and what the stage trains."""

import json

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import SHORT
from cut_runs import assert_goes_on, interrupted

import blip_fine_tune_2
from gatedcir.assemble.model import restore
from gatedcir.data.triplets import Triplet
from gatedcir.errors import UserError
from gatedcir.models.gated_fusion.strategies import STRATEGIES, make_fusion
from gatedcir.models.query_branch import QueryBranch
from gatedcir.run_folder import checkpoint
from gatedcir.training import bank_stage
from gatedcir.training.bank import bank_similarity, make_store
from gatedcir.training.losses import token_similarity


def both_ways(query, bank, weights, entries):
    """Values and the query's gradient of the plain expression and of the bank's."""
    found = []
    for similarity in (
        lambda q: (q @ bank.to(q.dtype).flatten(0, 1).T).unflatten(1, bank.shape[:2]).max(-1)[0],
        lambda q: bank_similarity(q, bank, entries=entries),
    ):
        leaf = query.clone().requires_grad_()
        value = similarity(leaf)
        (value * weights).sum().backward()
        found.append((value.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_bank_equals_the_plain_expression_in_value_and_gradient(seed, kind):
    draw = torch.Generator().manual_seed(seed)
    batch, images, tokens, width = torch.randint(1, 9, (4,), generator=draw).tolist()
    query = F.normalize(torch.randn(batch, width, generator=draw), dim=-1).to(kind)
    bank = F.normalize(torch.randn(images, tokens, width, generator=draw), dim=-1).half()
    weights = torch.randn(batch, images, generator=draw).to(kind)
    entries = int(torch.randint(1, 200, (), generator=draw))
    plain, blocks = both_ways(query, bank, weights, entries)
    assert torch.equal(token_similarity(query, bank.to(kind)), blocks[0])
    loose = 1e-6 if kind == torch.float32 else 0.05
    torch.testing.assert_close(blocks[0], plain[0], atol=loose, rtol=0)
    torch.testing.assert_close(blocks[1], plain[1], atol=loose * images, rtol=loose)


@pytest.mark.parametrize("entries", [1, 10**6])
def test_of_equal_tokens_the_first_one_has_the_gradient(entries):
    bank = torch.tensor([[[1.0, 5.0], [1.0, -5.0]], [[0.0, 2.0], [2.0, 7.0]]])
    query, weights = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 10.0]])
    plain, blocks = both_ways(query, bank, weights, entries)
    assert torch.equal(blocks[1], torch.tensor([[1.0, 5.0]]) + 10 * torch.tensor([[2.0, 7.0]]))
    assert torch.equal(plain[1], blocks[1])


def test_more_tokens_than_a_byte_counts_are_told_apart():
    bank = torch.zeros(1, 300, 1)
    bank[0, 299] = 3.0
    query = torch.ones(1, 1, requires_grad=True)
    bank_similarity(query, bank).sum().backward()
    assert query.grad.item() == 3.0


def test_the_graph_keeps_one_byte_for_each_query_and_image():
    query, bank = torch.randn(4, 8, requires_grad=True), torch.randn(50, 6, 8).half()
    found = bank_similarity(query, bank)
    kept = {tuple(tensor.shape): tensor.dtype for tensor in found.grad_fn.saved_tensors}
    assert kept == {(4, 8): torch.float32, (50, 6, 8): torch.float16, (4, 50): torch.uint8}


def test_a_store_is_a_file_without_a_name(tmp_path):
    store = make_store((3, 2), device=torch.device("cpu"), folder=tmp_path)
    store[1] = 0.5
    assert store.dtype == torch.float16 and store.tolist() == [[0, 0], [0.5, 0.5], [0, 0]]
    assert not list(tmp_path.iterdir())


THREE_STEPS = ["--batch-size", "2", "--limit", "6"]  # an epoch


def flags_of(run, output, *flags):
    given = ["--stage", "bank", "--from", str(run), *SHORT[2:], "--learning-rate", "1e-3"]
    return [*given, "--num-epochs", "1", *flags, "--output", str(output)]


def stage(run, output, *flags):
    """A bank stage of one epoch from a run."""
    blip_fine_tune_2.main(flags_of(run, output, *flags))
    return output


@pytest.fixture(scope="module")
def bank_run(cirr_run, tmp_path_factory):
    """A bank stage of two epochs, with its state."""
    output = tmp_path_factory.mktemp("bank") / "run"
    return stage(cirr_run, output, *THREE_STEPS, "--num-epochs", "2", "--save-training")


def weights_of(run, name="last.pt"):
    return checkpoint.load(run / "checkpoints" / name).weights


def test_only_the_second_pass_and_the_temperature_are_trained(cirr_run, bank_run):
    before, after = weights_of(cirr_run, "best.pt"), weights_of(bank_run)
    assert all(torch.equal(before[name], after[name]) for name in before if name != "temp")
    added = {name for name in after if name not in before}
    assert added and all(name.startswith("query_branch.") for name in added)
    assert not any("crossattention" in name or "_query" in name for name in added)
    source = "backbone.text_projection.weight"
    assert not torch.equal(before[source], after["query_branch.text_projection.weight"])
    assert abs(after["temp"] - 0.05) < 0.01
    said = json.loads((bank_run / "provenance.json").read_text())["recipes"]
    assert said == [f"--stage bank, from {cirr_run}"]
    assert not [file for file in bank_run.iterdir() if file.is_file() and file.suffix == ""]


def test_its_checkpoint_opens_again_and_encodes_by_its_own_branch(bank_run):
    model, tokenizer, config = restore(checkpoint.load(bank_run / "checkpoints" / "last.pt"))
    assert config.model.query_branch == "second"
    images, text = torch.randn(2, 3, 64, 64), tokenizer(["is red", "has two dogs"])
    with torch.no_grad():
        levels = model.levels(images)
        query = model.encode_query(levels, text)[0]
        torch.testing.assert_close(model.query_of(model.encode_prompts(levels, text), text), query)
        targets = model.encode_target(levels)
        branch, model.query_branch = model.query_branch, None
        assert (model.encode_query(levels, text)[0] - query).abs().max() > 1e-4
        assert torch.equal(model.encode_target(levels), targets)
    assert not branch.first


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_first_pass_of_every_fusion_can_be_kept(bank_run, name):
    """The query of kept outputs is that of the whole model. Other outputs give another query."""
    model, tokenizer, _ = restore(checkpoint.load(bank_run / "checkpoints" / "last.pt"))
    vision, width = model.backbone.vision_width, model.backbone.width
    torch.manual_seed(0)
    model.fusion = make_fusion(
        name, vision, width, alpha_init=0.5, dropout=0.1, start="seed", blocks=1
    )
    model.eval()
    images, text = torch.randn(2, 3, 64, 64), tokenizer(["is red", "has two dogs"])
    with torch.no_grad():
        prompts = model.encode_prompts(images, text)
        query, aux = model.encode_query(images, text)
        torch.testing.assert_close(model.query_of(prompts, text), query)
        assert torch.equal(aux["prompts"], prompts)
        assert (model.query_of(prompts.flip(0), text) - query).abs().max() > 1e-4


def test_a_batch_of_one_triplet_has_all_other_images_to_learn_from(cirr_run, tmp_path):
    few = ["--limit", "2", "--batch-size", "1", "--validation-frequency", "0"]
    run = stage(cirr_run, tmp_path / "run", *few)
    steps = pd.read_csv(run / "train_steps.csv")
    assert len(steps) == 2 and (steps.loss_itc > 0).all()


@pytest.mark.parametrize("first", [False, True])
def test_every_weight_that_is_trained_is_used(cirr_run, first):
    """Processes that share gradients wait for each of them."""
    model, tokenizer, _ = restore(checkpoint.load(cirr_run))
    model.query_branch = QueryBranch(model.backbone, first=first)
    bank_stage.freeze(model)
    text = tokenizer(["is red", "has two dogs"])
    queries = model.encode_query(torch.randn(2, 3, 64, 64), text)[0]
    (
        bank_similarity(queries, torch.randn(5, 3, model.embedding_width)) / model.temp
    ).sum().backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []


@pytest.mark.parametrize("branch", ["second", "none"])
def test_a_stage_that_was_stopped_within_an_epoch_goes_on_as_if_it_had_not(
    cirr_run, bank_run, tmp_path, monkeypatch, branch
):
    """Without a branch, the bank is of the weights at the epoch's start."""
    flags = ["--num-epochs", "2", "--save-training", "--model.query-branch", branch, *THREE_STEPS]
    whole = bank_run if branch == "second" else stage(cirr_run, tmp_path / "whole", *flags)
    run = tmp_path / "run"
    interrupted(monkeypatch, flags_of(cirr_run, run, *flags, "--save-every-steps", "1"), step=4)
    kept = checkpoint.load(run / "checkpoints" / "last.pt").trainer["encoded"]
    assert ("bank" in kept) == (branch == "none")
    assert_goes_on(run, epoch=1, steps=1, whole=whole)


def test_parts_of_a_batch_give_the_same_step(cirr_run, tmp_path):
    quiet = ["--validation-frequency", "0", "--batch-size", "8"]
    runs = [stage(cirr_run, tmp_path / n, *quiet, "--accumulate", n) for n in ("1", "4")]
    first, second = (pd.read_csv(run / "train_metrics.csv").loss.item() for run in runs)
    assert first == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize("branch", ["both", "none"])
def test_the_fusion_pass_is_trained_too_where_asked(cirr_run, tmp_path, branch):
    flags = ["--model.query-branch", branch, "--bank-hardest", "3", "--loss", "rcl"]
    run = stage(cirr_run, tmp_path / "run", *flags, "--save-training", "--limit", "4")
    before, after = weights_of(cirr_run, "best.pt"), weights_of(run)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    own = "backbone.qformer.encoder.layer.0.crossattention.attention.query.weight"
    assert "fusion.alpha" in changed and (own in changed) == (branch == "none")
    assert (f"query_branch.{own.removeprefix('backbone.')}" in after) == (branch == "both")


def test_all_hardest_images_have_the_loss_of_the_whole_bank():
    logits, own = torch.randn(3, 7), torch.tensor([6, 0, 2])
    found = F.cross_entropy(*bank_stage.hardest_only(logits, own, 99))
    torch.testing.assert_close(found, F.cross_entropy(logits, own))


def test_no_right_image_is_a_wrong_one():
    """In the bank's contrast, and among the hardest images that the matcher sees."""
    triplets = [Triplet("0", "a", ("c", "b"), ("is red",)), Triplet("1", "a", ("d",), ("is",))]
    data = bank_stage.BankTriplets(
        triplets, None, seed=0, images=list("abcd"), only_numbers=True, text=lambda c, _: c[0]
    )
    right = data[[0, 1]].right
    assert sorted(right[0].tolist()) == [1, 2] and right[1].tolist() == [3, 3]
    first = right[0, 0].item()
    data.epoch = 1
    assert {first, data[[0]].right[0, 0].item()} == {1, 2}
    logits = bank_stage.without_other_right(torch.arange(8.0).reshape(2, 4), right)
    assert logits[0].isinf().tolist() == [n in (1, 2) and n != first for n in range(4)]
    assert logits[1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stage", "bank"], "name its run with --from RUN"),
        (["--bank-hardest", "5"], "--bank-hardest belongs to --stage bank; pass that"),
        (["--stage", "bank", "--rerank-easy", "4"], "--rerank-easy belongs to --stage rerank"),
        (["--stage", "rerank", "--bank-hardest", "5"], "--bank-hardest belongs to --stage bank"),
        (["--stage", "bank", "--from", "nowhere"], "there is no run at nowhere"),
    ],
)
def test_a_stage_without_a_run_is_refused(home, flags, words):
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    with pytest.raises(UserError, match=words):
        blip_fine_tune_2.main([*data, *SHORT, *flags])
