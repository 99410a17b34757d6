"""A page over twelve pictures and the run of two epochs, for its logic and for a browser."""

import pytest

EVIL = "<b>${1+1}{{value}}'\".png"


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Twelve pictures, one with a name of markup, and a table."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("page") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [*[f"p{number}.png" for number in range(11)], EVIL]
    for name in names:
        pixels = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 40)).save(folder / name)
    rows = [f"p{n}.png,{'even' if n % 2 == 0 else 'odd'},{n * 1.5}" for n in range(11)]
    (folder / "table.csv").write_text("\n".join(["path,parity,price", *rows]))
    return folder


@pytest.fixture(scope="session")
def site(photos, cirr_run):
    from gatedcir.gallery.retriever import Retriever
    from gatedcir.page.engine import Engine
    from gatedcir.page.shelf import UPLOADS, Kept
    from gatedcir.page.site import Site

    retriever = Retriever.from_pretrained(cirr_run)
    index = photos.parent / "index"
    retriever.index(photos, to=index, metadata=photos / "table.csv").close()
    uploads = Kept(UPLOADS, len)
    site = Site([Engine(index, retriever, uploads=uploads)], uploads)
    yield site
    site.close()
