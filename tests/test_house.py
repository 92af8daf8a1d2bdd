"""The walls: which room may import which, what starts no JAX, how long things may be, and who knows what targets are."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
import store
from conftest import ROOT

PACKAGE = ROOT / "mer_jax"
# Rooms and files of mer_jax, from the ground up: what each may import besides itself.
ALLOWED = {
    "interrupts": set(),
    "plain": set(),
    "errors": {"interrupts", "plain"},
    "old_runs": set(),
    "text_files": {"errors", "plain"},
    "schema": set(),
    "run_files": {"schema"},
    "files": {"errors", "schema", "text_files"},
    "metrics": set(),
    "runtime": {"errors", "files", "interrupts", "old_runs", "plain", "run_files", "schema"},
    "data": {"errors", "files", "metrics", "runtime", "schema"},  # of metrics what generated data allow, and what definitions there are
    "settings": set(),
    "config": {"data", "errors", "settings"},
    "tasks": {"data", "errors", "metrics", "models", "runtime", "schema", "settings"},  # of models only losses, when JAX has begun
    "models": {"config", "data", "errors", "files", "old_runs", "schema", "settings", "tasks"},
    "training": {"config", "data", "errors", "files", "models", "old_runs", "run_files", "runtime", "settings", "tasks"},
    "evaluation": {
        "config", "data", "errors", "files", "metrics", "models", "old_runs", "run_files", "runtime", "schema", "tasks",
        "training",
    },
    "report": {"config", "errors", "evaluation", "files", "metrics", "models", "plain", "runtime", "tasks", "training"},
    "compare": {"errors", "evaluation", "files", "metrics", "runtime", "tasks"},
    "experiment": {
        "config", "data", "errors", "evaluation", "files", "report", "runtime", "settings", "tasks", "training",
    },
    "predict": {
        "config", "data", "errors", "evaluation", "files", "models", "plain", "run_files", "runtime", "tasks", "text_files",
        "training",
    },
    "demo": {"errors", "plain", "predict", "tasks"},
    "export": {"config", "data", "errors", "evaluation", "experiment", "files", "predict", "tasks", "training"},
    "main": {"config", "errors", "evaluation", "experiment", "files", "interrupts", "old_runs", "runtime"},
    "score": {"errors", "files", "metrics", "plain", "runtime", "text_files"},
    "sweep": {
        "config", "data", "errors", "evaluation", "experiment", "main", "report", "runtime", "tasks", "training",
    },
    "benchmark": {
        "compare", "config", "data", "errors", "evaluation", "experiment", "files", "interrupts", "main", "metrics", "models",
        "plain", "report", "runtime", "settings", "tasks", "training",
    },
    "visualize_vsc": {"config", "data", "errors", "evaluation", "experiment", "files", "models", "runtime", "training"},
}  # fmt: skip
# Without JAX at import, so that reports, comparisons and refusals are quick.
NO_JAX = (
    "errors", "interrupts", "plain", "files", "text_files", "schema", "run_files", "old_runs", "settings", "config", "compare",
    "tasks",
    "data/corpus", "data/corpus_files", "data/corpus_writer", "data/records",
    "data/encoder_layers", "data/speaker_norm", "data/protocols", "data/dialogues", "data/leakage", "data/contamination",
    "data/ledger", "data/frames", "data/synthetic",
    "data/synthetic_dialogues", "metrics/metric", "metrics/classification", "metrics/calibration", "metrics/significance",
    "metrics/definition", "metrics/definitions", "metrics/multilabel", "metrics/ordinal", "metrics/regression",
    "metrics/residuals", "metrics/sentiment", "score",
    "evaluation/finished_run", "evaluation/group_scores", "evaluation/layer_weights", "evaluation/part_of_run", "evaluation/predictions", "evaluation/robustness_curves", "evaluation/conversation_scores", "report", "benchmark", "predict/transcript", "predict/inputs", "predict/requests", "demo",
    "training/replicas", "models/pretrained", "runtime/console",
)  # fmt: skip
# Words of classification, and who may say them besides tasks/, metrics/ and models/.
OF_CLASSES = {
    "argmax", "softmax", "log_softmax", "one_hot", "labels", "label_ids", "confusion", "probabilities", "per_class",
    "classes",
}  # fmt: skip
MAY_SAY = {
    "benchmark/floors.py": {"classes", "confusion"},  # each kind of task has floors of its own
    "data/__main__.py": {"classes"},  # a corpus says what it holds
    "data/corpus.py": {"labels", "label_ids"},
    "data/corpus_files.py": {"labels", "classes"},
    "run_files.py": {"per_class"},  # a field of explain.json
    "data/corpus_writer.py": {"labels", "classes"},
    "data/description.py": {"labels"},
    "data/targets.py": {"labels", "classes"},  # the name of that target
    "data/synthetic.py": {"labels"},  # the demo corpus is one of classes
    "data/synthetic_dialogues.py": {"labels"},  # the same
    "report/sections_classification.py": OF_CLASSES,  # given by the task
    "report/sections_regression.py": {"labels"},  # a field of predictions
    "report/svg.py": {"labels"},  # of an axis
    "evaluation/inspection.py": {"argmax", "per_class"},  # of coordinates; a field of explain.json
    "evaluation/robustness_curves.py": {"argmax"},  # of draws
    "evaluation/finished_run.py": {"labels", "per_class"},  # fields of the files
    "evaluation/predictions.py": {"labels"},
    "evaluation/part_of_run.py": {"labels"},  # a field of predictions
    "evaluation/final.py": {"labels"},
    "training/loop.py": {"labels"},
    "report/sections_inputs.py": {"per_class"},
    "score/columns.py": {"labels", "label_ids", "probabilities"},  # words of strangers' files, and targets in a file
    "score/command.py": {"labels"},
    "score/rows.py": {"argmax", "classes", "labels"},  # each kind of a definition is read here
    "predict/command.py": {"labels"},  # a flag of import_pack
    "demo/html.py": {"argmax"},  # of attention
}


def files(folder="mer_jax"):
    return sorted(path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ([f"mer_jax.{a.name}" for a in node.names] if node.module == "mer_jax" else [node.module])


def top_imports(path):
    """What is imported with the file itself, not inside a function."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_arrows_point_down():
    for path in files():
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("mer_jax.")}
        assert ours - {room_of(path)} <= ALLOWED[room_of(path)], path


def test_tasks_take_losses_of_models_only():
    for path in files("mer_jax/tasks"):
        assert {n for n in imports(path) if n.startswith("mer_jax.models")} <= {"mer_jax.models.losses"}, path


def test_no_two_files_import_each_other():
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in files() + files("data_prep")}
    arrows = {name: {n for n in top_imports(path) if n in names} for name, path in names.items()}
    done, way = set(), []

    def visit(name):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            way.append(name)
            for below in arrows[name]:
                visit(below)
            way.pop()
            done.add(name)

    for name in names:
        visit(name)


@pytest.mark.parametrize("where", NO_JAX)
def test_what_is_checked_before_jax_starts_does_not_import_it(where):
    one = (PACKAGE / where).with_suffix(".py")
    for path in [one] if one.exists() else files(f"mer_jax/{where}"):
        assert not {n.split(".")[0] for n in top_imports(path)} & {"jax", "flax", "optax", "orbax", "grain"}, path


def test_no_torch_or_tensorflow_at_run_time():
    for path in files():
        foreign = {"torch", "tensorflow", "transformers", "tensorflow_datasets", "data_prep"}
        assert not {n.split(".")[0] for n in imports(path)} & foreign, path


def test_a_demo_corpus_is_made_of_what_its_key_names():
    """tests/store.py keeps it until one of these files changes."""
    todo, seen = ["mer_jax.data.synthetic"], set()
    while todo:
        name = todo.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        if name not in seen and path.exists():
            seen.add(name)
            assert str(path.relative_to(ROOT)).startswith(store.CORPUS), path
            todo += [n for n in imports(path) if n.startswith("mer_jax.")]


def test_one_loop_and_no_junk_drawer():
    loops = [p for p in files() if re.search(r"for step in range\(self\._start", p.read_text())]
    assert [p.name for p in loops] == ["loop.py"]
    assert not [p for p in files() if p.stem in ("utils", "common", "helpers", "misc")]


def test_nobody_but_the_task_knows_that_targets_are_classes():
    """Read off the code: names, attributes, arguments and short strings such as keys."""
    for path in files():
        name = path.relative_to(PACKAGE).as_posix()
        if room_of(path) in ("tasks", "metrics", "models"):
            continue
        said = set()
        for node in ast.walk(ast.parse(path.read_text())):
            for field in ("attr", "id", "arg", "value"):
                word = getattr(node, field, None)
                if isinstance(word, str):
                    said.add(word)
        assert said & OF_CLASSES <= MAY_SAY.get(name, set()), f"{name}: {sorted(said & OF_CLASSES)}"


def test_nobody_asks_which_family_it_is():
    """A family says what it needs (models/family.py); runs of 0.8 apart, which did not name theirs."""
    for path in files():
        if room_of(path) not in ("models", "old_runs"):
            text = path.read_text()
            assert not re.search(r"isinstance\([^)]*Experiment", text.replace("CONFIG.value, Experiment", "")), path


def test_files_functions_and_arguments_are_short():
    for path in files() + files("data_prep"):
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                own = [a for a in arguments if a.arg not in ("self", "cls")]
                assert len(own) <= 10, f"{path}: {node.name}"


def test_lines_fit_the_formatter():
    for path in files() + files("data_prep") + files("configs"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert len(line) <= 120, f"{path}:{number}"


def test_every_import_ends_in_the_audit():
    for path in files("data_prep"):
        taken = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        writes = "mer_jax.data.corpus_writer.write_corpus" in taken
        assert not writes or path.parent.name == "audit", f"{path}: takes data_prep.audit's write_and_audit instead"


def test_every_name_is_defined():
    """What jaxtyping names in quotes are axes; ruff and mypy would take them for names, and are told to let them be."""
    line = [
        "ruff",
        "check",
        "--no-cache",
        "--select=F821",
        "--config=lint.ignore=[]",
        "--output-format=json",
        str(ROOT),
    ]
    for found in json.loads(subprocess.run(line, capture_output=True, text=True, check=False).stdout):
        text = Path(found["filename"]).read_text().splitlines()[found["location"]["row"] - 1]
        in_quotes = text[: found["location"]["column"] - 1].count('"') % 2
        assert in_quotes, f"{found['filename']}:{found['location']['row']}: {found['message']}"
