"""What hearing conversations costs: a training step of LSGMER per utterance with and without context, by turns; padding;
an epoch beside the same model in PyTorch (`prep` extra); a turn of a conversation that goes on, early and late."""

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
from mer_jax.data.batch import Batch, NextTurn
from mer_jax.data.conversations import Layout
from mer_jax.data.corpus import Corpus
from mer_jax.data.synthetic import demo_corpus
from mer_jax.models.lsgmer import LSGMERExperiment
from mer_jax.runtime import console, sharding
from mer_jax.training import setup, step

ROUNDS = 5  # of an epoch of each: batches of utterances differ in length, and so in cost


def assembled(corpus, context, width, batch):
    config = LSGMERExperiment()
    config.data.context, config.model.width, config.train.batch_size = context, width, batch
    config.data.modalities = tuple(m for m in config.data.modalities if m in corpus.modalities)
    run = setup.assemble(config_lib.validate(config), corpus, Path("unused"))
    run.groups.begin()
    return run


class Steps:
    """An epoch of a run; each call returns the seconds of an utterance that is learnt."""

    def __init__(self, run):
        self.run, self.items = run, run.data.batches.training(run.data.order, 0)
        self.padded = self.real = 0
        self.epoch = run.data.order.steps_per_epoch
        self()  # compiles every padded length
        self.padded = self.real = 0

    def one(self):
        *item, rows = next(self.items)
        terms = self.run.groups.train([0], *item, rows)
        jax.block_until_ready(terms)
        shape, lengths = item[2], self.run.data.pool.lengths
        groups = shape.groups if isinstance(shape, Layout) else ((len(rows), shape),)
        self.padded += sum(count * sum(time for _, time in of) for count, of in groups)
        self.real += sum(int(x[rows[rows >= 0]].sum()) for x in lengths.values())
        return int((rows >= 0).sum())

    def __call__(self):
        began = time.perf_counter()
        utterances = sum(self.one() for _ in range(self.epoch))
        return (time.perf_counter() - began) / utterances


def torch_epoch(run, corpus):
    """Seconds of an epoch of the same model, on the same groups of rows, in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
    settings, context = run.config.model, run.config.context
    width, classes = settings.width, len(corpus.labels)

    class Attention(nn.Module):
        def __init__(self, size, heads):
            super().__init__()
            self.heads = heads
            self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))

        def forward(self, query, memory, mask, bias=0.0):
            q, k, v = (
                of(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for of, x in ((self.query, query), (self.key, memory), (self.value, memory))
            )
            score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
            weight = score.masked_fill(~mask, -1e9).softmax(-1)
            return self.out((weight @ v).transpose(1, 2).flatten(2))

    class Layer(nn.Module):
        def __init__(self, size, heads):
            super().__init__()
            self.first, self.second = nn.LayerNorm(size), nn.LayerNorm(size)
            self.attention, self.into, self.out = (
                Attention(size, heads),
                nn.Linear(size, 4 * size),
                nn.Linear(4 * size, size),
            )

        def forward(self, x, mask, bias=0.0):
            y = self.first(x)
            x = x + functional.dropout(self.attention(y, y, mask, bias), settings.encoder_dropout)
            return x + functional.dropout(
                self.out(functional.gelu(self.into(self.second(x)))), settings.encoder_dropout
            )

    class Model(nn.Module):
        def __init__(self, widths):
            super().__init__()
            self.project = nn.ModuleDict(
                {m: nn.Sequential(nn.Linear(n, width), nn.LayerNorm(width)) for m, n in widths.items()}
            )
            self.encoder = nn.ModuleDict({m: Layer(width, settings.heads) for m in widths})
            self.lse = nn.ModuleDict({m: Attention(width, settings.heads) for m in widths})
            self.labels = nn.Parameter(torch.randn(classes, width) * width**-0.5)
            self.fuse, self.norm = nn.Linear(len(widths) * width, width), nn.LayerNorm(width)
            self.enter, self.leave = nn.Linear(width, context.width), nn.Linear(context.width, width)
            self.turns = nn.ModuleList([Layer(context.width, context.heads) for _ in range(context.layers)])
            self.distance = nn.Parameter(torch.zeros(context.layers, context.heads, 2 * context.span + 1))
            self.speakers, self.last, self.left = (
                nn.Embedding(16, context.width),
                nn.LayerNorm(context.width),
                nn.LayerNorm(width),
            )
            self.classifier = nn.Linear(width, classes)

        def utterances(self, features, mask):
            rows = []
            for m, x in features.items():
                x, real = self.project[m](x), mask[m]
                count = real.sum(1, keepdim=True).clamp(min=1)
                first = (x * real[..., None]).sum(1) / count
                h = self.encoder[m](x, real[:, None, None])
                found = self.lse[m](self.labels.expand(len(x), -1, -1), h, real[:, None, None])
                rows.append((torch.sigmoid(found) * first[:, None] + found).mean(1))
            return self.norm(functional.gelu(self.fuse(torch.cat(rows, -1))))

        def forward(self, groups, place, dialogue, speaker, shape):
            x = torch.cat([self.utterances(*group) for group in groups])
            grid = x.new_zeros(shape[0] * shape[1], context.width).index_copy(
                0, place, self.enter(x) + self.speakers(speaker)
            )
            grid = grid.view(*shape, -1)
            back = torch.arange(shape[1])[:, None] - torch.arange(shape[1])[None]
            mask = (dialogue[:, None, :, None] == dialogue[:, None, None]) & (back.abs() <= context.span)
            for layer, bias in zip(self.turns, self.distance, strict=True):
                grid = layer(grid, mask, bias[:, (back + context.span).clamp(0, 2 * context.span)])
            x = self.left(x + self.leave(self.last(grid.flatten(0, 1)[place])))
            cosine = functional.normalize(x, dim=-1) @ functional.normalize(self.labels, dim=-1).T
            return self.classifier(functional.dropout(x, settings.dropout)), cosine

    model = Model({m: corpus.modalities[m]["width"] for m in run.config.data.modalities})
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    batches = [as_torch(run, torch, at) for at in range(run.data.order.steps_per_epoch)]

    def epoch():
        for groups, place, dialogue, speaker, shape, label, real in batches:
            logits, cosine = model(groups, place, dialogue, speaker, shape)
            log_p, log_q = logits.log_softmax(-1), (cosine / 0.1).log_softmax(-1)
            log_m = torch.logaddexp(log_p, log_q) - np.log(2)
            js = 0.5 * ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_q.exp() * (log_q - log_m)).sum(-1))
            each = functional.cross_entropy(logits, label, reduction="none", label_smoothing=0.1) + 0.5 * js
            optimizer.zero_grad()
            (each * real).sum().div(real.sum()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return epoch


def as_torch(run, torch, at):
    """A batch of the run for PyTorch: only its real rows."""
    from mer_jax.data import loader

    order, data = run.data.order, run.data
    rows, layout = order[at], order.layout
    batch = loader.materialize_batch(data.batches.source, jax.tree.map(np.asarray, rows), layout)
    batch = jax.tree.map(np.asarray, step.standardize(batch, data.inputs[0].input_stats))
    groups, keep = [], []
    for group in batch.groups:
        real = group.turns.place >= 0
        keep.append(real)
        groups.append(
            tuple(
                {m: torch.from_numpy(np.ascontiguousarray(x[real])) for m, x in part.items()}
                for part in (group.features, group.mask)
            )
        )
    real = np.concatenate(keep)
    place = rows.place[real].astype(np.int64)
    grid = np.zeros(layout.lines * layout.turns, np.int64)
    grid[place] = rows.dialogue[real]
    label = np.concatenate([group.targets["label"] for group in batch.groups])[real].astype(np.int64)
    weight = np.concatenate([group.weight for group in batch.groups])[real]
    shape = (layout.lines, layout.turns)
    as_tensor = torch.from_numpy
    speaker = as_tensor(np.minimum(rows.speaker[real], 15).astype(np.int64))
    return groups, as_tensor(place), as_tensor(grid.reshape(shape)), speaker, shape, as_tensor(label), as_tensor(weight)


def turns_of_a_conversation(run):
    """Milliseconds of a turn, in the median of 20, after 0, 100 and 1,000 turns; of the model alone, features given."""
    apply, state = run.steps.apply, run.groups.best(0)
    data = run.data
    some = {
        m: np.zeros((1, 16, data.batches.corpus.modalities[m]["width"]), np.float32) for m in run.config.data.modalities
    }
    mask = {m: np.ones((1, 16), bool) for m in some}
    batch = Batch(some, mask, {}, np.ones(1, np.float32))

    @jax.jit
    def turn(state, memory):
        at = NextTurn(batch, np.ones(1, np.int32), memory)
        outputs = apply(state.params, state.model_state, step.standardize(at, state.input_stats))[0]
        return outputs["logits"], outputs["memory"]

    memory, taken = None, []
    for _ in range(1021):
        began = time.perf_counter()
        _, memory = jax.block_until_ready(turn(state, memory))
        taken.append(1e3 * (time.perf_counter() - began))
    return {str(at): round(statistics.median(taken[max(at, 3) : at + 20]), 2) for at in (1, 100, 1000)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", nargs="?", help="default: the demo corpus")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=384, help="utterances of a batch")
    parser.add_argument("--without-torch", action="store_true")
    arguments = parser.parse_args()
    flags.FLAGS.mark_as_parsed()
    console.console.quiet = True
    sharding.start(files.cache_folder() / "xla")
    corpus = Corpus(arguments.corpus) if arguments.corpus else demo_corpus()
    runs = {
        context: assembled(corpus, context, arguments.width, arguments.batch) for context in ("none", "past", "both")
    }
    steps = {context: Steps(run) for context, run in runs.items()}
    seconds = {context: [] for context in steps}
    for _ in range(ROUNDS):  # by turns, so that the machine's moods meet all alike
        for context, one in steps.items():
            seconds[context].append(one())
    found = {
        "milliseconds per utterance": {c: round(1e3 * statistics.median(x), 3) for c, x in seconds.items()},
        "times without context": {
            c: round(statistics.median(a / b for a, b in zip(x, seconds["none"], strict=True)), 3)
            for c, x in seconds.items()
        },
        "padding, percent of time steps": {c: round(100 - 100 * s.real / s.padded, 1) for c, s in steps.items()},
        "milliseconds of a turn after so many": turns_of_a_conversation(runs["past"]),
    }
    if not arguments.without_torch:
        epoch = torch_epoch(runs["both"], corpus)
        epoch()
        ours, theirs = [], []
        for _ in range(3):
            began = time.perf_counter()
            steps["both"]()
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            epoch()
            theirs.append(time.perf_counter() - began)
        found["seconds of an epoch"] = {
            "ours": round(statistics.median(ours), 2),
            "PyTorch": round(statistics.median(theirs), 2),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
