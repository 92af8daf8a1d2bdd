"""The model card of an exported model: what it is, what it can do, and what it must not be used for."""

from collections.abc import Iterator, Mapping
from typing import Any

from mer_jax.evaluation.score_table import looks, part_of
from mer_jax.tasks.task import Card

LICENCES = {  # of encoders whose name leaves no doubt
    "sentence-transformers/all-MiniLM-L6-v2": "Apache-2.0",
    "openSMILE eGeMAPSv02 low-level descriptors": "openSMILE's: research and education, nothing commercial",
    "facebook/wav2vec2-base": "Apache-2.0",
    "facebook/hubert-base-ls960": "Apache-2.0",
    "FacebookAI/roberta-base": "MIT",
    "FacebookAI/roberta-large": "MIT",
}
USE = """\
## What it is for, and what not

It is for research on emotion recognition: comparing methods, studying corpora, building demonstrations with people
who have agreed to take part. {targets} Whoever puts it to use should

- ask every person whose words, voice or face it reads for consent, tell them what it is, and let them say no at no
  cost;
- test it first on recordings of the people, the language and the situation that it will meet;
- show its output as an uncertain guess, and let nothing that matters to a person depend on it.

Do not use it

- to hire, rate, pay, promote or dismiss, or to watch people at work;
- to grade, admit or watch pupils and students;
- for policing, at borders, in court, to find lies, intent or danger;
- to diagnose or treat, or as a medical device: it was tested for nothing of the kind;
- to set prices, insurance or credit, or to find the moment at which somebody can be persuaded;
- on children or others who cannot consent, and in secret on anybody.

In the European Union, article 5(1)(f) of Regulation (EU) 2024/1689 (the AI Act) prohibits systems that infer emotions
of people at the workplace and in education, except for medical or safety reasons; other emotion recognition is
high-risk (annex III) and those who are exposed to it must be told (article 50(3)). Other laws, on privacy and
biometric data above all, apply as well. This is no legal advice.

## Limits

- Most public corpora of emotion are acted, scripted or taken from television, with few speakers. People in daily life
  speak and look otherwise; expect clearly worse results there than in the tables above.
- How emotion is shown and read differs between cultures, languages, ages and persons, and the raters brought their
  own habits. The scores are averages over one test part; whether it serves some groups of people worse than others
  was not measured.
{limits}
- Features must come from the very extractors named above, with their versions; others of the same shape give nonsense
  without a warning.
"""


FEEDING = """\
Features go in as the extractor gives them, not standardised. A mask is true where a time step is real: an utterance's
real steps come first, then padding, whose values do not matter. An utterance without a modality has no true step in
its mask, at a length of at least 1; every utterance needs one modality. Values must be finite. `io.json` says the
same for programs."""


def model_card(model: Any, replica: int, about: Mapping[str, Any], files: Mapping[str, tuple[int, str]]) -> str:
    """Markdown. model: a `Predictor`; about: what io.json says; files: size and sha256 by name."""
    protocol, result = model.metrics["protocol"], model.metrics["replicas"][replica]
    task = model.task.card(list(model.modalities), result, protocol["selects_on"])
    sections = [
        _title(model, replica, task),
        _data(model, result),
        _modalities(model),
        _scores(model, result, task),
        [USE.format(targets=task.targets, limits=task.limits).rstrip("\n")],
        [*_inputs(about, task), *_programs(about)],
        _checks(about),
        _files(about, files),
    ]
    return "\n".join("\n".join(section) + "\n" for section in sections)


def _title(model: Any, replica: int, task: Card) -> Iterator[str]:
    protocol = model.metrics["protocol"]
    yield f"# Model card: {model.config.experiment}"
    yield ""
    yield task.purpose
    yield f"Architecture: {model.family.sentence}."
    yield f"One model of a run of mer_jax {model.metrics['versions']['mer_jax']}: {model.replicas[replica]}."
    if protocol["leaky"]:
        yield ""
        yield (
            f"> **LEAKY PROTOCOL.** The scores below are not to be trusted: {protocol['leaky']}. Do not report them as "
            "what the model can do."
        )
    if protocol["selects_on"] == "test":
        yield ""
        yield "> **The test part chose the checkpoint**: the scores below are too good."


def _data(model: Any, result: Mapping[str, Any]) -> Iterator[str]:
    manifest, metrics = model.manifest.manifest, model.metrics
    protocol, fold = metrics["protocol"], result["fold"]
    counts = metrics["data"]["counts"][fold]
    yield "## Data"
    yield ""
    yield f"- corpus: {manifest['name']}, manifest sha256 `{metrics['data']['manifest_sha256']}`"
    yield f"- licence of the corpus: {manifest.get('licence') or 'not stated'}"
    yield f"- protocol: {protocol['title']}; {protocol['description']}; fold {fold}"
    yield "- utterances: " + ", ".join(f"{part} {counts[part]['utterances']}" for part in ("train", "valid", "test"))
    yield f"- checkpoint: {protocol['selection']}; test {protocol['test']}"
    if protocol.get("context", {}).get("hears", "none") != "none":
        heard = protocol["context"]["in_words"]
        yield f"- the scores are of conversations, {heard}; this program reads every utterance by itself"
    yield from (f"- {line}" for line in protocol["leakage"])
    yield from (f"- {one['in_words']}" for one in protocol.get("contamination", []))
    if manifest.get("provenance", {}).get("tool", "").startswith("mer_jax."):
        yield "- the corpus is **generated**: there is no person in it, and the model knows nothing of any"


def _modalities(model: Any) -> Iterator[str]:
    yield "## Modalities"
    yield ""
    yield "| modality | a time step | extractor | encoder | its licence |"
    yield "|---|---|---|---|---|"
    for m, spec in model.modalities.items():
        encoder = model.manifest.encoder(m)
        step = f"{spec['width']} numbers"
        if "pixels" in spec:
            height, width = model.step_spec(m)[0][:2]
            step = f"a frame of {height} x {width} pixels"
        weights = f", weights sha256 `{encoder['weights_sha256']}`" if encoder.get("weights_sha256") else ""
        named = f"{encoder['name']}{weights}" if encoder.get("name") else "not stated"
        licence = spec.get("licence") or encoder.get("licence") or LICENCES.get(encoder.get("name"), "not stated")
        yield "| " + " | ".join(str(x).replace("|", "\\|") for x in (m, step, spec["extractor"], named, licence)) + " |"


def _scores(model: Any, result: Mapping[str, Any], task: Card) -> Iterator[str]:
    metrics = model.metrics
    point = metrics["points"][result["point"]]
    interval, count, part = point.get("interval"), point["replicas"], part_of([point])
    name = "test" if part == "test" else "validation"
    yield f"## Scores on the {name} part{' (leaky protocol)' if metrics['protocol']['leaky'] else ''}"
    yield ""
    if seen := looks(metrics["protocol"]):
        yield f"The test part was {seen} when this run scored it."
    if part == "valid":
        why = "The validation part chose the checkpoint, so that its scores are too good."
        yield f"> **The test part is locked.** {why}"
    if seen or part == "valid":
        yield ""
    percent = all(metric.unit == "percent" for metric in model.task.metrics.values())
    yield ("In percent" if percent else "Fractions in percent, others as they are") + (
        f"; 95 % intervals are of the mean of the run's {count} replica{'s' * (count > 1)}, over resampled dialogues."
        if interval
        else "."
    )
    yield ""
    yield "| | this model | mean of the replicas | 95 % interval |"
    yield "|---|---|---|---|"
    for name, metric in model.task.metrics.items():
        if name not in result[part]:  # a score that is newer than the run
            continue
        between = "-"
        if interval:
            between = f"{metric.format(interval[name]['low'])} to {metric.format(interval[name]['high'])}"
        mine, mean = metric.format(result[part][name]), metric.format(point[part][name]["mean"])
        yield f"| {metric.title} | {mine} | {mean} | {between} |"
    yield ""
    yield from task.scores


def _inputs(about: Mapping[str, Any], task: Card) -> Iterator[str]:
    yield "## How to feed it"
    yield ""
    yield "| input (ONNX) | argument (JAX) | shape | type |"
    yield "|---|---|---|---|"
    for x in about["inputs"]:
        yield f"| `{x['onnx']}` | `{x['jax']}` | [{', '.join(map(str, x['shape']))}] | {x['dtype']} |"
    yield ""
    output = about["output"]
    yield f"Output: `{output['name']}`, {output['dtype']} [batch, {output['shape'][1]}], {task.output}"
    yield ""
    yield FEEDING
    for m, steps in about["time_steps"].items():
        most = steps["read_at_most"]
        read = "" if most is None else f"; of more than {most} the first {most} are read"
        yield f"{m.capitalize()}: the run used sequences of up to {steps['longest']} time steps{read}."


def _programs(about: Mapping[str, Any]) -> Iterator[str]:
    """A program for each file, which runs as it is."""
    files, output = about["files"], about["output"]["name"]
    if "onnx" in files:
        yield from ("", "With ONNX Runtime:", "", "```python", "import numpy as np", "import onnxruntime", "")
        yield f"session = onnxruntime.InferenceSession({files['onnx']!r})"
        yield "inputs = {"
        yield from (f"    {x['onnx']!r}: {_example(x)}," for x in about["inputs"])
        yield from ("}", f"{output} = session.run(['{output}'], inputs)[0]", "```")
    if "stablehlo" in files:
        age = f"{about['versions']['jax']} wrote it; newer ones read it for at least six months"
        yield from ("", f"With JAX ({age}), on a CPU, CUDA or TPU:", "")
        yield from ("```python", "import numpy as np", "from jax import export", "")
        yield f"with open({files['stablehlo']!r}, 'rb') as file:"
        yield "    model = export.deserialize(bytearray(file.read()))"
        for kind in ("features", "mask"):
            yield f"{kind} = {{"
            yield from (f"    {x['modality']!r}: {_example(x)}," for x in about["inputs"] if x["kind"] == kind)
            yield "}"
        yield from (f"{output} = np.asarray(model.call(features, mask))", "```")
    if "safetensors" in files:
        yield from ("", "The arrays by name, to build the model again:", "", "```python")
        yield from ("from safetensors.numpy import load_file", "")
        yield f"arrays = load_file({files['safetensors']!r})  # params/…, model_state/…, input_stats/…, temperature"
        yield "```"


def _example(x: Mapping[str, Any]) -> str:
    """A batch of two utterances of one time step, in NumPy's words."""
    shape = [2, 1, *x["shape"][2:]]
    if x["kind"] == "mask":
        return f"np.ones({shape}, bool)"
    return f"np.zeros({shape}, np.{x['dtype']})"


def _checks(about: Mapping[str, Any]) -> Iterator[str]:
    checks, output = about["checks"], about["output"]["name"]
    yield "## Checks"
    yield ""
    yield f"Inputs: {checks['inputs']}. Largest difference between a file's {output} and the model's, on the CPU,"
    yield f"at most {checks['allowed']:g} allowed:"
    yield ""
    for name in about["files"]:
        for check in checks[name]:
            if name == "safetensors":
                yield f"- safetensors: {check['arrays']} arrays read back, difference {check['difference']:g}"
                continue
            lengths = ", ".join(f"{m} {n}" for m, n in check["time"].items())
            yield f"- {name}: batch {check['batch']}, time steps {lengths}: {check['difference']:.1e}"
    if checks["precision_of_training"] != "float32":
        yield ""
        precision, apart = checks["precision_of_training"], f"{checks['float32_against_trained']:.1e}"
        yield f"It was trained and scored in {precision} and is exported in float32, which is what the files are"
        yield f"compared with; the model as trained gives {output} that differ by up to {apart}."


def _files(about: Mapping[str, Any], files: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield "| file | bytes | sha256 |"
    yield "|---|---|---|"
    yield from (f"| {name} | {size} | `{digest}` |" for name, (size, digest) in files.items())
    yield ""
    yield "Made with " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()) + "."
