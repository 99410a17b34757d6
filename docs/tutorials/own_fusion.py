"""Add a fusion of one's own: a class in one's own file, its test, and how a command takes it."""

# %% [markdown]
# # Add a fusion of your own
#
# A gated fusion lets the text change the reference's tokens before the Q-Former reads them.
# In this tutorial you write one in a file of your own. You do not edit the package.
# It takes seconds on a CPU, with the tiny model inside the package.
#
# The example is FiLM (Perez et al., 2018): the text scales and shifts every channel.
#
# ## The class
#
# A fusion is a `torch.nn.Module`.
#
# | | |
# |:--|:--|
# | it is made with | the widths of image and text, and the keywords `dropout`, `start` and `alpha_init` |
# | `forward(image, text, text_mask)` gets | image tokens [B, L, Dv], text tokens [B, T, D], and a mask [B, T] of the tokens that count |
# | `forward` returns | new image tokens [B, L, Dv], and a dict of what you want to see in the logs |
#
# `TextFusion` does the common part: it takes the mean of the text, projects it to the image's
# width, and computes `delta` from it, the direction of change. You only write `update`, the
# numbers that are added to the image.

# %%
import torch
from torch import Tensor, nn

from gatedcir.models.gated_fusion import TextFusion


class FilmFusion(TextFusion):
    """image * (1 + alpha * scale) + alpha * delta, with a scale for each channel from the text."""

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        *,
        alpha_init: float = 0.5,
        dropout: float = 0.1,
        start: str = "seed",
    ) -> None:
        super().__init__(vision_width, text_width, dropout=dropout, start=start)
        self.scale_net = nn.Linear(vision_width, vision_width)
        self.alpha = nn.Parameter(torch.tensor(float(alpha_init)))
        if start == "identity":  # nothing is scaled until it has learned to
            nn.init.zeros_(self.scale_net.weight)
            nn.init.zeros_(self.scale_net.bias)

    def update(
        self, image: Tensor, mean_text: Tensor, delta: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the image: [B, L, Dv], and the figures for the logs."""
        scale = torch.tanh(self.scale_net(mean_text))[:, None]  # [B, 1, Dv]
        return self.alpha * (scale * image + delta), {"alpha": self.alpha.detach()}


# %% [markdown]
# - Scalars in the dict are averaged over the epoch and logged. `change` is there already.
# - A fusion that gives `gate` [B, L, Dv] in [0, 1] in the dict and sets `has_gate = True` in its
#   class can be drawn by `gatedcir gates`. FiLM has no gate.
# - Take all three keywords, also those that you ignore.
#
# ## Test it first
#
# Two properties are worth a test. With `start="identity"` nothing changes at step 0, so a
# pretrained Q-Former sees what it knows. And padded words have no effect.

# %%
torch.manual_seed(0)
image, text = torch.randn(2, 5, 16), torch.randn(2, 4, 8)
mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])

careful = FilmFusion(16, 8, start="identity").eval()
same, aux = careful(image, text, mask)
assert torch.equal(same, image)
assert aux["change"] == 0

film = FilmFusion(16, 8).eval()
changed, aux = film(image, text, mask)
other = text.clone()
other[0, 2:] = 100.0  # words that do not count
assert torch.equal(film(image, other, mask)[0], changed)
assert aux["change"] > 0

# %% [markdown]
# ## Put it into a model
#
# In Python, a model's fusion is its attribute `fusion`.

# %%
from gatedcir.pretrained import TrainedRetriever

trained = TrainedRetriever.from_pretrained("tiny")
model = trained.model
pixels = torch.randn(2, 3, model.backbone.image_size, model.backbone.image_size)
words = trained.tokenizer(["make it red", "two dogs instead of one"])
with torch.no_grad():
    plain, _ = model.encode_query(pixels, words)
    backbone = model.backbone
    model.fusion = FilmFusion(backbone.vision_width, backbone.width, start="identity").eval()
    start, _ = model.encode_query(pixels, words)
torch.testing.assert_close(start, plain)

# %% [markdown]
# It learns with the rest: gradients reach it. At the identity the last layers learn first.

# %%
query, _ = model.encode_query(pixels, words)
targets = model.encode_target(pixels)
(query[:, None] * targets).sum().backward()
gradients = {name: p.grad for name, p in model.fusion.named_parameters() if p.grad is not None}
assert gradients["scale_net.weight"].abs().sum() > 0
print(sorted(name for name, gradient in gradients.items() if gradient.abs().sum() > 0))

# %% [markdown]
# ## Train with it
#
# Save the class in a file, for example `my_file.py`, in the folder where you start the command.
# Name the file and the class. All other options stay as they are:
#
# ```console
# $ gatedcir train --config configs/cirr.yaml --model.gated-fusion.strategy my_file:FilmFusion --output runs/film
# $ gatedcir evaluate --model-path runs/film
# ```
#
# The checkpoint keeps the name `my_file:FilmFusion`. The model opens wherever Python can import
# that file: in the folder where the command starts, or in one that `PYTHONPATH` names. Elsewhere
# one sentence says which module is missing.
#
# Why a path and not a registration: nothing has to be installed, and the checkpoint can name it.
#
# In a grid for [ablations](../ablations.md) it is one more cell:
#
# ```yaml
# baseline: none
# cells:
#   none: {model: {gated-fusion: {strategy: none}}}
#   film: {model: {gated-fusion: {strategy: "my_file:FilmFusion", start: identity}}}
# ```
#
# Compare over several seeds before you believe a difference. [Results](../results.md) shows how
# much one seed moves.
