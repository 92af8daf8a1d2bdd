"""The model card of an exported model: what it is, what it can do, and what it must not be used for."""

from collections.abc import Iterator, Mapping
from typing import Any

FAMILIES = {
    "LSGMERExperiment": "LSGMER (arXiv 2504.05158): label embeddings attend to the time steps of each modality",
    "DeepMSIExperiment": "DeepMSI-MER (arXiv 2502.08573): guided compression of the visual sequence, a TCN, contrastive fusion",
    "DeepMSIFramesExperiment": "DeepMSI-MER (arXiv 2502.08573) from frames: a Swin V2 that compresses tokens, a TCN, contrastive fusion",
}
SELECTED = {"validation": "validation part", "test": "test part itself, so that `after` is too good"}
SCORES = {
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "accuracy": "accuracy (WA)",
    "uar": "mean recall (UA, UAR)",
}
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

It is for research on emotion recognition: comparing methods, studying corpora, building demonstrations with people who have
agreed to take part. Its classes are what raters **perceived** in recordings, not what anybody felt: a face, a voice and words
do not show reliably what is felt inside, and raters disagree. Whoever puts it to use should

- ask every person whose words, voice or face it reads for consent, tell them what it is, and let them say no at no cost;
- test it first on recordings of the people, the language and the situation that it will meet;
- show its output as an uncertain guess, and let nothing that matters to a person depend on it.

Do not use it

- to hire, rate, pay, promote or dismiss, or to watch people at work;
- to grade, admit or watch pupils and students;
- for policing, at borders, in court, to find lies, intent or danger;
- to diagnose or treat, or as a medical device: it was tested for nothing of the kind;
- to set prices, insurance or credit, or to find the moment at which somebody can be persuaded;
- on children or others who cannot consent, and in secret on anybody.

In the European Union, article 5(1)(f) of Regulation (EU) 2024/1689 (the AI Act) prohibits systems that infer emotions of people
at the workplace and in education, except for medical or safety reasons; other emotion recognition is high-risk (annex III) and
those who are exposed to it must be told (article 50(3)). Other laws, on privacy and biometric data above all, apply as well. This
is no legal advice.

## Limits

- Most public corpora of emotion are acted, scripted or taken from television, with few speakers. People in daily life speak and
  look otherwise; expect clearly worse results there than in the tables above.
- How emotion is shown and read differs between cultures, languages, ages and persons, and the raters brought their own habits. The
  scores are averages over one test part; whether it serves some groups of people worse than others was not measured.
- It chooses among its classes whatever it is given: silence, another language, noise or an emotion that is none of them.
- Rare classes are learnt badly: look at the F1 of each class, not only at the mean.
- Features must come from the very extractors named above, with their versions; others of the same shape give nonsense without a warning.
"""


def model_card(trained: Any, replica: int, about: Mapping[str, Any], files: Mapping[str, tuple[int, str]]) -> str:
    """Markdown. about: what io.json says; files: size and sha256 by name."""
    parts = [
        _title(trained, replica), _data(trained, replica), _modalities(trained), _scores(trained, replica), USE,
        _feeding(about), _checks(about), _files(about, files),
    ]  # fmt: skip
    return "\n".join("\n".join(part) + "\n" if not isinstance(part, str) else part for part in parts)


def _title(trained: Any, replica: int) -> Iterator[str]:
    protocol = trained.metrics["protocol"]
    yield f"# Model card: {trained.config.experiment}"
    yield ""
    yield f"Classifies an utterance by {' and '.join(trained.modalities)} into {len(trained.labels)} emotions: {', '.join(trained.labels)}."
    yield f"Architecture: {FAMILIES[type(trained.config).__name__]}."
    yield f"One model of a run of mer_jax {trained.metrics['versions']['mer_jax']}: {trained.replicas[replica]}."
    if protocol["leaky"]:
        yield ""
        yield f"> **LEAKY PROTOCOL.** The scores below are not to be trusted: {protocol['leaky']}. Do not report them as what the model can do."
    if protocol["selects_on"] == "test":
        yield ""
        yield "> **The test part chose the checkpoint**: the scores below are too good."


def _data(trained: Any, replica: int) -> Iterator[str]:
    manifest, metrics = trained.manifest.manifest, trained.metrics
    protocol, fold = metrics["protocol"], metrics["replicas"][replica]["fold"]
    counts = metrics["data"]["counts"][fold]
    yield "## Data"
    yield ""
    yield f"- corpus: {manifest['name']}, manifest sha256 `{metrics['data']['manifest_sha256']}`"
    yield f"- licence of the corpus: {manifest.get('licence') or 'not stated'}"
    yield f"- protocol: {protocol['title']}; {protocol['description']}; fold {fold}"
    yield "- utterances: " + ", ".join(f"{part} {counts[part]['utterances']}" for part in ("train", "valid", "test"))
    yield f"- checkpoint: {protocol['selection']}; test {protocol['test']}"
    yield from (f"- {line}" for line in protocol["leakage"])
    if manifest.get("provenance", {}).get("tool", "").startswith("mer_jax."):
        yield "- the corpus is **generated**: there is no person in it, and the model knows nothing of any"


def _modalities(trained: Any) -> Iterator[str]:
    yield "## Modalities"
    yield ""
    yield "| modality | a time step | extractor | encoder | its licence |"
    yield "|---|---|---|---|---|"
    for m, spec in trained.modalities.items():
        encoder = trained.manifest.encoder(m)
        step = f"{spec['width']} numbers"
        if "pixels" in spec:
            step = f"a frame of {trained.config.frames.size} x {trained.config.frames.size} pixels"
        weights = f", weights sha256 `{encoder['weights_sha256']}`" if encoder.get("weights_sha256") else ""
        named = f"{encoder['name']}{weights}" if encoder.get("name") else "not stated"
        licence = spec.get("licence") or encoder.get("licence") or LICENCES.get(encoder.get("name"), "not stated")
        yield "| " + " | ".join(str(x).replace("|", "\\|") for x in (m, step, spec["extractor"], named, licence)) + " |"


def _scores(trained: Any, replica: int) -> Iterator[str]:
    metrics = trained.metrics
    mine = metrics["replicas"][replica]
    point = metrics["points"][mine["point"]]
    interval, count = point.get("interval"), point["replicas"]
    leaky = " (leaky protocol)" if metrics["protocol"]["leaky"] else ""
    yield f"## Scores on the test part{leaky}"
    yield ""
    told = (
        f"; 95 % intervals are of the mean of the run's {count} replica{'s' * (count > 1)}, over resampled dialogues"
        if interval
        else ""
    )
    yield f"In percent{told}."
    yield ""
    yield "| | this model | mean of the replicas | 95 % interval |"
    yield "|---|---|---|---|"
    for name, title in SCORES.items():
        between = f"{_percent(interval[name]['low'])} to {_percent(interval[name]['high'])}" if interval else "-"
        yield f"| {title} | {_percent(mine['test'][name])} | {_percent(point['test'][name]['mean'])} | {between} |"
    yield ""
    yield "| class | precision | recall | F1 | utterances |"
    yield "|---|---|---|---|---|"
    for name, row in mine["test"]["per_class"].items():
        yield (
            f"| {name} | "
            + " | ".join(_percent(row[x]) for x in ("precision", "recall", "f1"))
            + f" | {row['support']} |"
        )
    calibration = mine["calibration"]
    yield ""
    yield f"The exported probabilities are temperature-scaled: logits are divided by {calibration['temperature']:.4f}, fitted on the "
    yield f"{SELECTED[metrics['protocol']['selects_on']]}. Calibration on the test part, before and after:"
    yield ""
    yield "| | before | after |"
    yield "|---|---|---|"
    for name, title in {"ece": "ECE", "nll": "NLL (nats)", "brier": "Brier"}.items():
        yield f"| {title} | {calibration['test'][name]:.4f} | {calibration['test_scaled'][name]:.4f} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _feeding(about: Mapping[str, Any]) -> Iterator[str]:
    files, output = about["files"], about["output"]
    yield "## How to feed it"
    yield ""
    yield "| input (ONNX) | argument (JAX) | shape | type |"
    yield "|---|---|---|---|"
    for x in about["inputs"]:
        yield f"| `{x['onnx']}` | `{x['jax']}` | [{', '.join(map(str, x['shape']))}] | {x['dtype']} |"
    yield ""
    yield f"Output: `{output['name']}`, {output['dtype']} [batch, {output['shape'][1]}], rows sum to 1; classes in this order: "
    yield ", ".join(f"`{name}`" for name in about["labels"]) + "."
    yield ""
    yield "Features go in as the extractor gives them, not standardised. A mask is true where a time step is real: an utterance's real"
    yield "steps come first, then padding, whose values do not matter. An utterance without a modality has no true step in its mask, at a"
    yield "length of at least 1; every utterance needs one modality. Values must be finite. `io.json` says the same for programs."
    for m, steps in about["time_steps"].items():
        read = (
            ""
            if steps["read_at_most"] is None
            else f"; of more than {steps['read_at_most']} the first {steps['read_at_most']} are read"
        )
        yield f"{m.capitalize()}: the run used sequences of up to {steps['longest']} time steps{read}."
    if "onnx" in files:
        yield from ("", "With ONNX Runtime:", "", "```python", "import numpy as np", "import onnxruntime", "")
        yield f"session = onnxruntime.InferenceSession({files['onnx']!r})"
        yield "inputs = {"
        yield from (f"    {x['onnx']!r}: {_example(x)}," for x in about["inputs"])
        yield from ("}", "probabilities = session.run(['probabilities'], inputs)[0]", "```")
    if "stablehlo" in files:
        yield from ("", f"With JAX ({about['versions']['jax']} wrote it; newer ones read it for at least six months), on a CPU, CUDA or TPU:", "")  # fmt: skip
        yield from ("```python", "import numpy as np", "from jax import export", "")
        yield f"with open({files['stablehlo']!r}, 'rb') as file:"
        yield "    model = export.deserialize(bytearray(file.read()))"
        for kind in ("features", "mask"):
            yield f"{kind} = {{"
            yield from (f"    {x['modality']!r}: {_example(x)}," for x in about["inputs"] if x["kind"] == kind)
            yield "}"
        yield from ("probabilities = np.asarray(model.call(features, mask))", "```")
    if "safetensors" in files:
        yield from ("", "The arrays by name, to build the model again:", "", "```python")
        yield from ("from safetensors.numpy import load_file", "")
        yield f"arrays = load_file({files['safetensors']!r})  # params/…, rest/…, input_stats/…, temperature"
        yield "```"


def _example(x: Mapping[str, Any]) -> str:
    """A batch of two utterances of one time step, in NumPy's words."""
    shape = [2, 1, *x["shape"][2:]]
    if x["kind"] == "mask":
        return f"np.ones({shape}, bool)"
    return f"np.zeros({shape}, np.{x['dtype']})"


def _checks(about: Mapping[str, Any]) -> Iterator[str]:
    checks = about["checks"]
    yield "## Checks"
    yield ""
    yield f"Inputs: {checks['inputs']}. Largest difference between a file's probabilities and the model's, on the CPU, at most"
    yield f"{checks['allowed']:g} allowed:"
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
        yield f"It was trained and scored in {checks['precision_of_training']} and is exported in float32, which is what the files are compared"
        yield f"with; the model as trained gives probabilities that differ by up to {checks['float32_against_trained']:.1e}."


def _files(about: Mapping[str, Any], files: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield "| file | bytes | sha256 |"
    yield "|---|---|---|"
    yield from (f"| {name} | {size} | `{digest}` |" for name, (size, digest) in files.items())
    yield ""
    yield "Made with " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()) + "."
