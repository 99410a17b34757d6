"""Time and memory of this project's ranking, and of the naive expression."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from bench import limits, seconds
from torch import Tensor

from gatedcir.benchmarks.cirr import cirr_metrics
from gatedcir.benchmarks.ranks import group_ranks, ranks_in_lists
from gatedcir.evaluation.report import table
from gatedcir.resources import GIB, peak_memory
from gatedcir.search.exact import TokenIndex

if TYPE_CHECKING:
    from bench_evaluation import Options

KEPT = 51  # the 50 that are reported, and the reference


@dataclass(frozen=True)
class Problem:
    """Random features of M queries and G images, and the queries' targets."""

    queries: Tensor  # [M, E]
    gallery: Tensor  # [G, Q, E]
    references: np.ndarray  # [M]
    targets: np.ndarray  # [M]
    members: np.ndarray  # [M, S], the target first


def report(options: "Options") -> None:
    """Measure both and print the table."""
    problem = make_problem(options)
    few = min(options.naive_queries, options.queries)
    cpu = torch.device("cpu")
    start = peak_memory(cpu)
    times = {"this project": seconds(lambda: recalls(problem), repeats=options.repeats)}
    own_peak = peak_memory(cpu)
    times["naive"] = seconds(lambda: naive_recalls(problem, few), repeats=1) * options.queries / few
    own, naive = recalls(problem, few), naive_recalls(problem, few)
    if not np.allclose(own, naive):
        raise SystemExit(f"the recalls differ: {own} and {naive}.")
    best = limits(cpu)
    pairs = options.queries * options.images * options.tokens
    least = 2 * pairs * options.width / best.product
    print(f"{options.queries} queries, {options.images} images of {options.tokens} tokens")
    print(f"{best}; the products alone would take {least:.2f} s")
    rows = [
        [title, f"{time:.2f}", f"{times['naive'] / time:.1f}", f"{100 * least / time:.0f}%"]
        for title, time in times.items()
    ]
    print(table(["ranking", "s", "ratio", "of the limit"], rows))
    size = problem.gallery.nbytes + problem.queries.nbytes
    memory = f"features {size / GIB:.2f} GiB; peak of the process {start / GIB:.2f} GiB before"
    print(f"{memory}, {own_peak / GIB:.2f} GiB after this project's ranking")


def make_problem(options: "Options") -> Problem:
    """Images around random centres, and queries near their targets."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(options.images, 1, options.width, generator=generator)
    noise = torch.randn(options.images, options.tokens, options.width, generator=generator)
    rng = np.random.default_rng(0)
    step = rng.integers(1, options.images // options.members, options.queries)
    targets = rng.integers(0, options.images, options.queries)
    offsets = step[:, None] * np.arange(options.members)  # distinct images
    members = (targets[:, None] + offsets) % options.images
    near = torch.randn(options.queries, options.width, generator=generator)
    return Problem(
        queries=F.normalize(centres[torch.from_numpy(targets), 0] + 2 * near, dim=-1),
        gallery=F.normalize(centres + 0.8 * noise, dim=-1),
        references=members[:, -1],
        targets=targets,
        members=members,
    )


def recalls(problem: Problem, count: int | None = None) -> list[float]:
    """All of CIRR's recalls of the first queries, as evaluation computes them."""
    _, tokens, width = problem.gallery.shape
    index = TokenIndex(dim=width, tokens_per_image=tokens)
    index.add(problem.gallery)
    queries, members = problem.queries[:count], problem.members[:count]
    references, targets = problem.references[:count], problem.targets[:count]
    _, images = index.search(queries, KEPT)
    similarity = index.similarity(queries, members)
    ranks = ranks_in_lists(images, targets, excluded=references)
    groups = group_ranks(similarity, members, targets, excluded=references)
    found = cirr_metrics(ranks, groups)
    return [found[f"recall_at{k}"] for k in (1, 5, 10, 50)]


def naive_recalls(problem: Problem, count: int, *, at_once: int = 4) -> list[float]:
    """The same by broadcasting and names, a few queries at once as their copies of the gallery."""
    names = np.array([f"dev-{number}-img0" for number in range(len(problem.gallery))])
    gallery = problem.gallery.permute(0, 2, 1)  # [G, E, Q]
    similar = torch.cat(
        [
            torch.matmul(some[:, None, None], gallery).squeeze(2).amax(-1)  # [m, G]
            for some in problem.queries[:count].split(at_once)
        ]
    )
    ordered = names[(1 - similar).argsort(dim=-1).numpy()]  # [M, G]
    references = names[problem.references[:count]][:, None]
    kept = ordered[ordered != references].reshape(count, -1)  # [M, G - 1]
    hits = kept == names[problem.targets[:count]][:, None]
    return [100 * hits[:, :k].any(1).mean() for k in (1, 5, 10, 50)]
