"""Train and score a model: `python -m mer_jax.main --config=configs/lsgmer.py`."""

import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from mer_jax import config as config_lib
from mer_jax import files
from mer_jax.errors import UserError, reported
from mer_jax.experiment import check, open_corpus
from mer_jax.models import family as family_lib

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="The experiment: a file of configs/, e.g. configs/lsgmer.py or configs/lsgmer.py:tiny. "
    "Any field of it can be changed: --config.optim.learning_rate=3e-4, --config.data.path=DIR, --config.seed=1."
)  # fmt: skip
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything the run makes goes; runs/<experiment> if not given. The same command on the same "
    "folder resumes an unfinished run."
)  # fmt: skip
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "robustness"], "train: train, then score. eval: score a finished workdir again. "
    "robustness: how its test score falls when modalities go missing or features get noisy."
)  # fmt: skip
BESIDE = flags.DEFINE_string(
    "beside",
    None,
    "With --mode=robustness: the workdir of another run of the same corpus and split, whose fall this run's is set beside.",
)
CHANGED = flags.DEFINE_bool(
    "allow_config_change", False, "Resume a workdir although the config is not the one it began with."
)
STOPPED = flags.DEFINE_integer(
    "stopped_exit_code", 0, "Exit code after a SIGTERM or a preemption notice, when all is saved and the run is not finished; for "
    "launchers that start again what ends with a certain code.", lower_bound=0, upper_bound=255
)  # fmt: skip
PROFILE = flags.DEFINE_string(
    "profile", None, "START:STOP: trace the training steps from START to STOP into WORKDIR/profile, which TensorBoard's profiler and "
    "ui.perfetto.dev open; steps count from 1, and the first ones compile."
)  # fmt: skip
DISTRIBUTED = flags.DEFINE_string(
    "distributed", "auto", "How the run's other processes are found, if there are any: auto (a TPU pod, Slurm, Open MPI or "
    "Kubernetes tell), none, or HOST:PORT,N,I: process 0 listens there, of N processes this is number I. All get the same "
    "other flags, and a --workdir that all of them see."
)  # fmt: skip
TIMEOUT = flags.DEFINE_integer(
    "distributed_timeout", 100, "Seconds to wait for the last process at the start, and seconds of silence after which a "
    "process counts as lost and ends all others.", lower_bound=1
)  # fmt: skip


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # JAX lists the backends it did not find
    with reported():
        if BESIDE.value and MODE.value != "robustness":
            raise UserError("--beside is of --mode=robustness")
        experiment = config_lib.validate(CONFIG.value)
        how, profile = parse_distributed(DISTRIBUTED.value), parse_profile(PROFILE.value)
        corpus = open_corpus(experiment)
        check(experiment, corpus)
        workdir = epath.Path(WORKDIR.value or config_lib.default_workdir(experiment))
        with jax_started(how, workdir):
            from mer_jax import experiment as experiment_lib
            from mer_jax.evaluation import final, robustness
            from mer_jax.report import render
            from mer_jax.runtime import distributed

            if MODE.value == "eval":
                sys.exit(final.score_again(experiment, corpus, workdir))
            if MODE.value == "robustness":
                robustness.measure(experiment, corpus, workdir, BESIDE.value)
            else:
                experiment_lib.run(experiment, corpus, workdir, allow_config_change=CHANGED.value, profile=profile)
            if distributed.is_primary():
                render.write([workdir], workdir / "report.html")


@contextmanager
def jax_started(how: str | tuple[str, int, int], workdir: epath.Path) -> Iterator[None]:
    """JAX and the run's other processes, after everything that can be refused without them."""
    from mer_jax.runtime import console, distributed, sharding

    distributed.start(how, TIMEOUT.value, workdir)
    sharding.start(files.cache_folder() / "xla")
    console.console.quiet = not distributed.is_primary()
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
            f"--distributed={text}: must be auto, none, or HOST:PORT,N,I with I from 0 to N - 1, as in 10.0.0.1:8476,4,0"
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
    families = [f() for f in family_lib.FAMILIES]
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
