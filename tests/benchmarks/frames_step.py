"""One training step of DeepMSI-MER end to end from frames (`configs/deepmsi_mer_frames.py:published`, 15 x 256 x 256),
beside the same model written in PyTorch (tests/torch_deepmsi.py, without dropout), which takes one frame after the other
through the backbone as the official code does.

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
    import torch
    from deepmsi_step import torch_head
    from torch.nn import functional as F

    sys.path.append(str(Path(__file__).parents[1]))
    from torch_deepmsi import DeepMSI

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    sizes = {"early": 512, "tcn": (1024,) * 3, "projection": 256, "late": (512, 256, 128), "classes": CLASSES}
    model, (_, contrastive) = DeepMSI((TEXT, AUDIO), 96, 3, **sizes).to(device), torch_head(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, weight_decay=1e-5)
    b = arguments.batch
    inputs = [torch.randn(s, device=device) for s in ((b, TEXT), (b, AUDIO), (b, FRAMES, SIZE, SIZE, 3))]
    label = torch.randint(CLASSES, (b,), device=device)
    same = label[:, None] == label[None]

    def one():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bfloat16"):
            logits, p = model(*inputs)
        loss = F.cross_entropy(logits.float(), label)
        if device == "cpu":  # the other side's mask is made on the CPU; two rows seldom have a pair
            loss = loss + 0.25 * sum(contrastive(p["visual"], p[m], same) for m in ("text", "audio"))
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
