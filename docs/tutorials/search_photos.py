"""Search a folder of photos: by an image, a text, or an image and how to change it."""

# %% [markdown]
# # Search your own photos in ten minutes
#
# You need a folder of photos and a model. You do not need to know PyTorch.
#
# This page draws 64 pictures in place of photos, so that it runs anywhere in seconds: eight shapes
# in eight colours. It takes the tiny model inside the package, which knows such shapes. For
# real photos, use real weights. The last section says which.

# %%
import itertools
import random
import tempfile
from pathlib import Path

from gatedcir.synthetic.scenes import COLOURS, SHAPES, Scene, Thing, draw

place = tempfile.TemporaryDirectory()
photos = Path(place.name) / "photos"
photos.mkdir()
nothing, rng = [None] * 4, random.Random(0)
for shape, colour in itertools.product(SHAPES, COLOURS):
    thing = Thing(shape, colour, "solid", "large")
    picture = draw(Scene((*nothing, thing, *nothing), "white"), rng)
    picture.save(photos / f"{colour}-{shape}.png")

# %% [markdown]
# ## Four lines
#
# `index` reads every image of the folder once and keeps its features in a new folder.
# `search` takes an image, a text that says how to change it, or one of them alone.

# %%
from gatedcir import Retriever

retriever = Retriever.from_pretrained("tiny")
gallery = retriever.index(photos, to=Path(place.name) / "photos.index")
hits = gallery.search(image=photos / "red-star.png", text="a large blue star", k=5)
for hit in hits:
    print(f"{hit.rank}  {hit.score:.3f}  {hit.path.name}")

# %% [markdown]
# A hit has a score from -1 to 1, the path of the file, its rank, and what you know about it.
#
# ## An image alone, a text alone
#
# An image alone finds the images that look most like it, itself first.

# %%
print([hit.path.stem for hit in gallery.search(image=photos / "green-heart.png", k=3)])
print([hit.path.stem for hit in gallery.search(text="a large red star", k=3)])

# %% [markdown]
# The image may be a path, the bytes of a file, a PIL image or a NumPy array. Lists of images and
# texts are several queries at once: you get a list of hits for each.

# %%
for found in gallery.search(text=["a large orange moon", "a large black cross"], k=2):
    print([hit.path.stem for hit in found])

# %% [markdown]
# ## Parts with weights
#
# A text may have parts with weights, also negative ones. The features of the parts are added with
# their weights. The sum is scaled to length 1 and searched for.

# %%
parts = [("a large red star", 1.0), ("star", -0.3)]
print([hit.path.stem for hit in gallery.search(text=parts, k=5)])

# %% [markdown]
# ## What you know about the images
#
# Give a table, a `.csv` with a column `path` or a `.jsonl` with an object a line. Then a search can
# have conditions: a value, a list of values, or a range.

# %%
table = Path(place.name) / "table.csv"
rows = [f"{path.name},{path.stem.split('-')[1]},{len(path.stem)}" for path in photos.iterdir()]
table.write_text("\n".join(["path,shape,letters", *rows]))
gallery = retriever.index(photos, to=Path(place.name) / "photos.index", metadata=table)
moons = gallery.search(text="something blue", where={"shape": "moon", "letters": (8, 9)}, k=3)
print([(hit.path.stem, hit.metadata) for hit in moons])

# %% [markdown]
# ## When the folder changes
#
# Run the same line again. Only new content goes through the model. Renamed files keep their
# features, and equal files are stored once. With `watch_deleted`, files that are gone are no longer
# found. Without it they stay, because a disk that is not mounted looks the same.

# %%
(photos / "red-star.png").rename(photos / "my favourite.png")
(photos / "red-moon.png").unlink()
gallery = retriever.index(photos, to=Path(place.name) / "photos.index", watch_deleted=True)
again = gallery.add(photos)
print(again)
print(len(gallery), "images can be found")

# %% [markdown]
# Next time, open the index without indexing:

# %%
gallery = retriever.open(Path(place.name) / "photos.index")
print(gallery.search(text="a large red star", k=1)[0].path.name)
gallery.close()
place.cleanup()

# %% [markdown]
# ## Real photos
#
# Give `from_pretrained` a run of your own, an exported folder, SPRC's published `.pt`, or `coco`
# for BLIP-2's weights, which the hub has. BLIP-2's weights find images by a text or by another
# image. Only a model that was fine-tuned for it, such as SPRC's, has learned to combine the two.
# [Weights](../weights.md) lists all names. [Search your photos](../search.md) has the same as
# commands.
