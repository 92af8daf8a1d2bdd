"""Train and score a model: `python -m mer_jax.main --config=configs/lsgmer.py`."""

import difflib
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from mer_jax import cache, protocols
from mer_jax import config as config_lib
from mer_jax.demo import demo_corpus
from mer_jax.errors import UserError, reported
from mer_jax.records import Corpus
from mer_jax.replicas import replicas_of

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="The experiment: a file of configs/, e.g. configs/lsgmer.py or configs/lsgmer.py:tiny. "
    "Any field of it can be changed: --config.optim.learning_rate=3e-4, --config.data.path=DIR, --config.seed=1."
)  # fmt: skip
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything the run makes goes; runs/<experiment> if not given. The same command on the same "
    "folder resumes an unfinished run."
)  # fmt: skip
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval"], "train: train, then score. eval: score a finished workdir again."
)
CHANGED = flags.DEFINE_bool(
    "allow_config_change", False, "Resume a workdir although the config is not the one it began with."
)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # JAX lists the backends it did not find
    with reported():
        experiment = config_lib.validate(CONFIG.value)
        corpus = open_corpus(experiment)
        check(experiment, corpus)
        from mer_jax import shard, train  # JAX starts here, after everything that can be refused without it

        shard.start(cache.folder() / "xla")
        workdir = Path(WORKDIR.value) if WORKDIR.value else config_lib.default_workdir(experiment)
        if MODE.value == "eval":
            sys.exit(train.score_again(experiment, corpus, workdir))
        train.run(experiment, corpus, workdir, allow_config_change=CHANGED.value)


def check(experiment: config_lib.Experiment, corpus: Corpus) -> None:
    """Everything that the experiment asks of the corpus and that can be refused without JAX."""
    config_lib.validate_against(experiment, corpus)
    split = protocols.split(corpus, experiment.data.protocol, experiment.data.seed)
    smallest = min(len(fold.train) for fold in split.folds)
    if experiment.train.batch_size > smallest:
        raise UserError(
            f"--config.train.batch_size={experiment.train.batch_size}: the training part has only {smallest} utterances"
        )
    replicas_of(experiment, split)


def open_corpus(experiment: config_lib.Experiment) -> Corpus:
    if not experiment.data.path or experiment.data.path.startswith("demo:"):
        return demo_corpus(variant=experiment.data.path.removeprefix("demo:"))
    return Corpus(experiment.data.path)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with a config's mistakes told in a line."""
    with reported():
        try:
            rest = flags.FLAGS(argv)
            if CONFIG.value is None:
                raise UserError("--config is missing; try --config=configs/lsgmer.py")
            if not isinstance(CONFIG.value, config_lib.Experiment):
                CONFIG.value.experiment  # noqa: B018 - a file that did not load says so when it is first used
                raise UserError("--config: get_config() must return a mer_jax.config.Experiment")
            if len(rest) > 1:
                raise UserError(f"{rest[1]!r} is not a flag; see --help")
            return rest
        except (flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
            raise UserError(explain(error)) from None


def explain(error: Exception) -> str:
    text = str(error.args[0]) if len(error.args) == 1 else str(error)
    if isinstance(error, OSError) or "Traceback" in text:  # of the config file: its last line says what is wrong
        return "--config: " + text.strip().splitlines()[-1].strip()
    field = re.search(r"Field (\w+) not found", text)
    if field is None:
        return text
    # ml_collections names the dataclass that lacks the field: only the families that have it can be meant.
    families = [f() for f in config_lib.FAMILIES]
    meant = [
        f for f in families if any(f"{type(x).__module__}.{type(x).__name__}'" in text for x in (f, *vars(f).values()))
    ]
    known = sorted({k for family in meant or families for k in config_lib.flatten(config_lib.to_dict(family))})
    near = difflib.get_close_matches(field[1], [k.split(".")[-1] for k in known], n=1, cutoff=0.6)
    hint = ", ".join(f"--config.{k}" for k in known if k.split(".")[-1] in near)
    return f"the config has no field {field[1]!r}" + (
        f"; did you mean {hint}?" if hint else f"; it has {', '.join(known)}"
    )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
