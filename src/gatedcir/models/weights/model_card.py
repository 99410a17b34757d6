"""The README.md of a trained model: its description, its metrics and their protocol.

Names and texts of the user's stand in it as text, and never as HTML or Markdown.
"""

import html
import re
import shlex
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gatedcir.errors import plain
from gatedcir.models.weights.locations import HUB_NAMES

_TASK = "composed-image-retrieval"


def model_card(run: dict[str, Any], *, name: str) -> ModelCard:
    """The model card of a run.

    Args:
        run: its `options`, `provenance`, `epoch` and `metrics`, as `config.json` holds them.
        name: of the model.
    """
    options = run["options"]
    dataset = run["provenance"].get("dataset", options["dataset"])
    kind = options["dataset"].rpartition(":")[2].lower()  # one of one's own has a path
    kind = f"synthetic-{kind}" if dataset.startswith("synthetic data") else kind
    protocol = run["provenance"].get("data", {})
    results = [
        EvalResult(
            task_type=_TASK,
            dataset_type=kind,
            dataset_name=dataset,
            dataset_split="val",
            dataset_args={"protocol": protocol},
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in run["metrics"].items()
    ]
    data = ModelCardData(
        base_model=HUB_NAMES.get(options["backbone"]),
        library_name="gatedcir",
        tags=[_TASK, "blip-2"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    used = ["--dataset", plain(options["dataset"]), "--model-path", "FOLDER_OR_HUB_NAME"]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {_text(name)}",
        f"{_description(options)} {_history(options, run['epoch'], dataset)}",
        _measured(run["metrics"], protocol, dataset),
        "## Use",
        _block("sh", shlex.join(["gatedcir", "evaluate", *used]) + "\n"),
        _block(
            "python",
            "from gatedcir.pretrained import TrainedRetriever\n\n"
            'retriever = TrainedRetriever.from_pretrained("FOLDER_OR_HUB_NAME")\n',
        ),
        "## Options",
        _block("yaml", yaml.safe_dump(options, sort_keys=False)),
        "## Made by",
        _block("yaml", yaml.safe_dump(run["provenance"], sort_keys=False)),
    ]
    return ModelCard("\n\n".join(parts) + "\n")


def _description(options: dict[str, Any]) -> str:
    strategy = options["model"]["gated-fusion"]["strategy"]
    fusion = (
        "without a fusion" if strategy == "none" else f"with {_text(strategy)} text-image fusion"
    )
    return (
        "Composed image retrieval: an image plus a text that says how to change it find the "
        f"changed image. BLIP-2's Q-Former with learned sentence prompts, {fusion}."
    )


def _history(options: dict[str, Any], epoch: int, dataset: str) -> str:
    start = plain(HUB_NAMES.get(options["backbone"], options["backbone"])).replace("`", "'")
    if not epoch:
        return f"The weights are those of `{start}`, not trained here."
    plural = "s" * (epoch != 1)
    return f"Fine-tuned from `{start}` on {_text(dataset)}, {epoch} epoch{plural}."


def _measured(metrics: dict[str, float], protocol: dict[str, str], dataset: str) -> str:
    """The metrics with their protocol, or that there are none."""
    if not metrics:
        return "## Metrics\n\nNot validated."
    lines = [f"- {_text(split)}: {_text(how)}" for split, how in protocol.items()]
    lines = lines or [f"- {_text(dataset)} val; the protocol was not recorded"]
    rows = [f"| {_text(metric)} | {value:.2f} |" for metric, value in metrics.items()]
    return "\n".join(["## Metrics", "", *lines, "", "| metric | percent |", "|:--|--:|", *rows])


def _text(text: str) -> str:
    r"""A text as Markdown that shows just that text, on one line.

    >>> _text("*a* <b> [c](d)\n")
    '\\*a\\* &lt;b&gt; \\[c\\](d)\\\\n'
    """
    return html.escape(re.sub(r"[\\`*\[\]|]", r"\\\g<0>", plain(str(text))), quote=False)


def _block(language: str, code: str) -> str:
    """Code between two lines of backticks that are longer than any in it."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}{fence}"
