"""What is compared when nobody says otherwise, in one table; and how a model is named. No JAX at import."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer_jax import config as config_lib
from mer_jax.config import Experiment
from mer_jax.errors import UserError

# The table: of every model its name and its config, which may have an argument, as in configs/lsgmer.py:iemocap.
MODELS = {
    "lsgmer": "configs/lsgmer.py",
    "deepmsi_mer": "configs/deepmsi_mer.py",
}
# The same for every model: learning rates, each with every dropout.
GRID = "optim.learning_rate=5e-4,2e-3 model.dropout=0.3,0.5"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is trained. config: PATH.py or PATH.py:ARG."""

    name: str
    config: str

    @property
    def flag(self) -> str:
        """As main takes it. A path that is not there from here may be one beside the package."""
        path, colon, argument = self.config.partition(":")
        beside = Path(__file__).parents[2] / path
        return f"--config={beside if not Path(path).exists() and beside.exists() else path}{colon}{argument}"

    def read(self, flags: Sequence[str] = ()) -> Experiment:
        """The config with flags, as main would read it; raises UserError if main would refuse one of them."""
        from absl import flags as absl_flags
        from ml_collections import config_flags

        from mer_jax.main import explain  # the family imports JAX, too

        values, line = absl_flags.FlagValues(), ["benchmark", self.flag, *flags]
        found = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
        try:
            values(line)
            found.value.experiment  # noqa: B018 - a file that did not load says so when it is first used
            return found.value
        except (absl_flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
            raise UserError(f"model {self.name} ({self.config}): {explain(error)}") from None


def named(name: str) -> Model | None:
    """The model of a name of the table, or of PATH.py[:ARG]; None if it is neither."""
    if name in MODELS:
        return Model(name, MODELS[name])
    if not name.partition(":")[0].endswith(".py"):
        return None
    path, _, argument = name.partition(":")
    return Model(Path(path).stem + f":{argument}" * bool(argument), name)


def known_fields(model: Any, changes: Sequence[str]) -> list[str]:
    """Of FIELD=VALUE those whose field the model's config has."""
    known = config_lib.fields(model)
    return [change for change in changes if change.partition("=")[0] in known]
