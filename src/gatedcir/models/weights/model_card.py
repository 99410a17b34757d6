"""The README.md of a trained model: its description, its metrics and their protocol."""

from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

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
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        f"{_description(options)} {_history(options, run['epoch'], dataset)}",
        _measured(run["metrics"], protocol, dataset),
        "## Use",
        f"```sh\ngatedcir evaluate --dataset {options['dataset']} "
        "--model-path FOLDER_OR_HUB_NAME\n```",
        "```python\nfrom gatedcir.pretrained import TrainedRetriever\n\n"
        'retriever = TrainedRetriever.from_pretrained("FOLDER_OR_HUB_NAME")\n```',
        "## Options",
        f"```yaml\n{yaml.safe_dump(options, sort_keys=False)}```",
        "## Made by",
        f"```yaml\n{yaml.safe_dump(run['provenance'], sort_keys=False)}```",
    ]
    return ModelCard("\n\n".join(parts) + "\n")


def _description(options: dict[str, Any]) -> str:
    strategy = options["model"]["gated-fusion"]["strategy"]
    fusion = "without a fusion" if strategy == "none" else f"with {strategy} text-image fusion"
    return (
        "Composed image retrieval: an image plus a text that says how to change it find the "
        f"changed image. BLIP-2's Q-Former with learned sentence prompts, {fusion}."
    )


def _history(options: dict[str, Any], epoch: int, dataset: str) -> str:
    start = HUB_NAMES.get(options["backbone"], options["backbone"])
    if not epoch:
        return f"The weights are those of `{start}`, not trained here."
    plural = "s" * (epoch != 1)
    return f"Fine-tuned from `{start}` on {dataset}, {epoch} epoch{plural}."


def _measured(metrics: dict[str, float], protocol: dict[str, str], dataset: str) -> str:
    """The metrics with their protocol, or that there are none."""
    if not metrics:
        return "## Metrics\n\nNot validated."
    lines = [f"- {split}: {how}" for split, how in protocol.items()]
    lines = lines or [f"- {dataset} val; the protocol was not recorded"]
    rows = [f"| {metric} | {value:.2f} |" for metric, value in metrics.items()]
    return "\n".join(["## Metrics", "", *lines, "", "| metric | percent |", "|:--|--:|", *rows])
