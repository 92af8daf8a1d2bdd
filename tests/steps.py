"""One process of a run that only trains a few steps with SGD: python tests/steps.py HOW CORPUS OUT.

Process 0 saves, for both models and both placements of the data, and for conversations that are streamed: loss and
gradient of every step, the final params, and what is predicted of the test part. The gradient is what the params moved
by, over the rate: neither clip nor decay come between.
"""

import sys

import jax
import numpy as np
from absl import flags
from experiments import hearing, of_family, with_plain_sgd

from mer_jax import config as config_lib
from mer_jax import files
from mer_jax.data.corpus import Corpus
from mer_jax.main import parse_distributed
from mer_jax.runtime import distributed, run_log, sharding
from mer_jax.training import setup

STEPS = 8
RATE = 0.05


def experiment(family, context, placement):
    config = hearing(with_plain_sgd(of_family(family), RATE), context)
    config.data.placement, config.data.max_length = placement, (8,)  # one padded length: one program
    config.train.batch_size = 21  # 8 devices cannot share it evenly
    if family == "lsgmer":
        config.model.width = 32
    else:
        config.model.early_width = config.model.projection = 32
        config.model.tcn_widths, config.model.late_widths = (32, 32), (32,)
    return config_lib.validate(config)


def train(config, corpus):
    run = setup.assemble(config, corpus, "unused")
    run.groups.begin()
    batches, order = run.data.batches, run.data.order

    def params():
        leaves = jax.tree.leaves(distributed.to_host(run.groups.saved()["state"].params))
        return np.concatenate([x.ravel() for x in leaves]).astype(np.float64)

    losses, at = [], [params()]
    for _, batch in zip(range(STEPS), batches.training(order, 0), strict=False):
        losses.append(run_log.by_replica(run.groups.train(run.live(), *batch))[0]["loss"])
        at.append(params())
    scores = run.groups.score([0], "test", 16, best=False)[0]
    return {
        "losses": np.array(losses),
        "gradients": -np.diff(at, axis=0) / RATE,
        "params": at[-1],
        "predicted": scores["predicted"],
    }


def main(how, corpus, out):
    flags.FLAGS.mark_as_parsed()
    distributed.start(parse_distributed(how), 60, out)
    sharding.start(files.cache_folder() / "xla")
    found = {}
    runs = [(family, "none", placement) for family in ("lsgmer", "deepmsi_mer") for placement in ("resident", "stream")]
    for family, context, placement in [*runs, ("lsgmer", "both", "stream")]:
        for name, value in train(experiment(family, context, placement), Corpus(corpus)).items():
            found[f"{family} {context} {placement} {name}"] = value
    if distributed.is_primary():
        np.savez(out, **found)


if __name__ == "__main__":
    from etils import epath

    main(sys.argv[1], sys.argv[2], epath.Path(sys.argv[3]))
