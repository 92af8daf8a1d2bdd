"""One training step of the DeepMSI-MER head at the published widths, beside the same head written in PyTorch.

Text 1024, audio 768, 15 frames of 768 (the Swin backbone that makes them is not part of it). Both sides run by turns
in the same minutes, each in a process of its own, and the machine's own limits are measured between them. PyTorch runs
twice: with the Adam that its constructor gives by default, and with `fused=True`. Needs the `prep` extra.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TEXT, AUDIO, FRAMES, VISUAL, CLASSES = 1024, 768, 15, 768, 6
ROUNDS, STEPS = 5, 8


def write_corpus_of(folder, count):
    from mer_jax.data.corpus import Utterance
    from mer_jax.data.corpus_writer import write_corpus

    rng = np.random.default_rng(0)
    labels = tuple("abcdef")
    sizes = {"text": (1, TEXT), "audio": (1, AUDIO), "visual": (FRAMES, VISUAL)}
    write_corpus(
        folder,
        (
            Utterance(
                id=f"u{i}",
                split=("train", "train", "valid", "test")[i % 4],
                dialogue=f"d{i}",
                turn=0,
                speaker="s",
                session="1",
                label=labels[rng.integers(CLASSES)],
                sentence="",
                features={m: rng.normal(size=s).astype(np.float32) for m, s in sizes.items()},
            )
            for i in range(count)
        ),
        description(labels, sizes),
    )


def description(labels, modalities):
    """Of a corpus of noise."""
    from mer_jax.data.description import Description

    return Description(
        name="bench",
        labels=labels,
        extractors=dict.fromkeys(modalities, "noise"),
        label_words=labels,
        label_embeddings=np.eye(CLASSES),
        label_space="none",
        protocol={"name": "none"},
        provenance={"tool": "none"},
        licence="none needed",
    )


def ours(batch, precision, keep):
    """(one step as a function that returns when it is done, multiply-adds of it, number of parameters)"""
    import jax
    from absl import flags

    from mer_jax import config as config_lib
    from mer_jax.data import loader
    from mer_jax.data.corpus import Corpus
    from mer_jax.models.deepmsi_mer import DeepMSIExperiment
    from mer_jax.runtime.console import console
    from mer_jax.training import setup

    flags.FLAGS.mark_as_parsed()
    console.quiet = True
    config = DeepMSIExperiment()
    model, optim = config.model, config.optim
    config.data.modalities, config.train.precision = ("text", "audio", "visual"), precision
    config.train.batch_size = config.train.eval_batch_size = batch
    model.early_width, model.projection, model.late_widths = 512, 256, (512, 256, 128)
    model.tcn_widths, model.vsc, model.keep = (1024, 1024, 1024), keep > 0, keep or 1.0
    model.projection_dropout, model.early_dropout, model.dropout, model.tcn_dropout = 0.2, 0.3, 0.3, 0.3
    config.loss.label_smoothing = 0.0
    optim.name, optim.weight_decay, optim.clip, optim.ema_decay, optim.schedule = "adam", 1e-5, 0.0, 0.0, "constant"
    config = config_lib.validate(config)
    with tempfile.TemporaryDirectory() as folder:
        write_corpus_of(Path(folder) / "c", 4 * batch)
        run = setup.assemble(config, Corpus(Path(folder) / "c"), Path("unused"))
    run.groups.begin()
    batches = run.data.batches
    items = batches.training(loader.training_order(batches.pool, run.data.rows_of_training(), batch, 0, 1), 0)
    products = products_of_a_step(run, next(items))
    parameters = sum(x.size for x in jax.tree.leaves(run.groups.params()))

    def one():
        jax.block_until_ready(run.groups.train([0], *next(items)))

    return one, products, parameters


def products_of_a_step(run, item):
    """Multiply-adds of the products of a step with this item of the training stream."""
    import jax

    source, positions, lengths, rows = item
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), run.groups.like()["state"])
    step = jax.make_jaxpr(lambda s, w, d, p: run.steps.train(s, w, d, p, lengths))
    return sum_of_products(step(state, np.ones(len(rows), bool), source, positions).jaxpr)


def sum_of_products(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        inner = [getattr(v, "jaxpr", v) for v in equation.params.values() if hasattr(getattr(v, "jaxpr", v), "eqns")]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(sum_of_products(j) for j in inner)
        if equation.primitive.name == "dot_general":
            (contract, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += int(np.prod([shape[i] for i in contract]) * np.prod(equation.outvars[0].aval.shape))
    return total


def torch_head(keep):
    """(the head as a PyTorch module, its contrastive loss)"""
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.nn.utils.parametrizations import weight_norm

    def block(a, b, rate):
        return nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.LeakyReLU(0.01), nn.Dropout(rate))

    class Temporal(nn.Module):
        def __init__(self, a, b, dilation, rate):
            super().__init__()
            self.pad = 2 * dilation
            self.one = weight_norm(nn.Conv1d(a, b, 3, dilation=dilation))
            self.two = weight_norm(nn.Conv1d(b, b, 3, dilation=dilation))
            self.short = nn.Conv1d(a, b, 1) if a != b else nn.Identity()
            self.drop = nn.Dropout(rate)

        def forward(self, x):
            y = self.drop(torch.relu(self.one(F.pad(x, (self.pad, 0)))))
            y = self.drop(torch.relu(self.two(F.pad(y, (self.pad, 0)))))
            return torch.relu(y + self.short(x))

    class Projection(nn.Module):
        def __init__(self, a):
            super().__init__()
            self.project, self.mix, self.norm, self.drop = (
                nn.Linear(a, 256),
                nn.Linear(256, 256),
                nn.LayerNorm(256),
                nn.Dropout(0.2),
            )

        def forward(self, x):
            p = self.project(x)
            return self.norm(p + self.drop(self.mix(F.gelu(p))))

    def compress(x, guide):
        score = torch.softmax(F.cosine_similarity((x.mean(1) + guide)[:, None], x, dim=-1), dim=-1)
        place = torch.topk(score, -(-int(keep * FRAMES * 1000) // 1000), dim=1).indices.sort(1).values
        kept = torch.gather(x, 1, place[..., None].expand(-1, -1, x.shape[-1]))
        dropped = torch.ones_like(score, dtype=torch.bool).scatter(1, place, False)
        cosine = F.normalize(x, dim=-1) @ F.normalize(kept, dim=-1).transpose(1, 2)
        theta = torch.where(
            (cosine > 0.6) & dropped[..., None], torch.softmax(cosine, -1), torch.zeros((), dtype=cosine.dtype)
        )
        total = theta.sum(1)[..., None]
        mean = theta.transpose(1, 2) @ x / torch.where(total > 0, total, 1)
        kept = torch.where(total > 0, 0.9 * kept + 0.1 * mean, kept)
        score = torch.gather(score, 1, place)
        return kept * (1 + score - score.detach())[..., None]

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.early = nn.Sequential(block(TEXT + AUDIO, 512, 0.3), nn.Linear(512, VISUAL)) if keep else None
            self.tcn = nn.Sequential(
                Temporal(VISUAL, 1024, 1, 0.3), Temporal(1024, 1024, 2, 0.3), Temporal(1024, 1024, 4, 0.3)
            )
            self.visual, self.text, self.audio = Projection(1024), Projection(TEXT), Projection(AUDIO)
            self.late = nn.Sequential(
                block(768, 512, 0.3), block(512, 256, 0.3), block(256, 128, 0.3), nn.Linear(128, CLASSES)
            )

        def forward(self, text, audio, frames):
            if keep:
                frames = compress(frames, self.early(torch.cat([text, audio], -1)))
            v = self.visual(self.tcn(frames.transpose(1, 2))[..., -1])
            t, a = self.text(text), self.audio(audio)
            return self.late(torch.cat([v, t, a], -1)), v, t, a

    def contrastive(a, b, same):
        s = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T / 0.5
        below = torch.logsumexp(s.masked_fill(same, -1e9), 1, keepdim=True)
        positive = same & ~torch.eye(len(s), dtype=torch.bool)
        each, count = (F.softplus(below - s) * positive).sum(1), positive.sum(1)
        return (each / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)

    return Head(), contrastive


def theirs(batch, precision, keep, fused):
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    head, contrastive = torch_head(keep)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-5, weight_decay=1e-5, fused=fused)
    inputs = torch.randn(batch, TEXT), torch.randn(batch, AUDIO), torch.randn(batch, FRAMES, VISUAL)
    label = torch.randint(CLASSES, (batch,))
    same = label[:, None] == label[None]

    def one():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits, v, t, a = head(*inputs)
        pairs = contrastive(v, t, same) + contrastive(v, a, same) + contrastive(t, a, same)
        (F.cross_entropy(logits.float(), label) + 0.5 * pairs / 3).backward()
        optimizer.step()

    return one, 0, sum(p.numel() for p in head.parameters())


def machine(batch, precision):
    """Multiply-adds a second of the TCN's own products, and bytes a second of a copy (read and written)."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((batch * FRAMES, 3 * 1024), precision)
    b = jnp.ones((3 * 1024, 1024), precision)
    product, copy = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32)), jax.jit(lambda x: x + 1)
    big = jnp.ones((32 << 20,), jnp.float32)

    def rate(run, amount):
        run().block_until_ready()
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            run().block_until_ready()
            seconds.append(time.perf_counter() - began)
        return amount / statistics.median(seconds)

    return rate(lambda: product(a, b), a.size * b.shape[1]), rate(lambda: copy(big), 2 * big.nbytes)


def worker(side, batch, precision, keep):
    """Says what it is, then answers every line on stdin with the seconds of STEPS steps."""
    if side == "machine":
        for _ in sys.stdin:
            print(json.dumps(machine(batch, precision)), flush=True)
        return
    one, products, parameters = (
        ours(batch, precision, keep) if side == "ours" else theirs(batch, precision, keep, side == "fused")
    )
    for _ in range(3):
        one()
    print(json.dumps([products, parameters]), flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(STEPS):
            began = time.perf_counter()
            one()
            seconds.append(time.perf_counter() - began)
        print(
            json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}),
            flush=True,
        )


SIDES = {"ours": "ours", "adam": "PyTorch", "fused": "PyTorch, fused Adam"}


def compare(batch, precision, keep):
    def start(side):
        command = [sys.executable, __file__, f"--side={side}", f"--batch={batch}", f"--precision={precision}"]
        return subprocess.Popen(
            [*command, f"--keep={keep}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(process):
        process.stdin.write("\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    sides = {side: start(side) for side in (*SIDES, "machine")}
    (products, parameters), (_, same), _ = (json.loads(sides[s].stdout.readline()) for s in SIDES)
    seconds, peak, limits = {side: [] for side in SIDES}, {}, []
    for _ in range(ROUNDS):
        for side in seconds:
            answer = ask(sides[side])
            seconds[side] += answer["seconds"]
            peak[side] = answer["peak"]
        limits.append(ask(sides["machine"]))
    for process in sides.values():
        process.stdin.close()
        process.wait()
    median = {side: statistics.median(s) for side, s in seconds.items()}
    rate, copied = (statistics.median(x) for x in zip(*limits, strict=True))
    moved = 7 * 4 * parameters  # Adam reads weight, gradient and two moments and writes all but the gradient
    return {
        "batch": batch,
        "precision": precision,
        "frames kept by VSC": keep or "no VSC",
        "parameters": parameters,
        "parameters, PyTorch": same,
        "ms": {SIDES[s]: round(1e3 * median[s], 1) for s in SIDES},
        "ours to": {SIDES[s]: round(median["ours"] / median[s], 3) for s in ("adam", "fused")},
        "peak MB of the process": {SIDES[s]: round(peak[s]) for s in SIDES},
        "limit, ms: products": round(1e3 * products / rate, 1),
        "limit, ms: optimiser": round(1e3 * moved / copied, 1),
        "limit / ours": round((products / rate + moved / copied) / median["ours"], 3),
        "million multiply-adds": round(products / 1e6),
        "giga multiply-adds a second": round(rate / 1e9, 1),
        "gigabytes a second": round(copied / 1e9, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    parser.add_argument("--keep", type=float, default=0.5, help="share of the 15 frames that VSC keeps; 0 = no VSC")
    parser.add_argument("--side", choices=(*SIDES, "machine"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        worker(arguments.side, arguments.batch[0], arguments.precision[0], arguments.keep)
        return
    for batch in arguments.batch:
        for precision in arguments.precision:
            print(json.dumps(compare(batch, precision, arguments.keep), indent=1), flush=True)


if __name__ == "__main__":
    main()
