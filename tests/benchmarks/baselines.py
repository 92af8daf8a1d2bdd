"""A training step of DialogueRNN and of MulT beside the same in PyTorch with its fused AdamW (`test` extra), by turns in
one process: seconds of an epoch on a corpus with dialogues, on the same utterances."""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

from mer_jax import config as config_lib
from mer_jax import files
from mer_jax.data import loader
from mer_jax.data.corpus import Corpus
from mer_jax.data.synthetic import demo_corpus
from mer_jax.models.baselines.dialogue_rnn import DialogueRNNExperiment
from mer_jax.models.baselines.mult import MulTExperiment
from mer_jax.runtime import console, sharding
from mer_jax.training import setup, step

ROUNDS = 5


def assembled(config, corpus):
    config.data.modalities = tuple(m for m in ("text", "audio", "visual") if m in corpus.modalities)
    config.loss.label_smoothing = 0.0
    run = setup.assemble(config_lib.validate(config), corpus, Path("unused"))
    run.groups.begin()
    return run


def ours(run):
    items, steps = run.data.batches.training(run.data.order, 0), run.data.order.steps_per_epoch

    def epoch():
        for _ in range(steps):
            terms = run.groups.train([0], *next(items))
        jax.block_until_ready(terms)

    return epoch


def batches_of(run):
    """The batches of an epoch as the model is given them, standardised NumPy arrays, and their rows."""
    data = run.data
    for at in range(data.order.steps_per_epoch):
        rows, shape = data.order[at], getattr(data.order, "layout", None)
        if shape is None:
            *source, _ = next(data.batches.training(data.order, at))
            batch = loader.materialize_batch(*source)
        else:
            batch = loader.materialize_batch(data.batches.source, jax.tree.map(np.asarray, rows), shape)
        yield jax.tree.map(np.asarray, step.standardize(batch, data.inputs[0].input_stats)), rows


def trained(model, batches, torch):
    """An epoch of PyTorch; batches: (arguments of the model, labels, Bool which count)."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, fused=True)

    def epoch():
        for arguments, label, real in batches:
            logits = model(*arguments)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits[real], label[real]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return epoch


def dialogue_rnn(corpus):
    """(our epoch, PyTorch's)"""
    import torch
    from torch_baselines import DialogueRNN

    config = DialogueRNNExperiment()
    config.data.context, config.train.batch_size = "both", 256
    run = assembled(config, corpus)
    batches = []
    for batch, rows in batches_of(run):
        means = [
            np.concatenate(
                [x.sum(1) / np.maximum(group.mask[m].sum(1), 1)[:, None] for m, x in group.features.items()], 1
            )
            for group in batch.groups
        ]
        x, label = np.concatenate(means), np.concatenate([group.targets["label"] for group in batch.groups])
        weight = np.concatenate([group.weight for group in batch.groups])
        members = [np.flatnonzero(rows.dialogue == n) for n in range(1, rows.dialogue.max() + 1)]
        members = [m[np.argsort(rows.place[m])] for m in members]
        shape = (max(map(len, members)), len(members))
        found = {
            "x": np.zeros((*shape, x.shape[1]), np.float32),
            "speaker": np.zeros(shape, np.int64),
            "label": np.zeros(shape, np.int64),
            "real": np.zeros(shape, bool),
            "counts": np.zeros(shape, bool),
        }
        for i, at in enumerate(members):
            values = {"x": x, "speaker": np.clip(rows.speaker - 1, 0, 15), "label": label, "counts": weight > 0}
            for name, value in values.items():
                found[name][: len(at), i] = value[at]
            found["real"][: len(at), i] = True
        t = {name: torch.from_numpy(value) for name, value in found.items()}
        batches.append(((t["x"], t["speaker"], t["real"]), t["label"], t["counts"]))
    settings = config.model
    inputs = batches[0][0][0].shape[-1]
    model = DialogueRNN(inputs, settings.width, settings.hidden, 16, len(corpus.labels), settings.dropout)
    return ours(run), trained(model, batches, torch)


def mult(corpus):
    """(our epoch, PyTorch's)"""
    import torch
    from torch_baselines import MulT

    config = MulTExperiment()
    config.train.batch_size = 64
    run = assembled(config, corpus)
    batches = []
    for batch, _ in batches_of(run):
        x, mask = ({m: torch.from_numpy(np.array(a)) for m, a in of.items()} for of in (batch.features, batch.mask))
        for real in mask.values():
            real[:, 0] |= ~real.any(1)  # a row of nothing but padding has no softmax there
        label = torch.from_numpy(np.array(batch.targets["label"], np.int64))
        batches.append(((x, mask), label, torch.from_numpy(np.array(batch.weight > 0))))
    settings = config.model
    widths = {m: corpus.modalities[m]["width"] for m in config.data.modalities}
    sizes = (settings.width, settings.heads, settings.layers, settings.kernel, settings.dropout)
    model = MulT(widths, *sizes, len(corpus.labels))
    return ours(run), trained(model, batches, torch)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", nargs="?", help="a corpus folder with dialogues; default: the demo corpus")
    parser.add_argument("--only", help="DialogueRNN or MulT")
    arguments = parser.parse_args()
    flags.FLAGS.mark_as_parsed()
    console.console.quiet = True
    sharding.start(files.cache_folder() / "xla")
    corpus = Corpus(arguments.corpus) if arguments.corpus else demo_corpus()
    found = {}
    for name, make in {"DialogueRNN": dialogue_rnn, "MulT": mult}.items():
        if arguments.only not in (None, name):
            continue
        sides = dict(zip(("ours", "PyTorch"), make(corpus), strict=True))
        taken = {side: [] for side in sides}
        for _ in range(ROUNDS + 1):
            for side, epoch in sides.items():
                began = time.perf_counter()
                epoch()
                taken[side].append(time.perf_counter() - began)
        seconds = {side: statistics.median(times[1:]) for side, times in taken.items()}  # the first one compiles
        found[name] = {f"{side}, seconds of an epoch": round(value, 3) for side, value in seconds.items()}
        found[name]["ratio"] = round(seconds["ours"] / seconds["PyTorch"], 3)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
