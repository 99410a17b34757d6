"""The shipped YAML files say only what the program knows."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file

from gatedcir.ablation.cells import read_grid
from gatedcir.errors import UserError
from gatedcir.models.gated_fusion.strategies import STRATEGIES
from gatedcir.models.visual_fusion.layers import LAYER_FUSIONS
from gatedcir.models.visual_fusion.necks import NECKS
from gatedcir.models.visual_fusion.scales import SCALE_FUSIONS
from gatedcir.options.checks import check_ranges
from gatedcir.options.config import Config
from gatedcir.options.model_config import ModelConfig
from gatedcir.options.parsing import flags_of, parse, read_yaml, to_dict
from gatedcir.options.recipe_config import RecipeConfig

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.y*ml"))
LAUNCHES = sorted((CONFIGS / "accelerate").glob("*.y*ml"))
GRIDS = sorted((CONFIGS / "ablations").glob("*.y*ml"))


def read(path, *more):
    return parse(Config, ["--config", str(path), *more], description="Test.")


def pairs(values):
    """(flag, value) of nested options; a switch is one item, on or off."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", v) for key, v in pairs(value))
        else:
            yield name.replace("_", "-"), value


def test_the_three_configs_are_there():
    assert {"cirr.yaml", "fashioniq.yaml", "tiny.yaml"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_option_of_a_file_arrives(path):
    written = read_yaml(path)
    found = read(path, *([] if "dataset" in written else ["--dataset", "CIRR"]))
    check_ranges(found)
    arrived = dict(pairs(to_dict(found)))
    given = dict(pairs(written))
    assert given
    assert {name: arrived[name] for name in given} == given
    # A value like 1e-5 without a dot is text in YAML: it would arrive, but not as what it is.
    assert [type(arrived[name]) for name in given] == [type(value) for value in given.values()]


def test_every_file_is_a_config_or_a_grid():
    assert sorted(CONFIGS.rglob("*.*")) == sorted([*FILES, *GRIDS, *LAUNCHES])
    assert "gating.yaml" in {path.name for path in GRIDS}


@pytest.mark.parametrize("config", ["cirr.yaml", "fashioniq.yaml", "tiny.yaml"])
@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.name)
def test_every_option_of_a_grid_arrives_whatever_it_is_run_with(path, config):
    shared = read(CONFIGS / config, *(["--dataset", "CIRR"] if config == "tiny.yaml" else []))
    grid = read_grid(path, shared, seeds=3)
    assert [cell.name for cell in grid.cells] == list(read_yaml(path)["cells"])
    own = {"save-best"}  # of what others start from
    for cell in grid.cells:
        arrived, given = dict(pairs(to_dict(cell.config))), dict(pairs(cell.overrides))
        if given.pop("from", None):
            own |= {"from-run", "backbone", "model.query-branch", "model.matcher"}
        assert given
        assert {name: arrived[name] for name in given} == given
        assert [type(arrived[name]) for name in given] == [type(v) for v in given.values()]
        own |= given.keys()
    rest = [
        {name: value for name, value in pairs(to_dict(cell.config)) if name not in own}
        for cell in grid.cells
    ]
    assert all(values == rest[0] for values in rest)


def test_the_gating_grid_holds_what_it_is_to_compare():
    grid = read_grid(CONFIGS / "ablations" / "gating.yaml", read(CONFIGS / "cirr.yaml"), seeds=5)
    found = {cell.name: cell.config.model.gated_fusion for cell in grid.cells}
    assert grid.baseline == "none"
    of_one_text_vector = {"gated", "additive", "interpolate", "none"}
    assert {fusion.strategy for fusion in found.values()} == of_one_text_vector
    alphas = {f.alpha_init for f in found.values() if (f.strategy, f.start) == ("gated", "seed")}
    assert alphas == {0.1, 0.5, 1.0}
    assert found["gated-identity"].start == "identity"


def grid_of(name):
    grid = read_grid(CONFIGS / "ablations" / name, read(CONFIGS / "cirr.yaml"), seeds=5)
    return grid.baseline, {cell.name: cell.config.model for cell in grid.cells}


def test_the_attention_grid_holds_every_strategy_that_attends_and_its_two_controls():
    baseline, found = grid_of("attention.yaml")
    fusions = {name: model.gated_fusion for name, model in found.items()}
    assert baseline == "none"
    strategies = [fusion.strategy for fusion in fusions.values()]
    attending = {name for name in STRATEGIES if name.startswith(("attentive", "contextual"))}
    assert len(attending) == 3
    assert set(strategies) == {"none", "gated", *attending}
    assert {(f.start, f.alpha_init) for f in fusions.values()} == {("identity", 0.5)}


def test_the_visual_grid_holds_every_kind_one_at_a_time():
    baseline, found = grid_of("visual.yaml")
    assert found[baseline] == replace(ModelConfig(), gated_fusion=found[baseline].gated_fusion)
    for kinds, name in (
        (LAYER_FUSIONS, "layer_fusion"),
        (SCALE_FUSIONS, "scale_fusion"),
        (NECKS, "neck"),
    ):
        assert {getattr(model, name) for model in found.values()} == set(kinds)
    assert {model.visual_start for model in found.values()} == {"identity", "seed"}
    assert {model.visual_layers for model in found.values()} == {(-1,), (-1, -2), (-1, -4)}
    for model in found.values():
        kinds = model.layer_fusion, model.scale_fusion, model.neck
        assert sum(kind != "none" for kind in kinds) <= 1
    assert len({model.gated_fusion for model in found.values()}) == 1


def test_the_fusion_grid_crosses_the_two_fusions():
    baseline, found = grid_of("fusion.yaml")
    firsts = found.pop("firsts")
    assert "none" not in (firsts.layer_fusion, firsts.scale_fusion, firsts.neck)
    cells = {(m.gated_fusion.strategy, m.layer_fusion, m.scale_fusion) for m in found.values()}
    gated, layers, scales = zip(*cells, strict=True)
    assert len(set(gated)) == len(set(layers)) == len(set(scales)) == 2
    assert len(cells) == len(found) == 4
    assert found[baseline].gated_fusion.strategy == found[baseline].layer_fusion == "none"


def test_accelerate_reads_the_launches():
    found = {path.stem: load_config_from_file(str(path)) for path in LAUNCHES}
    processes = {"one_gpu": 1, "eight_gpus": 8, "two_nodes_ddp": 16}
    processes |= {"eight_gpus_fsdp": 8, "two_nodes_fsdp": 16}
    assert {name: launch.num_processes for name, launch in found.items()} == processes
    for name, launch in found.items():
        assert launch.num_machines == (2 if name.startswith("two_nodes") else 1)
        assert (launch.distributed_type == DistributedType.FSDP) is name.endswith("fsdp")
    # Autocast is the program's own; Accelerate's would be a second one around it.
    assert {launch.mixed_precision for launch in found.values()} == {"no"}


@pytest.mark.parametrize("path", [*FILES, *GRIDS], ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_file_gives_no_option_twice(path):
    # The YAML reader keeps the last of two equal keys in silence.
    stack = [yaml.compose(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value.replace("_", "-") for key, _ in node.value]
            assert len(set(keys)) == len(keys)
            stack += [value for _, value in node.value]
    flags = [flag for flag in flags_of(read_yaml(path)) if flag.startswith("--")]
    assert len(set(flags)) == len(flags)


def test_a_foreign_key_in_a_shipped_file_would_be_refused(tmp_path):
    path = tmp_path / "cirr.yaml"
    path.write_text((CONFIGS / "cirr.yaml").read_text(encoding="utf-8") + "layers: 3\n")
    with pytest.raises(UserError, match="no option --layers"):
        read(path)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("cirr.yaml", {"dataset": "CIRR", "num-epochs": 50, "learning-rate": 1e-5}),
        ("fashioniq.yaml", {"dataset": "FashionIQ", "num-epochs": 30, "learning-rate": 2e-5}),
    ],
)
def test_published_settings(name, own):
    values = to_dict(read(CONFIGS / name))
    expected = {
        **own,
        "blip-model-name": "blip2_cir_align_prompt",
        "backbone": "pretrain",
        "batch-size": 128,
        "loss-align": 0.4,
        "loss-rtc": 0.4,
        "weight-decay": 0.05,
        "transform": "targetpad",
        "target-ratio": 1.25,
        "fashioniq-protocol": "original",
        "save-training": True,
        "save-best": True,
    }
    assert {key: values[key] for key in expected} == expected


def test_a_flag_wins_over_a_shipped_file():
    found = read(CONFIGS / "cirr.yaml", "--backbone", "tiny", "--num-epochs", "2")
    assert (found.backbone.backbone, found.optim.num_epochs) == ("tiny", 2)
    assert found.optim.batch_size == 128


def test_the_recipes_grid_holds_each_recipe_of_one_run_on_good_and_bad_triplets():
    grid = read_grid(CONFIGS / "ablations" / "recipes.yaml", read(CONFIGS / "cirr.yaml"), seeds=3)
    found = {cell.name: cell.config.recipe for cell in grid.cells}
    assert found[grid.baseline] == RecipeConfig()
    later = {cell.name: cell.source for cell in grid.cells if cell.source is not None}
    assert later.pop("bank-rerank") == "bank" and set(later.values()) == {grid.baseline}
    assert {found[name].stage for name in later} == {"whole", "bank", "rerank"}
    branches = {c.config.model.query_branch for c in grid.cells if c.config.recipe.stage == "bank"}
    assert branches == {"second", "both", "none"}
    one_by_one = {(r.loss, r.ema) for r in found.values() if r.noise == 0}
    assert one_by_one == {("itc", 0), ("rcl", 0), ("itc", 0.999), ("rcl", 0.999)}
    noisy = {(r.loss, r.noise) for r in found.values() if r.noise > 0}
    assert noisy == {(loss, noise) for loss in ("itc", "rcl") for noise in (0.2, 0.5)}
