"""Every default, once more: what --help, the documents and docstrings state changes only here too.

An argument that is off or not given (False, zero, None, nothing) has no line, so that a new one
needs none, and one that is turned on is found.
"""

import importlib
import inspect
import math
import pkgutil
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import gatedcir
from gatedcir.benchmarks.answers import ANY, plain
from gatedcir.benchmarks.base import WHOLE, Choice, recalls
from gatedcir.benchmarks.registry import BENCHMARKS
from gatedcir.data import transforms
from gatedcir.data.triplets import evaluation_text, training_text
from gatedcir.device import CPU
from gatedcir.evaluation import statistics
from gatedcir.options import config, model_config, recipe_config
from gatedcir.options.parsing import parse
from gatedcir.page.asked import Asked
from gatedcir.training import losses, step
from gatedcir.training.step_rows import fusion_figures

SCALES, GRID_SCALES, POOLS = (0.5, 1.0, 1.5), (1.0, 0.5, 0.25), (1, 2, 3, 6)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's published preprocessing
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CATEGORIES = ("dress", "shirt", "toptee")

CONFIG = {
    "DataConfig.data_path": None,
    "DataConfig.fashioniq_protocol": "original",
    "DataConfig.fashioniq_categories": CATEGORIES,
    "DataConfig.gallery": "split",
    "DataConfig.skip_unreadable": False,
    "DataConfig.num_workers": 2,
    "DataConfig.limit": None,
    "TransformConfig.transform": "targetpad",
    "TransformConfig.target_ratio": 1.25,
    "TransformConfig.draft": False,
    "GatedFusionConfig.strategy": "gated",
    "GatedFusionConfig.alpha_init": 0.5,
    "GatedFusionConfig.dropout": 0.1,
    "GatedFusionConfig.start": "seed",
    "GatedFusionConfig.reads": "embeddings",
    "GatedFusionConfig.blocks": 1,
    "ModelConfig.visual_layers": (-1,),
    "ModelConfig.layer_fusion": "none",
    "ModelConfig.visual_scales": (1.0,),
    "ModelConfig.scale_fusion": "none",
    "ModelConfig.scale_backbones": None,
    "ModelConfig.adaptive_scales": False,
    "ModelConfig.neck": "none",
    "ModelConfig.neck_args": (),
    "ModelConfig.layer_weights": None,
    "ModelConfig.reduced_width": 64,
    "ModelConfig.visual_start": "identity",
    "ModelConfig.query_branch": "none",
    "ModelConfig.matcher": "none",
    "BackboneConfig.blip_model_name": "blip2_cir_align_prompt",
    "BackboneConfig.backbone": "tiny",
    "BackboneConfig.image_size": None,
    "BackboneConfig.train_vision": False,
    "BackboneConfig.gradient_checkpointing": False,
    "BackboneConfig.scales_sequential": False,
    "LossConfig.loss_align": 0.4,
    "LossConfig.loss_rtc": 0.4,
    "LossConfig.loss_scale": 0.0,
    "LossConfig.loss_consistency": 0.0,
    "LossConfig.loss_gate": 0.0,
    "LossConfig.gate_target": "survival",
    "LossConfig.gate_target_layers": None,
    "LossConfig.gate_target_for": "gate",
    "LossConfig.gate_target_cut": 0.3,
    "LossConfig.loss_itm": 0.0,
    "RecipeConfig.loss": "itc",
    "RecipeConfig.noise": 0.0,
    "RecipeConfig.stage": "whole",
    "RecipeConfig.from_run": None,
    "RecipeConfig.bank_temperature": 0.05,
    "RecipeConfig.bank_hardest": 0,
    "RecipeConfig.ema": 0.0,
    "RecipeConfig.rerank": 50,
    "RecipeConfig.extra_captions": (),
    "RecipeConfig.extra_weight": 1.0,
    "RecipeConfig.rerank_negatives": 7,
    "RecipeConfig.rerank_easy": 0,
    "OptimConfig.num_epochs": 10,
    "OptimConfig.batch_size": 64,
    "OptimConfig.related": 1,
    "OptimConfig.accumulate": 1,
    "OptimConfig.learning_rate": 1e-05,
    "OptimConfig.fusion_rate": 1.0,
    "OptimConfig.warmup": 0.02,
    "OptimConfig.scale_warmup_epochs": 0,
    "OptimConfig.weight_decay": 0.05,
    "OptimConfig.max_grad_norm": 1.0,
    "OptimConfig.seed": 0,
    "OptimConfig.mixed_precision": "auto",
    "OptimConfig.cache_dtype": "auto",
    "RunConfig.output": None,
    "RunConfig.resume": None,
    "RunConfig.validation_frequency": 1,
    "RunConfig.tracker": ("tensorboard",),
    "RunConfig.save_training": False,
    "RunConfig.on_nan": "stop",
    "RunConfig.save_every_minutes": 10.0,
    "RunConfig.save_every_steps": 0,
    "RunConfig.save_tower": False,
    "RunConfig.save": True,
    "RunConfig.save_best": True,
    "RunConfig.save_memory": False,
    "RunConfig.cache_features": "auto",
    "RunConfig.cache_device": "auto",
    "RunConfig.compile": False,
    "RunConfig.log_every": 0,
    "RunConfig.device": "auto",
    "RunConfig.dry_run": False,
}

# Options of single commands.
SCRIPTS = ("bench_page", "bench_query", "pretrain_tiny", "mutate_inputs", "chaos")
MODULES = {name: name for name in SCRIPTS}
OPTIONS = {
    "submit.split": "test",
    "submit.device": "auto",
    "evaluate.composition": True,
    "evaluate.split": "val",
    "evaluate.device": "auto",
    "evaluate.rerank": 50,
    "submit.rerank": 50,
    "submit.fashioniq_categories": CATEGORIES,
    "pictures.fashioniq_categories": CATEGORIES,
    "submit.num_workers": 2,
    "ablate.seeds": 5,
    "ablate.jobs": 1,
    "ablate.engine": "processes",
    "demo.output": Path("demo"),
    "demo.train": 28000,
    "demo.val": 750,
    "demo.num_epochs": 1,
    "demo.num": 8,
    "serve.port": 7860,
    "serve.host": "127.0.0.1",
    "serve.rerank": 50,
    "serve.device": "auto",
    "bench_query.model_path": "tiny",
    "bench_query.images": 256,
    "bench_query.queries": 100,
    "bench_page.model_path": "tiny",
    "bench_page.images": 5000,
    "bench_page.requests": 200,
    "bench_page.slow": 100,
    "pictures.split": "val",
    "pictures.format": "png",
    "pictures.num": 8,
    "pictures.device": "auto",
    "mutate_inputs.inputs": 10_000,
    "chaos.event": "kill",
    "chaos.times": 20,
    "pretrain_tiny.share": 1.0,
    "synthetic.train": 8000,
    "synthetic.val": 600,
    "synthetic.test": 600,
    "resize.image_size": 224,
    "resize.num_workers": 2,
    "check.num_workers": 2,
    "check.images": True,
    "index.num_workers": 2,
    "index.index_shards": 1,
    "index.index_replicas": 1,
    "index.pq_bytes": 64,
    "index.pool_factor": 1,
    "average.device": "auto",
    "index.device": "auto",
    "index.engine": "process",
    "search.k": 10,
    "search.rerank": 50,
    "search.device": "auto",
}

ARGUMENTS = {
    "Part": {"kind": "trained", "span": 1},
    "Guard": {"seconds": 60, "together": 300_000_000},
    "draw_map": {"size": 9},
    "draw_reference": {"size": 9},
    "numbers": {"form": "z.2f"},
    "Maps": {"ends": (0.0, 1.0)},
    "Asked": {"alpha": 1.0, "k": 12},
    "Visit": {"now": Asked(), "shown": 12},
    "Query": {"strength": 1.0},
    "Server": {"shards": 1, "replicas": 1},
    "Lists": {"pq_bytes": 64, "pool_factor": 1},
    "Engine": {"device": "auto"},
    "Shelf.thumbnail": {"side": 320},
    "Site.thumbnail": {"side": 320},
    "make_app": {"local": True},
    "Benchmark": {
        "metrics": recalls,
        "headline": "recall_at10",
        "splits": ("train", "val", "test"),
        "evaluation_text": evaluation_text,
        "training_text": training_text,
        "read_answers": plain,
        "rules": ANY,
    },
    "Choice": {"protocol": "original", "gallery": "split", "images": True, "also": frozenset()},
    "Picture": {"kind": "other"},
    "Tile": {"kind": "other"},
    "tile_of": {"kind": "other"},
    "Text": {"kind": "text"},
    "intervals": {"draws": 2000},
    "differences": {"draws": 2000},
    "RunFolder": {"trackers": ("tensorboard",)},
    "Rules": {"length": 1},
    "MatchReranker": {"runs_on": CPU, "search": 2.0},
    "format_composition": {"whole": "model"},
    "compare": {"trained_on": (None, None)},
    "complementary": {"reduction": "mean"},
    "bank_similarity": {"entries": 1 << 22},
    "composed_losses": {"contrast": "itc"},
    "contrastive": {"contrast": "itc"},
    "losses_of": {"contrast": "itc"},
    "parse_circo": {"images": True},
    "read_answers": {"read": plain},
    "read_queries": {"choice": WHOLE},
    "Claim": {"flag": "--output"},
    "ComposedRetriever.encode_text": {"prompted": True},
    "boxes": {"size": 128},
    "estimate": {"resamples": 9999},
    "estimate_share": {"resamples": 9999},
    "find_unreadable": {"progress": True},
    "bar": {"show": True},
    "make_accelerator": {"device": "auto"},
    "show": {"size": 9},
    "open_checkpoint": {"device": "auto"},
    "open_evaluator": {"device": "auto", "rerank": 50},
    "parse_cirr": {"gallery": "split"},
    "read_yaml": {"examples": "configs/"},
    "ABSI": {"scales": SCALES, "num_heads": 8, "start": "seed"},
    "AdaptiveScaleSelector": {"scales": SCALES, "in_channels": 3, "threshold": 0.5},
    "AdditiveFusion": {"alpha_init": 0.5, "dropout": 0.1, "start": "seed"},
    "Align": {"down": "max"},
    "AttentiveFusion": {
        "text": "contextual",
        "heads": 4,
        "alpha_init": 0.5,
        "dropout": 0.1,
        "start": "seed",
    },
    "GroundedFusion": {
        "layers": 2,
        "heads": 4,
        "alpha_init": 0.5,
        "dropout": 0.1,
        "start": "seed",
    },
    "VisionTower.token_count": {"scale": 1.0},
    "VisionTower.vision_levels": {"scale": 1.0},
    "ChannelAttention": {"reduction": 4, "activation": nn.ReLU},
    "ComposedRetriever": {"layers": (-1,), "scales": (1.0,), "reads": "embeddings"},
    "ConcatFusion": {"reduced": 64},
    "ConcatScaleFusion": {"scales": SCALES},
    "CrossLevelAttention": {"reduced": 64},
    "CrossScaleAttention": {"num_heads": 8},
    "DeformableConv2d": {"kernel_size": 3},
    "DeformableScaleIntegration": {"scales": SCALES, "start": "seed"},
    "DynamicLayerFusion": {"num_layers": 2, "use_gate": True, "combine": "product"},
    "DynamicMultiScaleFusion": {"num_layers": 2, "use_gate": True, "combine": "product"},
    "Evaluator": {"batch_size": 128, "gallery_on_gpu": True, "runs_on": CPU},
    "FeatureFolder.fill": {"progress": True},
    "FeatureFusion": {"fusion_method": "concat"},
    "GatedFusion": {"alpha_init": 0.5, "dropout": 0.1, "start": "seed"},
    "HierarchicalScaleIntegration": {"scales": SCALES, "start": "seed"},
    "IntegratedScaleFusion": {"scales": SCALES},
    "InterpolatingFusion": {"alpha_init": 1.0, "dropout": 0.1, "start": "seed"},
    "ListFusion": {"fusion": "concat", "channels": "first"},
    "MeanScaleFusion": {"scales": SCALES},
    "MultiScaleInputProcessor": {
        "backbone": "pvt_v2_b2",
        "scales": SCALES,
        "use_hierarchical": True,
        "num_classes": 1,
        "start": "seed",
        "multi_scale": True,
    },
    "MultiScaleInputProcessor.enable_multi_scale": {"enabled": True},
    "MultiScaleModel": {"scales": GRID_SCALES, "fusion_method": "concat"},
    "MultiScaleNeck": {"scales": GRID_SCALES},
    "MultiScalePooling": {"pool_sizes": POOLS, "pool_type": "avg"},
    "MultiScalePoolingNeck": {"pool_sizes": POOLS, "pool_type": "avg"},
    "PlaceAttention": {"reduced": 64},
    "MultiScaleTransform": {"scales": GRID_SCALES, "mode": "bilinear"},
    "NoScaleFusion": {"scales": SCALES},
    "PyramidDownsample": {"num_levels": 3, "mode": "bilinear"},
    "PyramidNeck": {"num_levels": 3},
    "PyramidNetwork": {"num_levels": 3, "base_channels": 64},
    "PyramidPooling": {"pool_sizes": POOLS},
    "PyramidPoolingNeck": {"pool_sizes": POOLS},
    "Range": {"least": -math.inf, "below": math.inf},
    "Rescale": {"scale_factor": 0.5, "mode": "bilinear"},
    "ScaleAwareLoss": {"weights": (0.5, 1.0, 0.5), "base": 1},
    "ScaleFusion": {"fusion_method": "concat"},
    "ScaleIntegration": {"scales": SCALES},
    "ScaleSpecificProcessor": {
        "backbones": ("resnet50", "pvt_v2_b2", "efficientnet"),
        "scales": SCALES,
    },
    "Gallery.search": {"k": 10, "rerank": 50},
    "Indexing.add": {"num_workers": 2},
    "Indexing": {"engine": "process"},
    "Indexing.sync": {"num_workers": 2},
    "Manifest": {"format": 1},
    "OnnxModel.encode_text": {"prompted": True},
    "Retriever.form": {"precision": "fp16"},
    "Retriever.index": {"num_workers": 2},
    "ScaleTokens": {"scales": SCALES},
    "SpatialAttention": {"kernel_size": 7},
    "SpatialPyramidPooling": {"num_levels": 3, "pool_type": "max"},
    "SpatialPyramidPoolingNeck": {"num_levels": 3, "pool_type": "max"},
    "Survival": {"cut": 0.3, "taught": "gate"},
    "TextFusion": {"dropout": 0.1, "start": "seed"},
    "Tokenizer": {"max_length": 32},
    "TripletBatches": {"processes": 1},
    "TripletDataset": {"text": training_text},
    "UNetNeck": {"num_levels": 2},
    "UNet": {"features": (64, 128, 256, 512), "activation": "none"},
    "VisualFusion": {
        "num_layers": 1,
        "scales": (1.0,),
        "scale_fusion": "none",
        "layer_fusion": "none",
        "neck": "none",
        "start": "identity",
        "reduced": 64,
    },
    "make_layer_fusion": {"reduced": 64},
    "channel_attention_fusion": {"channels": "first"},
    "concat_fusion": {"reduced": 64, "channels": "first"},
    "weighted_sum_fusion": {"channels": "first"},
    "cache_in_memory": {"progress": True},
    "check_scales": {"at_least": 1},
    "conv_block": {"stride": 1},
    "describe": {"keep": 1.0},
    "describe_change": {"keep": 1.0},
    "draw": {"size": 128},
    "load_splits": {"choice": Choice()},
    "make_source": {"may_write": True},
    "make_transform": {"target_ratio": 1.25, "mean": CLIP_MEAN, "std": CLIP_STD},
    "match_size": {"down": "max"},
    "parse_fashioniq": {"protocol": "original", "gallery": "split"},
    "resize": {"mode": "bilinear", "antialias": True},
}

CONSTANTS = [
    (transforms.CLIP_MEAN, CLIP_MEAN),
    (transforms.CLIP_STD, CLIP_STD),
    (
        {name: each.folder for name, each in BENCHMARKS.items()},
        {
            "CIRR": Path("cirr_dataset"),
            "FashionIQ": Path("fashionIQ_dataset"),
            "CIRCO": Path("circo_dataset"),
        },
    ),
    (step.TEMPERATURES, (0.001, 0.5)),
    (losses.AUXILIARY_SCALE, 0.5),
    ((statistics.LEVEL, statistics.RESAMPLES), (0.95, 9999)),
]


def is_on(value):
    return value is not inspect.Parameter.empty and value not in (None, False, "", (), slice(None))


def public_callables():
    """Name -> function, class or method, over all modules of the package."""
    for found in pkgutil.walk_packages(gatedcir.__path__, "gatedcir."):
        module = importlib.import_module(found.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", "") != found.name:
                continue
            if inspect.isfunction(thing):
                yield name, thing
            elif inspect.isclass(thing) and not issubclass(thing, BaseException):
                yield name, thing
                for part, method in vars(thing).items():
                    if inspect.isfunction(method) and not part.startswith("_"):
                        yield f"{name}.{part}", method


def defaults_of(kind):
    return {
        f"{kind.__name__}.{one.name}": one.default
        for one in fields(kind)
        if one.default is not MISSING
    }


def changed(found, pinned):
    """What differs, name -> (found, pinned)."""
    names = found.keys() | pinned.keys()
    pairs = {name: (found.get(name, "no such"), pinned.get(name, "no line")) for name in names}
    return {name: pair for name, pair in pairs.items() if repr(pair[0]) != repr(pair[1])}


def test_options_of_training_and_evaluation():
    kinds = [
        kind
        for module in (config, model_config, recipe_config)
        for kind in vars(module).values()
        if is_dataclass(kind) and getattr(kind, "__module__", "") == module.__name__
    ]
    assert not changed({k: v for kind in kinds for k, v in defaults_of(kind).items()}, CONFIG)


def test_options_of_single_commands():
    found = {}
    for module in {name.partition(".")[0] for name in OPTIONS}:
        options = importlib.import_module(
            MODULES.get(module, f"gatedcir.commands.{module}")
        ).Options
        found |= {
            name.replace("Options", module): value for name, value in defaults_of(options).items()
        }
    found = {name: value for name, value in found.items() if not is_dataclass(value)}
    assert not changed({name: value for name, value in found.items() if is_on(value)}, OPTIONS)


def test_arguments_of_public_functions_and_classes():
    found = {}
    for name, thing in public_callables():
        if thing.__module__.endswith("config") or thing.__module__.startswith("gatedcir.commands"):
            continue
        for one in inspect.signature(thing).parameters.values():
            if is_on(one.default) and "factory" not in repr(one.default):
                found.setdefault(name, {})[one.name] = one.default
    assert not changed(found, ARGUMENTS)


@pytest.mark.parametrize(("found", "pinned"), CONSTANTS)
def test_constants(found, pinned):
    assert found == pinned


def test_help_states_the_defaults(capsys):
    with pytest.raises(SystemExit):
        parse(config.Config, ["--help-all"], description="")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for flag, value in (
        ("--model.gated-fusion.alpha-init FLOAT", "0.5"),
        ("--model.gated-fusion.dropout FLOAT", "0.1"),
        ("--target-ratio FLOAT", "1.25"),
        ("--learning-rate FLOAT", "1e-05"),
        ("--loss-rtc FLOAT", "0.4"),
    ):
        _, _, behind = text.partition(flag)
        assert behind.partition("(default: ")[2].startswith(f"{value})"), flag


def test_figures_of_the_log():
    gate = torch.tensor([[[0.0, 0.5], [0.5, 0.2]]], dtype=torch.float64)
    found = fusion_figures({"gate": gate, "alpha": torch.tensor(0.7), "change": torch.tensor(0.1)})
    # Mean 0.3; squared distances 0.09, 0.04, 0.04, 0.01 over three degrees of freedom.
    expected = {"gate_mean": 0.3, "gate_std": 0.06**0.5, "alpha": 0.7, "fusion_change": 0.1}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)
    assert fusion_figures({}) == {}
