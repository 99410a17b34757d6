"""Synthetic datasets, written in the published layouts of CIRR and FashionIQ."""

import itertools
import json
import random
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gatedcir.children import workers
from gatedcir.data.changes import MARK, Changes, Swap, write_changes
from gatedcir.errors import UserError
from gatedcir.synthetic import garments, scenes, true_changes
from gatedcir.synthetic.scene_families import (
    MOST_BYSTANDERS,
    Family,
    Query,
    drop_ambiguous,
    sample_family,
)
from gatedcir.synthetic.scenes import Scene

# Requests from one grid of scenes: many in training, where each image may be used often, and few
# where the gallery should be large.
_QUERIES_PER_GRID = {"train": 40, "val": 9, "test": 9}
_CIRR_NAMES = {"train": "train", "val": "dev", "test": "test1"}
_CIRR_FILES = {"train": "train", "val": "val", "test": "test1"}
_PATIENCE = 20  # rounds of drawing more families before we give up a size


def write_cirr(
    root: Path, sizes: Mapping[str, int], *, seed: int, bystanders: int = 0
) -> Iterator[str]:
    """Write scenes in CIRR's layout, and yield a line for each split.

    Args:
        root: a new or empty folder.
        sizes: triplets of train, val and test.
        seed: the same seed, sizes and bystanders give the same bytes.
        bystanders: things of every scene that no request changes.

    Raises:
        UserError: a size is below 1, or there is no room for the bystanders.
    """
    _check(sizes)
    if not 0 <= bystanders <= MOST_BYSTANDERS:
        raise UserError(
            f"--bystanders {bystanders} do not fit a scene; give 0 to {MOST_BYSTANDERS}."
        )
    for split, size in sizes.items():
        families = _draw_families(split, size, seed=seed, bystanders=bystanders)
        files: dict[str, str] = {}
        pictures: list[tuple[Path, Scene]] = []
        entries: list[dict[str, Any]] = []
        pair_ids = itertools.count()
        for number, family in enumerate(families):
            names = [_scene_name(split, number, place) for place in range(len(family.scenes))]
            for name, scene in zip(names, family.scenes, strict=True):
                folder = f"train/{number % 100}" if split == "train" else _CIRR_NAMES[split]
                files[name] = f"./{folder}/{name}.png"
                pictures.append((root / folder / f"{name}.png", scene))
            entries += [
                _cirr_entry(query, names, next(pair_ids), number, split, seed)
                for query in family.queries
            ]
        rng = random.Random(f"{seed}/{split}/order")
        rng.shuffle(entries)
        order = list(files.items())
        rng.shuffle(order)
        name = _CIRR_FILES[split]
        _write_json(root / "cirr" / "captions" / f"cap.rc2.{name}.json", entries)
        _write_json(root / "cirr" / "image_splits" / f"split.rc2.{name}.json", dict(order))
        _draw_all(partial(_save_scene, seed), pictures)
        if split != "test":  # it would tell what the test does not publish
            write_changes(root, f"CIRR {name}", _scene_changes(split, families, seed))
        yield f"{name}: {len(entries)} triplets, {len(files)} images"
    what = "scenes in CIRR's layout" + (f" with {bystanders} bystanders" if bystanders else "")
    _write_mark(root, what, sizes, seed)


def write_fashioniq(root: Path, sizes: Mapping[str, int], *, seed: int) -> Iterator[str]:
    """Write garments in FashionIQ's layout, otherwise as `write_cirr`.

    Each category gets a third of train's size, and the full sizes of val and test.
    """
    _check(sizes)
    names = _product_names(random.Random(f"{seed}/names"))
    for split, category in itertools.product(sizes, garments.ATTRIBUTES):
        size = -(-sizes[split] // len(garments.ATTRIBUTES)) if split == "train" else sizes[split]
        rng = random.Random(f"{seed}/{split}/{category}")
        queries, gallery = _draw_queries(category, split, size, rng)
        products = {garment: next(names) for garment in gallery}
        entries = []
        for reference, query in queries:
            entry = {"candidate": products[reference], "captions": list(query.captions)}
            if split != "test":
                entry["target"] = products[query.target]
            entries.append(entry)
        _write_json(root / "captions" / f"cap.{category}.{split}.json", entries)
        listed = sorted(products.values())
        _write_json(root / "image_splits" / f"split.{category}.{split}.json", listed)
        # The published images have either ending, so these have both too.
        pictures = [
            (root / "images" / f"{name}.{'png' if name[-1] in string.digits else 'jpg'}", garment)
            for garment, name in products.items()
        ]
        _draw_all(_save_garment, pictures)
        if split != "test":
            known = _garment_changes(category, split, queries, products, seed)
            write_changes(root, f"FashionIQ {category} {split}", known)
        yield f"{category} {split}: {len(entries)} triplets, {len(products)} images"
    _write_mark(root, "garments in FashionIQ's layout", sizes, seed)


def _check(sizes: Mapping[str, int]) -> None:
    for split, size in sizes.items():
        if size < 1:
            raise UserError(f"--{split} {size} asks for no triplets; give 1 or more.")


def _draw_families(split: str, size: int, *, seed: int, bystanders: int = 0) -> list[Family]:
    """Families with exactly `size` queries in all, each satisfied by one scene of them all."""
    queries = min(_QUERIES_PER_GRID[split], size)
    drawn: list[Family] = []
    draw = partial(_draw_family, split, seed, queries, bystanders)
    for _ in range(_PATIENCE):
        found = drop_ambiguous(drawn)
        missing = size - sum(len(family.queries) for family in found)
        if drawn and missing <= 0:
            surplus = -missing
            last = found[-1]
            return [*found[:-1], Family(last.scenes, last.queries[: len(last.queries) - surplus])]
        more = range(len(drawn), len(drawn) - (-missing // queries))
        drawn += _in_parallel(draw, more, at_a_time=10)
    raise UserError(f"{size} unambiguous triplets could not be drawn for {split}; ask for fewer.")


def _draw_family(split: str, seed: int, queries: int, bystanders: int, number: int) -> Family:
    rng = random.Random(f"{seed}/{split}/{number}")
    return sample_family(split, rng, queries=queries, bystanders=bystanders)


def _draw_queries(
    category: str, split: str, size: int, rng: random.Random
) -> tuple[list[tuple[garments.Garment, garments.Query]], list[garments.Garment]]:
    """`size` (reference, query) pairs and their gallery, in which one garment satisfies each."""
    families: list[garments.Family] = []
    for _ in range(_PATIENCE):
        gallery = {garment: None for family in families for garment in family.garments}
        found = [
            (family.reference, query)
            for family in families
            for query in family.queries
            if sum(g in gallery for g in garments.answers(family.reference, query.changes)) == 1
        ]
        if len(found) >= size:
            return found[:size], list(gallery)
        more = max(1, (size - len(found)) // 3)
        families += [garments.family(category, split, rng) for _ in range(more)]
    raise UserError(f"{size} unambiguous {category} triplets could not be drawn; ask for fewer.")


def _scene_changes(split: str, families: list[Family], seed: int) -> Changes:
    """What changes in each reference, and swaps of the first references, in their order."""
    objects, queries = {}, {}
    swaps: list[Swap] = []
    pair_ids = itertools.count()
    for number, family in enumerate(families):
        names = [_scene_name(split, number, place) for place in range(len(family.scenes))]
        boxes = [
            true_changes.scene_objects(scene, _picture_rng(seed, name))
            for name, scene in zip(names, family.scenes, strict=True)
        ]
        for query in family.queries:
            reference, target = query.reference, query.target
            name, scene = names[reference], family.scenes[reference]
            queries[str(next(pair_ids))] = true_changes.scene_changes(
                query.edits, scene, family.scenes[target], boxes[reference], boxes[target]
            )
            if name not in objects and len(swaps) < true_changes.MOST_SWAPS:
                rng = random.Random(f"{seed}/{name}/swap")
                swap = true_changes.scene_swap(name, scene, boxes[reference], rng)
                swaps += [swap] if swap else []
            objects[name] = tuple(boxes[reference].values())
    return Changes(true_changes.SCENE_SIZE, objects, queries, tuple(swaps))


def _garment_changes(
    category: str,
    split: str,
    queries: list[tuple[garments.Garment, garments.Query]],
    products: Mapping[garments.Garment, str],
    seed: int,
) -> Changes:
    """What changes in each reference, and swaps of the first references, in their order."""
    references = list(dict.fromkeys(reference for reference, _ in queries))
    pairs = [(reference, query.target) for reference, query in queries]
    found = _in_parallel(_changes_of_pair, pairs, at_a_time=60)
    objects = _in_parallel(true_changes.garment_objects, references, at_a_time=60)
    swaps = [
        true_changes.garment_swap(
            products[each], each, random.Random(f"{seed}/{products[each]}/swap")
        )
        for each in references[: true_changes.MOST_SWAPS]
    ]
    return Changes(
        true_changes.GARMENT_SIZE,
        {products[each]: boxes for each, boxes in zip(references, objects, strict=True)},
        {f"{category}-{number}": each for number, each in enumerate(found)},
        tuple(swap for swap in swaps if swap),
    )


def _changes_of_pair(pair: tuple[garments.Garment, garments.Garment]) -> tuple[Any, ...]:
    return true_changes.garment_changes(*pair)


def _scene_name(split: str, family: int, place: int) -> str:
    """Published names are split-number-number-img0 or img1."""
    return f"{_CIRR_NAMES[split]}-{family}-{place // 2}-img{place % 2}"


def _cirr_entry(
    query: Query, names: list[str], pair: int, family: int, split: str, seed: int
) -> dict[str, Any]:
    members = [names[index] for index in (query.reference, query.target, *query.negatives)]
    random.Random(f"{seed}/{split}/{pair}").shuffle(members)
    reference, target = names[query.reference], names[query.target]
    image_set = {"id": family, "members": members, "reference_rank": members.index(reference)}
    entry: dict[str, Any] = {"pairid": pair, "reference": reference}
    if split != "test":
        entry |= {"target_hard": target, "target_soft": {target: 1.0}}
        image_set["target_rank"] = members.index(target)
    return {**entry, "caption": query.caption, "img_set": image_set}


def _product_names(rng: random.Random) -> Iterator[str]:
    """Endless different names that look like the published ones: B00 and seven signs."""
    seen = set()
    while True:
        name = "B00" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=7))
        if name not in seen:
            seen.add(name)
            yield name


def _save_scene(seed: int, task: tuple[Path, Scene]) -> None:
    path, scene = task
    picture = scenes.draw(scene, _picture_rng(seed, path.stem))
    picture.save(path, compress_level=1)


def _picture_rng(seed: int, name: str) -> random.Random:
    """What moves the things of a scene's picture, by the picture's name."""
    return random.Random(f"{seed}/{name}")


def _save_garment(task: tuple[Path, garments.Garment]) -> None:
    path, garment = task
    options = {"quality": 92} if path.suffix == ".jpg" else {"compress_level": 1}
    garments.draw(garment).save(path, **options)  # type: ignore[arg-type]


def _draw_all(save: Any, tasks: list[Any]) -> None:
    for folder in {path.parent for path, _ in tasks}:
        folder.mkdir(parents=True, exist_ok=True)
    _in_parallel(save, tasks, at_a_time=200)


def _in_parallel(call: Callable[[Any], Any], tasks: Sequence[Any], *, at_a_time: int) -> list:
    """The results of all tasks. So few that one process would do them all are done in this one."""
    if len(tasks) <= at_a_time:
        return list(map(call, tasks))
    with workers() as pool:
        return list(pool.map(call, tasks, chunksize=at_a_time))


def _write_mark(root: Path, what: str, sizes: Mapping[str, int], seed: int) -> None:
    """Record in the dataset's folder that it was drawn."""
    _write_json(root / MARK, {"synthetic": what, "sizes": dict(sizes), "seed": seed})


def _write_json(path: Path, content: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
