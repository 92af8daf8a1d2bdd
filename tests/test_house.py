"""The walls: which file may import which."""

import ast
import re

from conftest import ROOT

ALLOWED = {
    "errors": set(),
    "cache": set(),
    "batch": set(),
    "pure": set(),
    "distributed": {"errors"},
    "shard": {"errors"},
    "weights": {"errors"},
    "optim": set(),
    "log": {"distributed"},
    "statistics": set(),
    "losses": {"batch"},
    "metrics": {"statistics"},
    "config": {"errors", "protocols"},
    "frames": set(),
    "records": {"errors", "frames"},
    "protocols": {"errors", "records"},
    "replicas": {"config", "errors", "protocols"},
    "checkpoint": {"distributed", "errors"},
    "synthetic": {"cache", "errors", "frames", "records"},
    "data": {"batch", "distributed", "errors", "frames", "records", "shard"},
    "models": {"batch", "models"},
    "step": {"batch", "losses", "metrics"},
    "explain": {"batch", "step"},
    "evaluate": {"data", "distributed", "explain", "log", "records", "shard", "step"},
    "transcript": {"errors"},
    "inputs": {"errors", "records", "transcript"},
    "shown": set(),
    "demo": {"errors", "inputs", "predict", "shown"},
    "predict": {"errors", "inputs", "log", "statistics", "trained"},
    "trained": {"batch", "cache", "checkpoint", "config", "data", "errors", "explain", "frames", "inputs", "program", "records", "shard", "step"},
    "program": {
        "batch", "config", "data", "errors", "frames", "log", "losses", "models", "optim", "protocols", "pure", "records", "replicas", "shard",
        "step", "weights",
    },
    "fleet": {"data", "distributed", "log", "program", "replicas", "shard", "step"},
    "summary": {"data", "log", "records", "replicas", "statistics"},
    "train": {
        "checkpoint", "config", "data", "distributed", "errors", "evaluate", "fleet", "log", "program", "protocols", "records", "replicas", "shard",
        "statistics", "summary",
    },
    "robustness": {"batch", "config", "data", "distributed", "errors", "log", "records", "statistics", "step", "train"},
    "main": {"cache", "config", "distributed", "errors", "log", "protocols", "records", "replicas", "report", "robustness", "shard", "synthetic", "train", "weights"},
    "kept": {"cache", "config", "data", "errors", "frames", "main", "records", "shard", "step", "train"},
    "sweep": {"report", "config", "distributed", "errors", "log", "main", "records", "summary", "train"},
    "card": set(),
    "rewrite": set(),
    "inference": {"config", "program", "trained"},
    "agreement": {"errors", "inference", "inputs", "main"},
    "export": {"agreement", "card", "config", "errors", "inference", "records", "rewrite", "trained"},
    "compare": {"errors", "results", "statistics"},
    "results": {"errors", "statistics"},
    "page": set(),
    "plots": {"page"},
    "sections": {"compare", "config", "errors", "page", "plots", "replicas", "results", "statistics"},
    "report": {"errors", "page", "results", "sections"},
}  # fmt: skip
NO_JAX = (
    "transcript",
    "inputs",
    "shown",
    "errors",
    "cache",
    "config",
    "frames",
    "transcript",
    "records",
    "synthetic",
    "protocols",
    "replicas",
    "statistics",
    "compare",
    "results",
    "page",
    "plots",
    "sections",
    "report",
    "weights",
    "card",
)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ([f"mer_jax.{a.name}" for a in node.names] if node.module == "mer_jax" else [node.module])


def names(path):
    """What a file imports from other files, as module.name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{a.name}" for a in node.names)


def rooms():
    for path in sorted((ROOT / "mer_jax").rglob("*.py")):
        if path.name != "__init__.py":
            yield path.relative_to(ROOT / "mer_jax").with_suffix("").parts[0], path


def test_arrows_point_down():
    for room, path in rooms():
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("mer_jax.")}
        assert ours <= ALLOWED[room], path


def test_what_is_checked_before_jax_starts_does_not_import_it():
    for room, path in rooms():
        if room in NO_JAX:
            assert not {n.split(".")[0] for n in imports(path)} & {"jax", "flax", "optax", "orbax", "grain"}, path


def test_no_torch_or_tensorflow_at_run_time():
    for _, path in rooms():
        foreign = {"torch", "tensorflow", "transformers", "tensorflow_datasets", "data_prep"}
        assert not {n.split(".")[0] for n in imports(path)} & foreign, path


def test_one_loop_and_no_junk_drawer():
    loops = [p.name for _, p in rooms() if re.search(r"for (at|step) in range\(start", p.read_text())]
    assert "train.py" in loops
    assert not [p for _, p in rooms() if p.stem in ("utils", "common", "helpers", "misc")]


def test_every_import_ends_in_the_audit():
    for path in (ROOT / "data_prep").rglob("*.py"):
        writes = "mer_jax.data.corpus_writer.write_corpus" in names(path)
        assert not writes or path.parent.name == "audit", f"{path}: takes data_prep.audit.write_and_audit instead"
