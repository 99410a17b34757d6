"""Reproduce SPRC step by step: four passes, three losses, a few steps, an evaluation."""

# %% [markdown]
# # Reproduce SPRC step by step
#
# This tutorial walks through SPRC (Bai et al., ICLR 2024), the model that gatedcir starts from.
# It uses the tiny model inside the package and synthetic images. It takes seconds on a CPU.
# The last section has the commands that do the same at real size.
#
# Shapes: B batch, L visual tokens, Q query tokens, T text tokens, D Q-Former width,
# E embedding width.

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from gatedcir.assemble.data import load_data, make_source
from gatedcir.assemble.evaluator import make_evaluator
from gatedcir.data.batches import TripletDataset
from gatedcir.evaluation.evaluator import validate
from gatedcir.options.config import DataConfig
from gatedcir.pretrained import TrainedRetriever
from gatedcir.synthetic.layouts import write_cirr
from gatedcir.training.losses import composed_losses, token_similarity

torch.manual_seed(0)

# %% [markdown]
# ## A small data set
#
# The generator writes scenes of shapes in CIRR's layout. `gatedcir synthetic` does the same.

# %%
place = tempfile.TemporaryDirectory()
folder = Path(place.name) / "cirr_dataset"
for line in write_cirr(folder, {"train": 96, "val": 48, "test": 6}, seed=0):
    print(line)

# %% [markdown]
# ## The model
#
# `tiny` has no gated fusion, so it is the published model at a small size.
# SPRC's published file is opened in the same way, by its path.

# %%
trained = TrainedRetriever.from_pretrained("tiny")
model, tokenizer = trained.model, trained.tokenizer
backbone = model.backbone
config = replace(
    trained.config,
    data=DataConfig("CIRR", folder, num_workers=0),
    optim=replace(trained.config.optim, mixed_precision="fp32"),
)

train, val = load_data(config.data, "train", "val")
images = make_source(config, model, [*train, *val])
triplets = TripletDataset(train[0].triplets, images, seed=0)
batch = triplets[list(range(8))]
text = tokenizer(batch.texts)
print(batch.texts[0])

# %% [markdown]
# A batch holds each image once. `batch.references` and `batch.targets` say which image belongs to
# which triplet. The frozen vision tower has already turned the images into tokens.

# %%
with torch.no_grad():
    tokens, _ = model.visual_tokens(batch.images)  # [images, L, Dv]
reference, target = tokens[batch.references], tokens[batch.targets]  # [B, L, Dv]
queries = backbone.query_tokens.expand(len(reference), -1, -1)  # [B, Q, D]
Q = queries.shape[1]
words = backbone.embed_words(text.input_ids)  # [B, T, D]
mask = F.pad(text.attention_mask, (Q, 0), value=1)  # [B, Q + T], the queries always count

# %% [markdown]
# ## Pass 1: fusion
#
# The queries read the reference image, and they see the text. Their outputs are the sentence
# prompts.

# %%
placed = backbone.at_positions(words)
prompts = backbone.query_pass(
    torch.cat([queries, placed], 1), image=reference, mask=mask, kept=slice(0, Q)
)  # [B, Q, D]

# %% [markdown]
# ## Pass 2: text
#
# The prompts stand in front of the text. No image is read here. The output at the text's `[CLS]`,
# which stands at place Q, is the feature of the query.

# %%
second = torch.cat([prompts, placed], 1)
cls = backbone.text_pass(second, mask=mask, kept=slice(Q, Q + 1))
query = F.normalize(backbone.text_projection(cls[:, 0]), dim=-1)  # [B, E]

# %% [markdown]
# ## Pass 3: target
#
# The queries read the target image alone. All Q outputs are kept.

# %%
hidden = backbone.query_pass(queries, image=target)
targets = F.normalize(backbone.vision_projection(hidden), dim=-1)  # [B, Q, E]

# %% [markdown]
# ## Pass 4: prompts alone
#
# Learned prompts take the place of an image, behind the `[CLS]`. This pass is used only in the
# loss.

# %%
learned = model.prompt_tokens.expand(len(words), -1, -1)
sequence = backbone.at_positions(torch.cat([words[:, :1], learned, words[:, 1:]], 1))
cls = backbone.text_pass(sequence, mask=mask, kept=slice(0, 1))
alone = F.normalize(backbone.text_projection(cls[:, 0]), dim=-1)  # [B, E]

# %% [markdown]
# The model does the same in one call. Training, evaluation and pictures all use this call.

# %%
encoded = model(batch.images, batch.references, batch.targets, text)
for ours, its in ((query, encoded.query), (targets, encoded.targets), (alone, encoded.text)):
    torch.testing.assert_close(ours, its, rtol=1e-4, atol=1e-5)

# %% [markdown]
# ## Similarity and losses
#
# The similarity of a query and an image is the largest inner product with one of the image's Q
# features. The other targets of the batch are the negatives.
#
# - `loss_itc`: contrast of the queries with the targets.
# - `loss_rtc`: contrast of the prompts and the text alone with the targets.
# - `loss_align`: distance between the mean prompt of pass 1 and the mean learned prompt.


# %%
def losses_of(batch):
    """The three terms of a batch, and their published sum."""
    found = model(batch.images, batch.references, batch.targets, tokenizer(batch.texts))
    losses = composed_losses(
        query=found.query,
        text=found.text,
        targets=found.targets,
        labels=torch.arange(len(found.query)),
        target_ids=batch.target_ids,
        fusion_mean=found.fusion_mean,
        prompt_mean=found.prompt_mean,
        temperature=model.temp,
    )
    return losses, losses["loss_itc"] + 0.4 * losses["loss_rtc"] + 0.4 * losses["loss_align"]


print(token_similarity(query, targets).shape)  # [B, B]
losses, total = losses_of(batch)
print({name: round(value.item(), 3) for name, value in losses.items()})

# %% [markdown]
# ## A few steps
#
# The Q-Former, the heads, the prompts and the temperature learn. The vision tower stays frozen.

# %%
learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(learns, lr=3e-4)
evaluator = make_evaluator(config, model, tokenizer, images)
before = validate(evaluator, val)
history = []
for step in range(12):
    first = 32 * step % len(triplets)
    _, total = losses_of(triplets[list(range(first, first + 32))])
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    history.append(total.item())
print(f"loss {history[0]:.2f} -> {history[-1]:.2f}")

# %% [markdown]
# ## Evaluation
#
# Every image of the gallery is ranked for every query, without the reference.
# With so few images the numbers say nothing about a method. They only show the way.

# %%
after = validate(evaluator, val)
for name in ("recall_at1", "recall_at5", "group_recall_at1", "mean(R@5+R_s@1)"):
    print(f"{name:18} {before[name]:6.2f} -> {after[name]:6.2f}")
place.cleanup()

# %% [markdown]
# ## The same at real size
#
# These commands train the published model on CIRR with the published settings, and evaluate it:
#
# ```console
# $ gatedcir train --config configs/cirr.yaml --model.gated-fusion.strategy none --output runs/sprc
# $ gatedcir evaluate --model-path runs/sprc
# ```
#
# The published weights are evaluated by their path:
#
# ```console
# $ gatedcir evaluate --dataset CIRR --model-path sprc_cirr.pt
# ```
#
# [Train](../train.md) says where this project's training differs from the published one.
# [Weights](../weights.md) says what was verified, and what could not be.
