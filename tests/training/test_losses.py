"""The loss terms against slow loops and hand-counted values."""

import math

import pytest
import torch
import torch.nn.functional as F

from gatedcir.training.losses import (
    CHANCES,
    CONTRASTS,
    complementary,
    composed_losses,
    contrastive,
    token_similarity,
)


def features(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def slow_contrastive(logits, labels, target_ids):
    """Each query's loss, with the other copies of its target taken out of the sum."""
    rows = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        kept = [
            math.exp(value)
            for column, value in enumerate(row)
            if column == label or target_ids[column] != target_ids[label]
        ]
        rows.append(math.log(sum(kept)) - row[label])
    return rows


def terms(**changes):
    batch, width, embedding = 4, 6, 5
    values = {
        "query": features(batch, embedding),
        "text": features(batch, embedding, seed=1),
        "targets": features(batch, 3, embedding, seed=2),
        "labels": torch.arange(batch),
        "target_ids": torch.arange(batch),
        "fusion_mean": features(batch, width, seed=3),
        "prompt_mean": features(width, seed=4),
        "temperature": torch.tensor(0.07),
    }
    return composed_losses(**{**values, **changes})


def test_token_similarity_equals_a_double_loop():
    query, targets = features(3, 5), features(4, 6, 5, seed=1)
    found = token_similarity(query, targets)
    assert found.shape == (3, 4)
    for b in range(3):
        for g in range(4):
            best = max(float(query[b] @ token) for token in targets[g])
            assert float(found[b, g]) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_uninformative_features_give_log_b(value):
    found = terms(
        query=torch.full((4, 5), value),
        text=torch.full((4, 5), value),
        targets=torch.full((4, 3, 5), value),
    )
    assert float(found["loss_itc"]) == pytest.approx(math.log(4))
    assert float(found["loss_rtc"]) == pytest.approx(math.log(4))


def test_contrastive_terms_use_the_query_and_the_text():
    query, text, targets = features(4, 5), features(4, 5, seed=1), features(4, 3, 5, seed=2)
    found = terms(temperature=torch.tensor(0.5))
    labels = torch.arange(4)
    for name, source in (("loss_itc", query), ("loss_rtc", text)):
        rows = slow_contrastive(token_similarity(source, targets) / 0.5, labels, range(4))
        assert float(found[name]) == pytest.approx(sum(rows) / 4, rel=1e-5)
    assert set(found) == {"loss_itc", "loss_rtc", "loss_align"}


def test_copies_of_the_target_are_no_negatives():
    ids = torch.tensor([7, 8, 7, 9])
    # The two queries of image 7 see three images, the others all four.
    expected = (2 * math.log(3) + 2 * math.log(4)) / 4
    found = contrastive(torch.zeros(4, 4), torch.arange(4), ids)
    assert float(found) == pytest.approx(expected)
    only_copies = contrastive(torch.zeros(2, 4), torch.tensor([0, 2]), ids)
    assert float(only_copies) == pytest.approx(math.log(3))


def test_the_own_column_counts_and_a_copy_gets_no_gradient():
    logits = torch.zeros(1, 4, requires_grad=True)
    contrastive(logits, torch.tensor([2]), torch.tensor([7, 8, 7, 9])).backward()
    third = 1 / 3
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, third, third - 1, third]]))


def test_a_batch_of_one_target_has_nothing_to_tell_apart():
    found = contrastive(features(3, 3), torch.arange(3), torch.zeros(3, dtype=torch.long))
    assert float(found) == 0.0


def test_offset_labels_equal_rows_of_the_square_problem():
    half = 3
    logits = 5 * features(2 * half, 2 * half)
    ids = torch.tensor([0, 1, 2, 1, 3, 0])  # copies lie in the other process' half
    labels = torch.arange(2 * half)
    rows = slow_contrastive(logits, labels, ids)
    first = contrastive(logits[:half], labels[:half], ids)
    second = contrastive(logits[half:], torch.arange(half) + half, ids)
    assert float(first) == pytest.approx(sum(rows[:half]) / half, rel=1e-5)
    assert float(second) == pytest.approx(sum(rows[half:]) / half, rel=1e-5)
    whole = contrastive(logits, labels, ids)
    assert float(whole) == pytest.approx(float(first + second) / 2, rel=1e-5)


def test_offset_labels_in_all_terms():
    query, targets = features(2, 5), features(4, 3, 5, seed=2)
    found = terms(
        query=query,
        text=query,
        targets=targets,
        labels=torch.arange(2) + 2,
        fusion_mean=features(2, 6, seed=3),
    )
    logits = token_similarity(query, targets) / 0.07
    rows = slow_contrastive(logits, torch.tensor([2, 3]), range(4))
    assert float(found["loss_itc"]) == pytest.approx(sum(rows) / 2, rel=1e-4)
    assert float(found["loss_rtc"]) == pytest.approx(sum(rows) / 2, rel=1e-4)


def test_alignment_by_hand():
    fusion = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    loss = terms(fusion_mean=fusion, prompt_mean=torch.tensor([1.0, 0.0]))["loss_align"]
    # Squared distances 4, 4 + 16, 1 and 1 over 4 x 2 entries.
    assert float(loss.detach()) == pytest.approx(26 / 8)
    loss.backward()
    expected = torch.tensor([[0.0, 2.0], [2.0, 4.0], [-1.0, 0.0], [0.0, 1.0]]) * 2 / 8
    torch.testing.assert_close(fusion.grad, expected)


def test_gradients_of_the_contrastive_terms():
    query = features(4, 5).requires_grad_()
    text = features(4, 5, seed=1).requires_grad_()
    targets = features(4, 3, 5, seed=2).requires_grad_()
    temperature = torch.tensor(0.07, requires_grad=True)
    found = terms(query=query, text=text, targets=targets, temperature=temperature)
    found["loss_itc"].backward(retain_graph=True)
    assert query.grad.any()
    assert text.grad is None
    assert targets.grad.any()
    assert temperature.grad.abs() > 0
    found["loss_rtc"].backward()
    assert text.grad.any()


def test_the_complementary_loss_equals_a_double_loop_and_never_grows_without_bound():
    logits, labels = 5 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), [1, 0, 5]
    rows = []
    for row, label in zip(logits.double().softmax(1).tolist(), labels, strict=True):
        rows.append(-sum(math.log(1 - p) for j, p in enumerate(row) if j != label))
    found = complementary(logits, torch.tensor(labels))
    assert float(found) == pytest.approx(sum(rows) / 3, rel=1e-5)
    wrong = torch.tensor([[200.0, 0.0]]).requires_grad_()
    loss = complementary(wrong, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-7), rel=0.02)  # cross-entropy gives 200
    assert wrong.grad.abs().max() == 0


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_guess_has_the_loss_of_chance(name):
    found = contrastive(torch.zeros(8, 8), torch.arange(8), torch.arange(8), contrast=name)
    assert float(found) == pytest.approx(CHANCES[name](8), rel=1e-5)


@pytest.mark.parametrize("name", CONTRASTS)
def test_no_contrast_pushes_copies_of_the_target_away(name):
    logits = torch.zeros(1, 4, requires_grad=True)
    ids = torch.tensor([7, 8, 7, 9])
    contrastive(logits, torch.tensor([2]), ids, contrast=name).backward()
    assert logits.grad[0, 0] == 0 and logits.grad[0, 1] > 0 and logits.grad[0, 2] < 0
