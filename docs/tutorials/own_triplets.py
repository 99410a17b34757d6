"""Fine-tune on triplets of one's own: photos, a file of lines, training, evaluation."""

# %% [markdown]
# # Fine-tune on your own triplets
#
# You have photos, and you know what people ask for: "this one, but in red".
# In this tutorial you write such requests into a file, train on them, and measure the result.
# You need no knowledge of torch. With the tiny model inside the package it takes a minute on a CPU.
#
# Every step is a command. This page runs each of them from Python, as `run("evaluate ...")`.
# In a shell you write `gatedcir evaluate ...`.

# %%
import itertools
import json
import os
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from gatedcir.commands.main import main
from gatedcir.errors import UserError

before = Path.cwd()
folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)


def run(line: str) -> None:
    """What `gatedcir LINE` does in a shell."""
    print(f"$ gatedcir {line}")
    main([*line.split(), "--quiet"])


# %% [markdown]
# ## 1. The photos
#
# Put your photos into a folder. Any format, any names, and folders inside are fine.
# Here we draw some instead: five things in six colours.

# %%
COLORS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 119, 180),
    "yellow": (255, 221, 0),
    "purple": (148, 80, 190),
    "orange": (255, 127, 14),
}
THINGS = {
    "circle": lambda draw, fill: draw.ellipse((16, 16, 80, 80), fill=fill),
    "square": lambda draw, fill: draw.rectangle((20, 20, 76, 76), fill=fill),
    "triangle": lambda draw, fill: draw.polygon([(48, 14), (82, 80), (14, 80)], fill=fill),
    "bar": lambda draw, fill: draw.rectangle((8, 38, 88, 58), fill=fill),
    "post": lambda draw, fill: draw.rectangle((38, 8, 58, 88), fill=fill),
}
Path("shop/photos").mkdir(parents=True)
for (thing, draw), (color, fill) in itertools.product(THINGS.items(), COLORS.items()):
    picture = Image.new("RGB", (96, 96), "white")
    draw(ImageDraw.Draw(picture), fill)
    picture.save(f"shop/photos/{color}_{thing}.png")
print(len(list(Path("shop/photos").iterdir())), "photos")

# %% [markdown]
# ## 2. The triplets
#
# A triplet is a **reference** photo, a **text**, and the **target**: the photo that you want to find.
# Each is one line of the file `shop/triplets.jsonl`. Paths start at the folder of the file.
#
# Most lines are for training. Keep some for validation (`"split": "val"`): the model never learns
# from these, and they tell how good it is. Here two of the five things are only in validation.

# %%
lines = []
for thing, (old, new) in itertools.product(THINGS, itertools.permutations(COLORS, 2)):
    line = {
        "reference": f"photos/{old}_{thing}.png",
        "text": f"make it {new}",
        "target": f"photos/{new}_{thing}.png",
        "split": "val" if thing in ("triangle", "post") else "train",
    }
    lines.append(json.dumps(line))
Path("shop/triplets.jsonl").write_text("\n".join(lines))
print(lines[0])
print(len(lines), "triplets")

# %% [markdown]
# Which photos are searched? Without a word, those that the lines of a split name. A file of paths
# next to the triplets names others: here all photos of the shop.

# %%
photos = sorted(f"photos/{photo.name}" for photo in Path("shop/photos").iterdir())
Path("shop/triplets.gallery.txt").write_text("\n".join(photos))

# %% [markdown]
# A table works too: save it as `triplets.csv` with the columns `reference`, `text`, `target` and
# `split`. If a request has several right answers, `target` holds several photos.
# [Data](../data.md#your-own-triplets) lists all columns.
#
# ## 3. Mistakes are told before anything starts
#
# One message names the first ten wrong lines.

# %%
wrong = [lines[0], lines[1].replace('"text"', '"txt"'), '{"reference": "photos/red_bar.png"}']
Path("shop/wrong.jsonl").write_text("\n".join(wrong))
try:
    run("evaluate --model-path tiny --dataset shop/wrong.jsonl")
except UserError as error:
    message = str(error)
    print(message)
assert "line 2 has the unknown key txt (text is the nearest), line 3 has no text" in message

# %% [markdown]
# ## 4. Before training
#
# How good is the model as it is? `R@1` is the share of requests whose target comes first, and
# `R@5` the share whose target is among the first five.
# `--num-workers 0` loads photos without further processes, which is enough for a few.

# %%
data = "--dataset shop/triplets.jsonl --num-workers 0"
run(f"evaluate --model-path tiny {data} --output before.json")

# %% [markdown]
# ## 5. Train
#
# An epoch shows every triplet once. After each one the model is measured on the validation lines,
# and the best state is kept in the folder `runs/shop`.
#
# On real photos use `--backbone pretrain` (BLIP-2's published weights), a GPU, and the options of
# `configs/cirr.yaml`. A few thousand triplets are a good start.

# %%
run(
    f"train {data} --backbone tiny --num-epochs 3 --batch-size 10 --learning-rate 3e-4 "
    "--output runs/shop"
)

# %% [markdown]
# ## 6. After training

# %%
run(f"evaluate --model-path runs/shop {data} --output after.json")
start, end = (json.loads(Path(f"{name}.json").read_text()) for name in ("before", "after"))
for metric in ("recall_at1", "recall_at5"):
    print(metric, f"{start['metrics'][metric]:.1f} -> {end['metrics'][metric]:.1f}")
assert end["metrics"]["recall_at5"] > start["metrics"]["recall_at5"]

# %% [markdown]
# ## 7. See what was found
#
# `submit` writes what every request found, best first.
# Any other program can write such a file too, and `score` measures it.

# %%
run(f"submit --model-path runs/shop {data} --split val --output answers")
answers = json.loads(Path("answers/predictions.val.json").read_text())
number = next(iter(answers))  # a request without an id is named after the number of its line
print(json.loads(lines[int(number) - 1])["reference"], "->", answers[number][:3])
run("score answers/predictions.val.json --dataset shop/triplets.jsonl")

# %%
os.chdir(before)
folder.cleanup()

# %% [markdown]
# ## What to try next
#
# - `gatedcir gates --model-path runs/shop --image photo.jpg --text "make it red" --output pictures`
#   draws where the text changes the photo.
# - `gatedcir ablate` compares options over several seeds. On few triplets one run alone says little.
# - With `candidates`, lists of photos that are hard to tell apart, you also get the recall among
#   these alone.
