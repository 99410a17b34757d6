"""The four Q-Former passes, losses and gradients against the published model's numbers."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import encode_triplets
from safetensors.torch import load_file

from gatedcir.assemble.model import build, open_trained
from gatedcir.models import backbone
from gatedcir.models.gated_fusion.gated import GatedFusion
from gatedcir.models.qformer import qformer_pass
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.models.weights.names import BACKBONE, FUSIONS, from_sprc
from gatedcir.models.weights.sources import load
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.search.exact import TokenIndex
from gatedcir.training.losses import composed_losses, token_similarity

FIXTURES = Path(__file__).parents[1] / "fixtures"


def close(found, expected, tolerance=2e-6):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def near(found, expected):
    """Equal within 2e-6 of the largest value: hidden states reach 11, features stay below 1."""
    close(found, expected, 2e-6 * max(1.0, expected.abs().max().item()))


class Seen(NamedTuple):
    """What the Q-Former sees and gives in one pass."""

    embedded: torch.Tensor  # normalised
    hidden: torch.Tensor  # last
    kept: slice
    mask: torch.Tensor | None

    def near(self, golden, name):
        """Equal to the published numbers, where outputs are wanted and tokens count."""
        embedded, expected = golden[f"embeddings_{name}"], golden[f"{name}_last_hidden_state"]
        if name == "text_only":  # published with the [CLS] before the prompts
            order = [*range(1, 33), 0, *range(33, embedded.shape[1])]
            embedded, expected = embedded[:, order], expected[:, order]
        count = embedded.shape[1]
        near(self.embedded[:, :count], embedded)
        if self.mask is not None:
            expected = expected * self.mask[:, :count, None]
        near(self.hidden, expected[:, self.kept])

    def halves(self):
        """Two passes that ran as one."""
        return (
            Seen(self.embedded[rows], self.hidden[rows], self.kept, self.mask[rows])
            for rows in (slice(4), slice(4, None))
        )


@pytest.fixture
def seen(published, monkeypatch):
    """All passes of a test."""
    embedded: list[torch.Tensor] = []
    passes: list[Seen] = []
    norm = published[0].backbone.qformer.layernorm
    norm.register_forward_hook(lambda module, args, output: embedded.append(output))

    def watched(*inputs, kept=slice(None), mask=None, **options):
        hidden = qformer_pass(*inputs, kept=kept, mask=mask, **options)
        passes.append(Seen(embedded[-1], hidden, kept, mask))
        return hidden

    monkeypatch.setattr(backbone, "qformer_pass", watched)
    return passes


def test_captions_become_the_published_tokens(sprc_file, published):
    facts = json.loads((FIXTURES / "sprc_tiny.json").read_text())
    tokens = open_trained(str(sprc_file))[1](facts["texts"])
    assert torch.equal(tokens.input_ids, published[3].input_ids)
    assert torch.equal(tokens.attention_mask, published[3].attention_mask)


def test_vision_tokens_equal_the_published(published, golden):
    model, images, targets, _ = published
    near(model.levels(images)[0], golden["vit_raw_reference"])
    near(model.levels(targets)[0], golden["vit_raw_target"])
    near(model.visual_tokens(images)[0], golden["image_embeds_reference"])
    near(model.visual_tokens(targets)[0], golden["image_embeds_target"])
    near(model.visual_tokens(targets)[0], golden["extract_target_embeds"])


def mask_of(text, queries=32):
    return torch.cat([torch.ones(len(text.input_ids), queries).long(), text.attention_mask], 1)


def test_the_fusion_pass_alone(published, golden, seen):
    backbone, text = published[0].backbone, published[3]
    words = backbone.at_positions(backbone.embed_words(text.input_ids))
    sequence = torch.cat([backbone.query_tokens.expand(4, -1, -1), words], 1)
    backbone.query_pass(sequence, image=golden["image_embeds_reference"], mask=mask_of(text))
    seen[0].near(golden, "fusion")


def test_the_text_pass_alone(published, golden, seen):
    backbone, text = published[0].backbone, published[3]
    prompts = golden["fusion_last_hidden_state"][:, :32]
    words = backbone.at_positions(backbone.embed_words(text.input_ids))
    sequence = torch.cat([prompts, words], 1)
    backbone.text_pass(sequence, mask=mask_of(text))
    seen[0].near(golden, "text")


def test_the_target_pass_alone(published, golden, seen):
    backbone = published[0].backbone
    queries = backbone.query_tokens.expand(4, -1, -1)
    backbone.query_pass(queries, image=golden["image_embeds_target"])
    seen[0].near(golden, "target")


def test_the_prompt_only_pass_alone(published, golden, seen):
    model, _, _, text = published
    close(model.encode_text(text), golden["text_only_feat"])
    seen[0].near(golden, "text_only")


def test_the_passes_together(published, golden, seen):
    model, images, targets, text = published
    encode_triplets(model, images, targets, text)
    first, second = seen
    fusion, target = first.halves()
    text, text_only = second.halves()
    assert not target.mask[:, 32:].any()
    fusion.near(golden, "fusion")
    target.near(golden, "target")
    text.near(golden, "text")
    text_only.near(golden, "text_only")


def test_features_equal_the_published(published, golden):
    model, images, targets, text = published
    found = encode_triplets(model, images, targets, text)
    close(found.query, golden["fusion_feats"])
    close(found.targets, golden["target_feats"])
    close(found.text, golden["text_only_feat"])
    close(found.fusion_mean, golden["fusion_last_hidden_state"][:, :32].mean(1))
    close(token_similarity(found.query, found.targets), golden["sim_i2t"])
    close(token_similarity(found.text, found.targets), golden["sim_r2t"])


@torch.no_grad()
def test_inference_equals_the_published(published, golden):
    model, images, targets, text = published
    features, queries = model.encode_target(targets), model.encode_query(images, text)[0]
    close(features, golden["extract_target_features"])
    close(queries, golden["fusion_feats"])
    index = TokenIndex(dim=features.shape[2], tokens_per_image=features.shape[1], on_gpu=False)
    index.add(features)
    scores, found = index.search(queries, 4)
    for name in ("inference", "inference_one_by_one"):
        best = golden[name].sort(dim=1, descending=True, stable=True)
        assert found.tolist() == best.indices.tolist()
        close(torch.as_tensor(scores), best.values)
    for row in range(4):  # one query at a time, as a user asks
        one = Tokens(text.input_ids[row : row + 1], text.attention_mask[row : row + 1])
        alone = model.encode_query(images[row : row + 1], one)[0]
        close(token_similarity(alone, features)[0], golden["inference_one_by_one"][row])


def losses_of(published):
    model, images, targets, text = published
    found = encode_triplets(model, images, targets, text)
    return composed_losses(
        query=found.query,
        text=found.text,
        targets=found.targets,
        labels=torch.arange(4),
        target_ids=torch.arange(4),
        fusion_mean=found.fusion_mean,
        prompt_mean=found.prompt_mean,
        temperature=model.temp,
    )


def test_losses_and_gradients_equal_the_published(published, golden):
    model = published[0]
    losses = losses_of(published)
    assert losses.keys() == {"loss_itc", "loss_rtc", "loss_align"}
    for name, value in losses.items():
        close(value, golden[name], 5e-6)
    (losses["loss_itc"] + 0.4 * losses["loss_rtc"] + 0.4 * losses["loss_align"]).backward()
    gradients = dict(model.named_parameters())
    compared = 0
    for name, expected in from_sprc(load_file(FIXTURES / "sprc_tiny_grads.safetensors")).items():
        # The true gradient of a key's bias is zero: what is there is rounding.
        if name.endswith(".key.bias"):
            continue
        found = gradients[name].grad
        assert (found - expected).norm() <= 2e-5 * expected.norm() + 1e-9, name
        compared += 1
    assert compared > 100


def test_padding_does_not_change_features(published):
    model, images, _, text = published
    short = Tokens(text.input_ids[:3, :11], text.attention_mask[:3, :11])
    whole = Tokens(text.input_ids[:3], text.attention_mask[:3])
    assert whole.attention_mask[:, 11:].sum() == 0
    close(model.encode_query(images[:3], short)[0], model.encode_query(images[:3], whole)[0], 1e-6)
    close(model.encode_text(short), model.encode_text(whole), 1e-6)


def test_levels_and_pixels_encode_alike(published):
    model, images, _, text = published
    levels = model.levels(images)
    assert torch.equal(model.encode_query(images, text)[0], model.encode_query(levels, text)[0])
    assert torch.equal(model.encode_target(images), model.encode_target(levels))


def test_a_step_looks_up_its_words_once(published):
    model, images, targets, text = published
    looks = []
    table = model.backbone.embeddings.word_embeddings
    hook = table.register_forward_hook(lambda *_: looks.append(1))
    encode_triplets(model, images, targets, text)
    hook.remove()
    assert len(looks) == 1


def test_identity_start_changes_nothing(published):
    model, images, _, text = published
    fusion = GatedFusion(48, 64, start="identity").eval()
    gated = ComposedRetriever(model.backbone, fusion=fusion).eval()
    assert torch.equal(gated.encode_query(images, text)[0], model.encode_query(images, text)[0])
    seed = ComposedRetriever(model.backbone, fusion=GatedFusion(48, 64)).eval()
    assert not torch.allclose(
        seed.encode_query(images, text)[0], model.encode_query(images, text)[0], atol=1e-3
    )


def test_only_the_vision_blocks_are_frozen(published):
    frozen = {n for n, p in published[0].named_parameters() if not p.requires_grad}
    assert frozen
    parts = ("backbone.vision_model.embeddings", "backbone.vision_model.encoder")
    assert all(name.startswith((*parts, "backbone.itm_head")) for name in frozen)
    assert published[0].backbone.vision_model.post_layernorm.weight.requires_grad


@pytest.mark.parametrize("layers", [(4,), (-5,), ()])
def test_a_layer_that_is_not_there_is_refused(published, layers):
    model, images, *_ = published
    with pytest.raises(ValueError, match="4 blocks"):
        model.backbone.vision_levels(images, layers)


def test_layers_are_counted_as_in_a_list(published):
    model, images, *_ = published
    last, first = model.backbone.vision_levels(images, (-1, 0))
    also_last, also_first = model.backbone.vision_levels(images, (3, -4))
    assert torch.equal(first, also_first) and torch.equal(last, also_last)
    assert not torch.equal(first, last)


def test_a_resized_tower_counts_its_patches_and_keeps_the_positions_of_its_own_size():
    tower = load("tiny").backbone
    own = tower.vision_model.embeddings.position_embedding.detach().clone()
    tower.resize(tower.image_size)
    assert torch.equal(tower.vision_model.embeddings.position_embedding, own)
    tower.resize(24)
    embeddings = tower.vision_model.embeddings
    assert (embeddings.num_patches, embeddings.num_positions) == (9, 10)
    assert embeddings.position_embedding.shape[1] == tower.token_count() == 10
    assert tower.image_size == embeddings.image_size == 24


def test_the_names_of_weights_begin_as_they_are_declared():
    names = build(parse(Config, ["--dataset", "CIRR"], description=""))[0].state_dict()
    others = {name for name in names if not name.startswith((BACKBONE, *FUSIONS))}
    assert others == {"prompt_tokens", "temp"}
    assert any(name.startswith(FUSIONS[0]) for name in names)


def test_a_fusion_may_read_the_q_formers_own_text(published):
    model, images, _, text = published
    read = []

    class Reading(GatedFusion):
        def forward(self, image, words, mask):
            read.append(words)
            return super().forward(image, words, mask)

    torch.manual_seed(0)
    fused = ComposedRetriever(
        model.backbone, fusion=Reading(48, 64, start="identity"), reads="qformer"
    ).eval()
    assert torch.equal(fused.encode_query(images, text)[0], model.encode_query(images, text)[0])
    embedded = model.backbone.at_positions(model.backbone.embed_words(text.input_ids))
    mask = text.attention_mask
    expected = model.backbone.qformer(
        query_embeds=embedded, query_length=0, attention_mask=mask, use_cache=False
    ).last_hidden_state
    counts = mask.bool()
    close(read[0][counts], expected[counts])
