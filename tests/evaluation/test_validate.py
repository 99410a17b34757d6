"""The evaluator against the model called by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gatedcir.benchmarks.cirr import CIRR
from gatedcir.benchmarks.fashioniq import FASHIONIQ
from gatedcir.data.sources import FeatureSource
from gatedcir.data.transforms import make_transform
from gatedcir.data.triplets import Split, Triplet
from gatedcir.device import Device
from gatedcir.errors import UserError
from gatedcir.evaluation.evaluator import Evaluator, validate, validate_each
from gatedcir.evaluation.ranking import rank
from gatedcir.models.backbone import Backbone
from gatedcir.models.gated_fusion.gated import GatedFusion
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.search.exact import TokenIndex
from gatedcir.visual import move

CPU = torch.device("cpu")


def tokenizer(texts):
    """One token a word, so that the padding depends on the batch."""
    ids = [torch.tensor([1, *(2 + sum(map(ord, w)) % 20 for w in t.split())]) for t in texts]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return Tokens(padded, (padded > 0).long())


@pytest.fixture(scope="module")
def model():
    """Two Q-Former layers of width 8, with weights large enough to tell images apart."""
    torch.manual_seed(0)
    small = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    backbone = Backbone.from_config(
        {
            "vision_config": {**small, "num_hidden_layers": 1, "image_size": 4, "patch_size": 2},
            "qformer_config": {
                **small,
                "num_hidden_layers": 2,
                "vocab_size": 30,
                "max_position_embeddings": 16,
                "use_qformer_text_input": True,
            },
            "num_query_tokens": 3,
            "image_text_hidden_size": 6,
        }
    )
    built = ComposedRetriever(backbone, fusion=GatedFusion(8, 8, dropout=0.5))
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.6)
    return built.eval()


@pytest.fixture(scope="module")
def split():
    """Nine queries over twelve images, their texts of different lengths."""
    rng = np.random.default_rng(5)
    names = tuple(f"image-{number}" for number in range(12))
    texts = ["red", "much more of it than there", "two dogs", "no sky at all"]
    triplets = []
    for number in range(9):
        group = tuple(rng.choice(names, 6, replace=False).tolist())
        text = f"{texts[number % 4]} {number}"
        triplets.append(Triplet(str(number), group[3], (group[1],), (text,), group))
    paths = {name: Path(name) for name in names}
    return Split("CIRR val", tuple(triplets), names, paths, "by hand", reference_removed=True)


@pytest.fixture(scope="module")
def source(split):
    """Hand-made features of the tower's last layer: 5 visual tokens of width 8."""
    torch.manual_seed(1)
    rows = {name: row for row, name in enumerate(sorted(split.gallery))}
    return FeatureSource(rows, [torch.randn(len(rows), 5, 8)])


def evaluator_of(model, source, batch_size=4, benchmark=CIRR):
    transform = make_transform("targetpad", size=4)
    return Evaluator(model, tokenizer, source, transform, benchmark, batch_size)


def image_by_image(model, split, source):
    """Gallery and query features with batches of one, without the evaluator."""
    with torch.no_grad():
        gallery = [model.encode_target([source[n][0][None]]) for n in split.gallery]
        queries = [
            model.encode_query([source[t.reference][0][None]], tokenizer(t.captions))[0]
            for t in split.triplets
        ]
    return torch.cat(gallery), torch.cat(queries)


@pytest.mark.parametrize("batch_size", [1, 4, 9, 100])
def test_features_do_not_depend_on_the_batch(model, split, source, batch_size):
    gallery, queries = image_by_image(model, split, source)
    assert torch.cdist(queries, queries).topk(2, largest=False)[0][:, 1].min() > 1e-3
    assert gallery.std(0).mean() > 0.05
    evaluator = evaluator_of(model, source, batch_size)
    index, own = evaluator.encode(split)
    torch.testing.assert_close(own, queries, atol=1e-5, rtol=0)
    assert len(index) == len(split.gallery)
    everything = np.tile(np.arange(len(split.gallery)), (len(queries), 1))
    expected = torch.einsum("gqe,me->mgq", gallery, queries).max(-1).values
    found = index.similarity(queries, everything)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


class Pixels(dict):
    """Images by name, without files."""

    reads_files = on_gpu = False


def test_pixels_and_their_cached_features_agree(model, split):
    torch.manual_seed(2)
    pixels = Pixels({name: torch.randn(3, 4, 4) for name in split.gallery})
    with torch.no_grad():
        [level] = model.levels(torch.stack(list(pixels.values())))
    cached = FeatureSource({name: row for row, name in enumerate(pixels)}, [level])
    _, direct = evaluator_of(model, pixels).encode(split)
    _, found = evaluator_of(model, cached).encode(split)
    torch.testing.assert_close(found, direct, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kept", [12, 7, 4])
def test_every_image_is_read_and_encoded_once(model, split, source, kept):
    """Also where references are outside the gallery, as FashionIQ's may be."""
    read, encoded = [], []

    class Counted(dict):
        reads_files = on_gpu = False

        def __getitem__(self, name):
            read.append(name)
            return [source[name][0]]

    class Tower:
        def __getattr__(self, name):
            return getattr(model, name)

        def levels(self, images, **options):
            encoded.append(len(images[0]))
            return model.levels(images, **options)

    names = split.gallery[:kept]
    part = replace(split, gallery=names, reference_removed=False)
    index, queries = evaluator_of(Tower(), Counted()).encode(part)
    used = {*names, *(triplet.reference for triplet in split.triplets)}
    assert sorted(read) == sorted(used)
    assert sum(encoded) == len(used)
    assert len(index) == kept
    torch.testing.assert_close(queries, image_by_image(model, split, source)[1], atol=1e-5, rtol=0)


def test_validation_equals_the_steps_by_hand(model, split, source):
    gallery, queries = image_by_image(model, split, source)
    index = TokenIndex(dim=6, tokens_per_image=3)
    index.add(gallery)
    expected = CIRR.measure([rank(split, index, queries)])
    assert 0 < expected["recall_at5"] < 100
    assert validate(evaluator_of(model, source), [split]) == expected


@pytest.mark.parametrize("training", [True, False])
def test_validation_is_without_dropout_and_restores_the_mode(model, split, source, training):
    evaluator = evaluator_of(model, source)
    expected = validate(evaluator, [split])
    seen = []

    def watch(images, texts):
        seen.append(any(module.training for module in model.modules()))
        return model.encode_query(images, tokenizer(texts))[0]

    try:
        model.train(training)
        for _ in range(2):
            assert validate(evaluator, [split], watch) == expected
            assert all(module.training == training for module in model.modules())
        assert seen == [False] * 8
    finally:
        model.eval()


def test_the_mode_is_restored_after_an_error(model, split, source):
    def fails(images, texts):
        raise UserError("no features; try again.")

    try:
        model.train()
        with pytest.raises(UserError, match="no features"):
            validate(evaluator_of(model, source), [split], fails)
        assert model.training
    finally:
        model.eval()


def test_another_encoder_gets_references_with_their_texts(model, split, source):
    """An encoder that knows the answers finds all of them, whatever the batch."""
    triplets = {triplet.captions[0]: triplet for triplet in split.triplets}

    def oracle(images, texts):
        asked = [triplets[text] for text in texts]
        references = torch.stack([source[triplet.reference][0] for triplet in asked])
        assert torch.equal(images[0], references)
        targets = torch.stack([source[triplet.target][0] for triplet in asked])
        return model.encode_target([targets])[:, 1]  # of norm 1, so nothing is more similar

    found = validate(evaluator_of(model, source), [split], oracle)
    assert found["recall_at1"] == found["group_recall_at1"] == found["mean(R@5+R_s@1)"] == 100


def test_several_splits_are_ranked_apart(model, source, split):
    alone = tuple(replace(triplet, group=()) for triplet in split.triplets)
    parts = [
        replace(split, name=name, category=name, triplets=some, reference_removed=False)
        for name, some in (("dress", alone[:4]), ("shirt", alone[4:]))
    ]
    found = validate(evaluator_of(model, source, benchmark=FASHIONIQ), parts)
    for part in parts:
        category = part.category
        own = validate(evaluator_of(model, source, benchmark=FASHIONIQ), [part])
        assert own[f"{category}_recall_at10"] == found[f"{category}_recall_at10"]
    assert found["average_recall_at50"] == 100  # twelve images


def test_an_explanation_is_what_the_query_saw(model):
    pixels = torch.randn(2, 3, 4, 4)
    texts = ["red", "two dogs"]
    aux = evaluator_of(model, {}).explain(pixels, texts)
    with torch.no_grad():
        expected = model.encode_query(pixels, tokenizer(texts))[1]
    assert aux["gate"].shape == (2, 5, 8)
    torch.testing.assert_close(aux["gate"], expected["gate"])


def test_without_the_gate_the_text_changes_no_token(model, split, source):
    """The same as alpha = 0, in one pass with the model as it is, over one gallery."""
    evaluator = evaluator_of(model, source)
    encoders = [evaluator.encode_query, evaluator.encode_without_gate]
    index, (with_gate, without) = evaluator.encode_each(split, encoders)
    torch.testing.assert_close(
        with_gate, image_by_image(model, split, source)[1], atol=1e-5, rtol=0
    )
    alpha = model.fusion.alpha.item()
    with torch.no_grad():
        model.fusion.alpha.fill_(0)
        expected = image_by_image(model, split, source)[1]
        model.fusion.alpha.fill_(alpha)
    torch.testing.assert_close(without, expected, atol=1e-5, rtol=0)
    assert (with_gate - without).abs().max() > 1e-3
    assert validate_each(evaluator, [split], encoders) == [
        CIRR.measure([rank(split, index, queries)]) for queries in (with_gate, without)
    ]


def test_only_the_kept_tokens_are_changed(model):
    images, text = [torch.randn(2, 5, 8)], tokenizer(["red", "two dogs"])
    keep = torch.tensor([[True, False, True, False, False], [False, True, True, False, True]])
    with torch.no_grad():
        whole, aux = model.encode_query(images, text)
        every, _ = model.encode_query(images, text, keep=torch.ones_like(keep))
        some, some_aux = model.encode_query(images, text, keep=keep)
        torch.testing.assert_close(every, whole, atol=0, rtol=0)
        torch.testing.assert_close(some_aux["gate"], aux["gate"])
        fused, _ = model.fusion(*_fusion_inputs(model, images, text))
        tokens = model.visual_tokens(images)[0]
        mixed = torch.where(keep[..., None], fused, tokens)
        fusion, model.fusion = model.fusion, Fixed(mixed)
        expected, _ = model.encode_query(images, text)
        model.fusion = fusion
    torch.testing.assert_close(some, expected)
    assert (some - whole).abs().max() > 1e-3


class Fixed(nn.Module):
    """A fusion that always gives the same tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, image, text, text_mask):
        return self.tokens, {}


def _fusion_inputs(model, images, text):
    words = model.backbone.at_positions(model.backbone.embed_words(text.input_ids))
    tokens = model.visual_tokens(images)[0]
    return tokens, model.backbone.normalise_text(words), text.attention_mask


def test_autocast_only_where_a_precision_is_named():
    ones = torch.ones(2, 2)
    for precision, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        with Device(CPU, precision).autocast():
            assert (ones @ ones).dtype == expected


def test_moving_keeps_the_kind_of_images():
    pixels, levels = torch.ones(1, 3, 2, 2), [torch.ones(1, 5, 8), torch.zeros(1, 5, 8)]
    assert torch.equal(move(pixels, CPU), pixels)
    moved = move(levels, CPU)
    assert len(moved) == 2 and all(map(torch.equal, moved, levels))
    assert [level.device.type for level in move(levels, torch.device("meta"))] == ["meta"] * 2
