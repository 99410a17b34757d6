"""The pass that skips what nobody reads equals transformers' own, gradients included."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from gatedcir.models import qformer as passes
from gatedcir.models.qformer import qformer_pass

BATCH, QUERIES, WORDS, WIDTH, VISION = 3, 4, 6, 16, 10
FEW, MANY = 5, 12  # visual tokens; projecting these few is less work than projecting the queries
LENGTHS = {"ragged": (2, 6, 1), "full": (6, 6, 6)}


@pytest.fixture(params=["eager", "sdpa"])
def qformer(request):
    return random_qformer(request.param)


def random_qformer(attention):
    torch.manual_seed(0)
    config = Blip2QFormerConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        encoder_hidden_size=VISION,
        use_qformer_text_input=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=attention,
    )
    model = Blip2QFormerModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, which start at 0 and 1
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def inputs(lengths, tokens=MANY):
    generator = torch.Generator().manual_seed(1)
    sequence = torch.randn(BATCH, QUERIES + WORDS, WIDTH, generator=generator)
    image = torch.randn(BATCH, tokens, VISION, generator=generator)
    mask = (torch.arange(WORDS) < torch.tensor(lengths)[:, None]).long()
    return sequence, image, torch.cat([torch.ones(BATCH, QUERIES).long(), mask], 1)


def theirs(qformer, sequence, image, mask, queries=QUERIES):
    return qformer(
        query_embeds=sequence,
        query_length=queries,
        attention_mask=mask,
        encoder_hidden_states=image,
    ).last_hidden_state


def results(qformer, sequence, image, run):
    """Outputs, and the gradients of a weighted sum of them."""
    qformer.zero_grad()
    leaves = [tensor.clone().requires_grad_() for tensor in (sequence, image)]
    found = run(*leaves)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found * weights).sum().backward()
    gradients = [leaf.grad for leaf in leaves] + [p.grad for p in qformer.parameters()]
    return found, gradients


def same(qformer, lengths, *, queries, with_image, kept):
    sequence, image, mask = inputs(lengths)

    def fast(sequence, image):
        seen = image if with_image else None
        found = qformer_pass(qformer, sequence, queries=queries, mask=mask, image=seen, kept=kept)
        return found * mask[:, kept, None]

    def slow(sequence, image):
        seen = image if with_image else None
        found = theirs(qformer, sequence, seen, mask, queries)
        return (found * mask[..., None])[:, kept]

    (found, ours), (expected, others) = (
        results(qformer, sequence, image, run) for run in (fast, slow)
    )
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    for mine, right in zip(ours, others, strict=True):
        # What no output depends on has a gradient of zero there, and none here.
        if mine is None:
            assert right is None or not right.any()
        else:
            torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("kept", [slice(None), slice(0, QUERIES)])
def test_queries_and_words_with_an_image(qformer, lengths, kept):
    same(qformer, lengths, queries=QUERIES, with_image=True, kept=kept)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("kept", [slice(None), slice(0, 1), slice(QUERIES, QUERIES + 1)])
def test_words_alone(qformer, lengths, kept):
    same(qformer, lengths, queries=0, with_image=False, kept=kept)


@pytest.mark.parametrize("kept", [slice(None), slice(0, QUERIES)])
def test_the_pass_of_gpus_is_the_same(qformer, kept, monkeypatch):
    sequence, image, mask = inputs(LENGTHS["ragged"])
    options = {"queries": QUERIES, "mask": mask, "image": image, "kept": kept}
    found = qformer_pass(qformer, sequence, **options)
    monkeypatch.setattr(passes, "saves_arithmetic", lambda device: False)
    expected = qformer_pass(qformer, sequence, **options)
    counts = mask[:, kept].bool()
    torch.testing.assert_close(found[counts], expected[counts], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("tokens", [FEW, MANY])
def test_queries_alone(qformer, tokens):
    sequence, image, _ = inputs((1, 1, 1), tokens)
    queries = sequence[:, :QUERIES]
    found = qformer_pass(qformer, queries, queries=QUERIES, image=image)
    expected = qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_half_precision_costs_what_it_costs_transformers(qformer):
    """In the outputs that count, and in the gradients."""
    sequence, image, mask = inputs(LENGTHS["ragged"])

    def wanted(run):
        return lambda *inputs: run(*inputs) * mask[..., None]

    def own(sequence, image):
        with torch.autocast("cpu", torch.bfloat16):
            return qformer_pass(qformer, sequence, queries=QUERIES, mask=mask, image=image)

    def other(sequence, image):
        with torch.autocast("cpu", torch.bfloat16):
            return theirs(qformer, sequence, image, mask)

    runs = (lambda *inputs: theirs(qformer, *inputs, mask), own, other)
    exact, ours, others = (in_one(results(qformer, sequence, image, wanted(run))) for run in runs)
    for right, mine, its in zip(exact, ours, others, strict=True):
        assert 0 < (mine - right).norm() < 2 * (its - right).norm()


def in_one(found):
    """Outputs, and all gradients as one vector."""
    output, gradients = found
    known = [torch.zeros(0) if g is None else g.flatten() for g in gradients]
    return output.flatten(), torch.cat(known)


def test_attention_drops_what_transformers_drops(monkeypatch):
    """From the same random numbers; in eager mode, where both draw for the same weights."""
    qformer = random_qformer("eager")
    monkeypatch.setattr(passes, "dropout", lambda x, p, *, training: F.dropout(x, p, training))
    for module in qformer.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    sequence, image, mask = inputs(LENGTHS["full"])
    torch.manual_seed(0)
    found = qformer_pass(qformer, sequence, queries=QUERIES, mask=mask, image=image)
    torch.manual_seed(0)
    torch.testing.assert_close(found, theirs(qformer, sequence, image, mask), atol=5e-6, rtol=1e-5)
    assert not torch.allclose(found, theirs(qformer.eval(), sequence, image, mask), atol=0.1)


def test_a_pass_draws_nothing_by_torch_itself(monkeypatch):
    qformer = random_qformer("eager").train()
    for module in qformer.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    sequence, image, mask = inputs(LENGTHS["ragged"])
    shares = []

    def counted(x, p, *, training):
        assert training
        shares.append(p)
        return x

    monkeypatch.setattr(passes, "dropout", counted)
    found = qformer_pass(qformer, sequence, queries=QUERIES, mask=mask, image=image)
    qformer.eval()
    monkeypatch.undo()
    expected = qformer_pass(qformer, sequence, queries=QUERIES, mask=mask, image=image)
    assert torch.equal(found, expected)
    assert shares and set(shares) == {0.5}


def test_compiled_passes_keep_the_shapes_of_padded_texts(qformer, monkeypatch):
    sequence, image, mask = inputs(LENGTHS["ragged"])
    shapes = []
    feed_forward = qformer.encoder.layer[0].intermediate
    feed_forward.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda value=compiling: value)
        found.append(
            qformer_pass(qformer, sequence, queries=QUERIES, mask=mask, image=image)
            * mask[..., None]
        )
    torch.testing.assert_close(*found, atol=2e-6, rtol=1e-5)
    assert [shape[0] for shape in shapes] == [sum(LENGTHS["ragged"]), BATCH * WORDS]


def test_cpus_alone_save_arithmetic():
    assert passes.saves_arithmetic(torch.device("cpu"))
    assert not passes.saves_arithmetic(torch.device("cuda"))
