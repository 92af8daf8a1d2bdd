"""One training step of DeepMSI-MER end to end from frames (`configs/deepmsi_mer_frames.py:published`, 15 x 256 x 256),
beside the same model written in PyTorch, which takes one frame after the other through the backbone as the official
code does.

All sides run by turns in the same minutes, each in a process of its own; one of them is ours without compression. On a
GPU ours is timed in the precision asked for, with frames a second and the share of the device's peak FLOP/s (--peak).
The PyTorch side needs the `prep` extra.
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

TEXT, AUDIO, FRAMES, SIZE, CLASSES = 1024, 768, 15, 256, 6


def write_corpus_of(folder, count):
    from deepmsi_step import description

    from mer_jax.data.corpus import Utterance
    from mer_jax.data.corpus_writer import write_corpus
    from mer_jax.data.frames import encode_frames

    rng = np.random.default_rng(0)
    labels = tuple("abcdef")
    sizes = {"text": (1, TEXT), "audio": (1, AUDIO)}

    def features():
        images = [rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8) for _ in range(FRAMES)]
        found = {m: rng.normal(size=s).astype(np.float32) for m, s in sizes.items()}
        return found | {"visual": encode_frames(images, "uint8")}

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
                label=labels[i % CLASSES],
                sentence="",
                features=features(),
            )
            for i in range(count)
        ),
        description(labels, [*sizes, "visual"]),
    )


def ours(arguments, vsc):
    """(one step as a function that returns when it is done, FLOPs of its products, parameters, MB of the device's
    memory)"""
    import jax
    from absl import flags
    from deepmsi_step import products_of_a_step

    sys.path.append(str(Path(__file__).parents[2]))
    from configs.deepmsi_mer_frames import get_config
    from mer_jax import config as config_lib
    from mer_jax import files
    from mer_jax.data import loader
    from mer_jax.data.corpus import Corpus
    from mer_jax.runtime import sharding
    from mer_jax.runtime.console import console
    from mer_jax.training import setup

    flags.FLAGS.mark_as_parsed()
    console.quiet = True
    sharding.start(files.cache_folder() / "xla")
    config = get_config("published")
    config.train.batch_size = config.train.eval_batch_size = arguments.batch
    config.train.precision, config.model.vsc = arguments.precision, vsc
    config.model.variant = arguments.variant
    config.backbone.rematerialize = arguments.rematerialize
    config.backbone.frames_per_group = arguments.frames_per_group
    config = config_lib.validate(config)
    with tempfile.TemporaryDirectory() as folder:
        write_corpus_of(Path(folder) / "c", 2 * arguments.batch)
        run = setup.assemble(config, Corpus(Path(folder) / "c"), Path("unused"))
        run.groups.begin()
        batches = run.data.batches
        order = loader.training_order(batches.pool, run.data.rows_of_training(), arguments.batch, 0, 1)
        item = next(batches.training(order, 0))
    flops = 2 * products_of_a_step(run, item)
    parameters = sum(x.size for x in jax.tree.leaves(run.groups.params()))

    def one():
        jax.block_until_ready(run.groups.train([0], *item))

    def memory():
        stats = jax.devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use", 0) / 2**20

    return one, flops, parameters, memory


def theirs(arguments):
    import math

    import torch
    from deepmsi_step import torch_head
    from torch import nn
    from torch.nn import functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def windows(x, w):
        n, h, k, d = x.shape
        return x.view(n, h // w, w, k // w, w, d).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, d)

    def whole(x, w, side):
        n = side // w
        return x.view(-1, n, n, w, w, x.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, x.shape[-1])

    class Attention(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
            self.bias = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))

        def forward(self, x, w, mask):
            n, t, d = x.shape
            q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            score = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            score = score * self.scale.clamp(max=math.log(100)).exp()
            steps = torch.arange(1 - w, w, device=x.device) * 8.0 / max(1, w - 1)
            steps = torch.sign(steps) * torch.log2(steps.abs() + 1) / 3
            table = self.bias(torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)).view(-1, self.heads)
            at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
            apart = at[:, :, None] - at[:, None] + w - 1
            index = (apart[0] * (2 * w - 1) + apart[1]).to(x.device)
            score = score + 16 * torch.sigmoid(table[index].permute(2, 0, 1))
            if mask is not None:
                score = (score.view(-1, len(mask), self.heads, t, t) + mask[:, None]).view(-1, self.heads, t, t)
            return self.out((score.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d))

    class Block(nn.Module):
        def __init__(self, width, heads, shifted):
            super().__init__()
            self.shifted = shifted
            self.attention, self.norm1, self.norm2 = Attention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x, guide=None, side=None):
            n, size, _, d = x.shape
            w = size // -(-size // 8)
            shift = w // 2 if self.shifted and size > w else 0
            mask = None
            if shift:
                part = torch.zeros(size, dtype=torch.long)
                part[size - w : size - shift], part[size - shift :] = 1, 2
                region = windows((3 * part[:, None] + part[None])[None, :, :, None], w)[..., 0]
                mask = torch.where(region[:, :, None] == region[:, None], 0.0, -100.0).to(x.device)
                x = torch.roll(x, (-shift, -shift), (1, 2))
            y = whole(self.attention(windows(x, w), w, mask), w, size)
            if shift:
                x, y = (torch.roll(z, (shift, shift), (1, 2)) for z in (x, y))
            y = self.norm1(y)
            if side is None:
                y = x + y
            else:
                y = compress(y.reshape(n, size * size, d), guide, side * side).view(n, side, side, d)
            return y + self.norm2(self.mlp(y))

    def compress(x, guide, keep):
        score = torch.softmax(F.cosine_similarity((x.mean(1) + guide)[:, None], x, dim=-1), dim=-1)
        place = score.topk(keep, dim=1).indices
        return torch.gather(x, 1, place[..., None].expand(-1, -1, x.shape[-1]))

    class Merge(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

        def forward(self, x):
            four = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
            return self.reduce(self.norm(torch.cat(four, -1)))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.early = nn.Sequential(
                nn.Linear(TEXT + AUDIO, 512), nn.BatchNorm1d(512), nn.LeakyReLU(0.01), nn.Linear(512, 384)
            )
            self.embed, self.embed_norm = nn.Conv2d(3, 96, 4, 4), nn.LayerNorm(96)
            sizes = zip((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 6, 2), strict=True)
            self.stages = nn.ModuleList(
                [nn.ModuleList([Block(w, h, j % 2 == 1) for j in range(n)]) for w, h, n in sizes]
            )
            self.merges = nn.ModuleList([Merge(w) for w in (96, 192, 384)])
            self.norm = nn.LayerNorm(768)
            self.head, self.contrastive = torch_head(0)

        def forward(self, text, audio, video):
            guide = self.early(torch.cat([text, audio], -1))
            frames = torch.stack([self.frame(video[:, t], guide) for t in range(video.shape[1])], 1)
            return self.head(text, audio, frames)

        def frame(self, image, guide):
            x = self.embed_norm(self.embed(image).permute(0, 2, 3, 1))
            for i, blocks in enumerate(self.stages):
                for j, block in enumerate(blocks):
                    side = (14, 12, 10)[j // 2] if i == 2 and j % 2 == 0 else None
                    x = block(x, guide, side)
                if i < 3:
                    x = self.merges[i](x)
            return self.norm(x).mean((1, 2))

    torch.manual_seed(0)
    model = Model().to(device)
    contrastive = model.contrastive
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, weight_decay=1e-5)
    b = arguments.batch
    inputs = [torch.randn(s, device=device) for s in ((b, TEXT), (b, AUDIO), (b, FRAMES, 3, SIZE, SIZE))]
    label = torch.randint(CLASSES, (b,), device=device)
    same = label[:, None] == label[None]

    def one():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bfloat16"):
            logits, v, t, a = model(*inputs)
        loss = F.cross_entropy(logits.float(), label)
        if device == "cpu":  # the other side's mask is made on the CPU; two rows seldom have a pair
            loss = loss + 0.25 * (contrastive(v, t, same) + contrastive(v, a, same))
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return (
        one,
        0,
        sum(p.numel() for p in model.parameters()),
        lambda: torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0,
    )


SIDES = ("ours", "ours, no VSC", "PyTorch")


def worker(arguments):
    """Says what it is, then answers every line on stdin with the seconds of a step."""
    side = arguments.side
    one, flops, parameters, memory = theirs(arguments) if side == "PyTorch" else ours(arguments, side == "ours")
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for _ in range(arguments.warm):
        one()
    print(json.dumps([flops, parameters]), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(arguments.steps):
            one()
        seconds = (time.perf_counter() - began) / arguments.steps
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak": peak, "base": base, "device": memory()}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--variant", default="published", choices=("published", "fixed"))
    parser.add_argument("--rematerialize", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--frames-per-group", type=int, default=0, help="of the backbone; 0 = all frames")
    parser.add_argument(
        "--warm", type=int, default=4, help="steps before the clock starts: memory is slow when it is first touched"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="in a round")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--peak", type=float, help="of the device, in 1e12 FLOP/s")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        worker(arguments)
        return
    same = [f"--batch={arguments.batch}", f"--precision={arguments.precision}", f"--variant={arguments.variant}"]
    same += [f"--steps={arguments.steps}", f"--frames-per-group={arguments.frames_per_group}"]
    same += ["--rematerialize" if arguments.rematerialize else "--no-rematerialize"]
    processes = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--side", side, *same], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for side in arguments.sides
    }
    about = {side: json.loads(process.stdout.readline()) for side, process in processes.items()}
    seconds, last = {side: [] for side in processes}, {}
    for _ in range(arguments.rounds):
        for side, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            last[side] = json.loads(process.stdout.readline())
            seconds[side].append(last[side]["seconds"])
    for process in processes.values():
        process.stdin.close()
        process.wait()
    median = {side: statistics.median(s) for side, s in seconds.items()}
    for side in processes:
        flops, parameters = about[side]
        said = {
            "side": side,
            "seconds a step": round(median[side], 3),
            "frames a second": round(arguments.batch * FRAMES / median[side], 1),
            "parameters": parameters,
            "peak MB of the process": round(last[side]["peak"]),
            "of which before the first step": round(last[side]["base"]),
        }
        if flops:
            said["GFLOP of products a step"] = round(flops / 1e9, 1)
        if last[side]["device"]:
            said["peak MB of the device"] = round(last[side]["device"])
        if arguments.peak and flops:
            said["share of peak FLOP/s"] = round(flops / median[side] / arguments.peak / 1e12, 3)
        if side != "PyTorch" and "PyTorch" in median:
            said["time to PyTorch's"] = round(median[side] / median["PyTorch"], 3)
            said["peak memory to PyTorch's"] = round(last[side]["peak"] / last["PyTorch"]["peak"], 3)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
