"""Train and score a model: `python -m mer_jax.main --config=configs/lsgmer.py`."""

import dataclasses
import difflib
import importlib
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from mer_jax import config as config_lib
from mer_jax import interrupts, old_runs
from mer_jax.config import Experiment
from mer_jax.errors import UserError, reported
from mer_jax.files import cache_folder
from mer_jax.runtime import distributed, sharding
from mer_jax.runtime.console import console

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string=(
        "The experiment: a file of configs/, e.g. configs/lsgmer.py or configs/lsgmer.py:tiny. Any field of it "
        "can be changed: --config.optim.learning_rate=3e-4, --config.data.path=DIR, --config.seed=1."
    ),
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where everything the run makes goes; runs/<experiment> if not given. The same command on the same folder resumes"
    " an unfinished run.",
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "test", "eval", "robustness"],
    "train: train, then score; with --config.train.score_test=False the test part stays locked. test: score the locked"
    " test part of a finished workdir, once. eval: score a finished workdir again, a locked one on validation only."
    " robustness: how its test score falls when modalities go missing or features get noisy. Every look at a test part"
    " is counted in the corpus's test_looks.jsonl.",
)
BESIDE = flags.DEFINE_string(
    "beside",
    None,
    "With --mode=robustness: the workdir of another run of the same corpus and split, whose fall this run's is set "
    "beside.",
)
CHANGED = flags.DEFINE_bool(
    "allow_config_change", False, "Resume a workdir although the config is not the one it began with."
)
STOPPED = flags.DEFINE_integer(
    "stopped_exit_code",
    0,
    "Exit code after a SIGTERM or a preemption notice, when all is saved and the run is not finished; for launchers"
    " that start again what ends with a certain code.",
    lower_bound=0,
    upper_bound=255,
)
PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "START:STOP: trace the training steps from START to STOP into WORKDIR/profile, which TensorBoard's profiler and "
    "ui.perfetto.dev open; steps count from 1, and the first ones compile.",
)
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "auto",
    "How the run's other processes are found, if there are any: auto (a TPU pod, Slurm, Open MPI or Kubernetes tell),"
    " none, or HOST:PORT,N,I: process 0 listens there, of N processes this is number I. All get the same other flags,"
    " and a --workdir that all of them see.",
)
TIMEOUT = flags.DEFINE_integer(
    "distributed_timeout",
    100,
    "Seconds to wait for the last process at the start, and seconds of silence after which a process counts as lost and"
    " ends all others.",
    lower_bound=1,
)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # JAX lists the backends it did not find
    with reported():
        if BESIDE.value and MODE.value != "robustness":
            raise UserError("--beside is of --mode=robustness")
        config = config_lib.validate(CONFIG.value)
        how, profile = parse_distributed(DISTRIBUTED.value), parse_profile(PROFILE.value)
        from mer_jax import experiment  # a mistake in the flags is told without waiting for what trains
        from mer_jax.evaluation import final

        corpus = experiment.open_corpus(config)
        experiment.check(config, corpus)
        workdir = epath.Path(WORKDIR.value or config_lib.default_workdir(config))
        with jax_started(how, workdir):
            if MODE.value == "eval":
                sys.exit(final.score_again(config, corpus, workdir))
            if MODE.value == "test":
                experiment.score_test(config, corpus, workdir)
            elif MODE.value == "robustness":
                experiment.measure_robustness(config, corpus, workdir, BESIDE.value)
            else:
                free, changed = not WORKDIR.value, CHANGED.value
                experiment.run(config, corpus, workdir, allow_config_change=changed, profile=profile, or_beside=free)


@contextmanager
def jax_started(how: str | tuple[str, int, int], workdir: epath.Path) -> Iterator[None]:
    """JAX's devices and the run's other processes, after everything that can be refused without them."""
    distributed.start(how, TIMEOUT.value, workdir)
    sharding.start(cache_folder() / "xla")
    console.quiet = not distributed.is_primary()
    try:
        with distributed.exit_together(TIMEOUT.value):
            yield
    except distributed.Preempted:
        sys.exit(STOPPED.value)


def parse_distributed(text: str) -> str | tuple[str, int, int]:
    """The flag --distributed; raises UserError if it is neither auto, none nor HOST:PORT,N,I."""
    if text in ("auto", "none"):
        return text
    found = re.fullmatch(r"([^,\s]+:\d+),(\d+),(\d+)", text)
    if found is None or not 0 <= int(found[3]) < int(found[2]):
        raise UserError(
            f"--distributed={text}: must be auto, none, or HOST:PORT,N,I with I from 0 to N - 1, as in"
            " 10.0.0.1:8476,4,0"
        )
    return found[1], int(found[2]), int(found[3])


def parse_profile(text: str | None) -> tuple[int, int] | None:
    """The flag --profile; raises UserError if it is not START:STOP."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--profile={text}: must be START:STOP, two steps of the training from 1 on, as in 50:60")
    return int(found[1]), int(found[2])


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with a config's mistakes told in a line."""
    with reported():
        try:
            sys.argv[:] = argv = [
                with_todays_names(argument) for argument in argv
            ]  # config_flags reads sys.argv itself
            rest = flags.FLAGS(argv)
            if CONFIG.value is None:
                raise UserError("--config is missing; try --config=configs/lsgmer.py")
            if not isinstance(CONFIG.value, Experiment):
                CONFIG.value.experiment  # noqa: B018 - a file that did not load says so when it is first used
                raise UserError("--config: get_config() must return a mer_jax.config.Experiment")
            if len(rest) > 1:
                raise UserError(f"{rest[1]!r} is not a flag; see --help")
            if MODE.value == "train":
                interrupts.EXIT_CODES[signal.SIGTERM] = STOPPED.value
            return rest
        except (flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
            raise UserError(explain(error)) from None


def with_todays_names(argument: str) -> str:
    """A flag --config.FIELD under the field's name of today, where 0.8 called it otherwise."""
    found = re.fullmatch(r"(--?(?:no)?config\.)([\w.]+)(=.*)?", argument, re.DOTALL)
    if found is None or found[2] not in old_runs.FIELDS:
        return argument
    today = old_runs.FIELDS[found[2]]
    print(f"note: --config.{found[2]} is called --config.{today} since 0.9", file=sys.stderr)
    return f"{found[1]}{today}{found[3] or ''}"


def explain(error: Exception) -> str:
    """What is wrong with the config or a flag, in a line."""
    text = str(error.args[0]) if len(error.args) == 1 else str(error)
    if isinstance(error, OSError) or "Traceback" in text:  # of the config file: its last line says what is wrong
        return "--config: " + text.strip().splitlines()[-1].strip()
    field = re.search(r"Field (\w+) not found", text)
    if field is None:
        return text
    known = sorted(fields_near(text))
    near = difflib.get_close_matches(field[1], [k.split(".")[-1] for k in known], n=1, cutoff=0.6)
    hint = ", ".join(f"--config.{k}" for k in known if k.split(".")[-1] in near)
    return f"the config has no field {field[1]!r}" + (
        f"; did you mean {hint}?" if hint else f"; it has {', '.join(known)}"
    )


def fields_near(text: str) -> set[str]:
    """The fields that may be meant: ml_collections names the dataclass that lacks one, and so the family's file."""
    found = set(config_lib.fields(Experiment()))
    for module in set(re.findall(r"'?([\w.]+)\.\w+'", text)):
        for kind in vars(importlib.import_module(module)).values() if module in sys.modules else ():
            if dataclasses.is_dataclass(kind) and isinstance(kind, type) and issubclass(kind, Experiment):
                found |= set(config_lib.fields(kind()))
    return found


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
