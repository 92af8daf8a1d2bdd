"""What is compared when nobody says otherwise, in one table; and how a model is named. No JAX at import."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer_jax import config as config_lib
from mer_jax.config import Experiment
from mer_jax.errors import UserError
from mer_jax.models.baselines import COMPARED
from mer_jax.plain import cause

# The table: the models that configs/baselines.py knows, ours among them, which learn by one recipe.
MODELS = {name: f"configs/baselines.py:{name}" for name in COMPARED}
# The same for every model: learning rates, each with every dropout.
GRID = "optim.learning_rate=5e-4,2e-3 model.dropout=0.2,0.5"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is trained. config: PATH.py or PATH.py:ARG."""

    name: str
    config: str

    @property
    def path(self) -> Path:
        """Of the file; one that is not there from here may be one beside the package."""
        path = Path(self.config.partition(":")[0])
        beside = Path(__file__).parents[2] / path
        return beside if not path.exists() and beside.exists() else path

    @property
    def flag(self) -> str:
        """As main takes it."""
        return f"--config={self.path}{''.join(self.config.partition(':')[1:])}"

    def read(self, flags: Sequence[str] = ()) -> Experiment:
        """The config with flags, as main would read it; raises UserError if the file or a flag is wrong."""
        from absl import flags as absl_flags
        from ml_collections import config_flags

        from mer_jax.main import explain  # the family imports JAX, too

        values, line = absl_flags.FlagValues(), ["benchmark", *flags]
        try:
            config = self._load()
            found = config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=line)
            values(line)
            return found.value
        except (absl_flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
            raise UserError(f"model {self.name} ({self.config}): {explain(error)}") from None

    def _load(self) -> Experiment:
        spec = importlib.util.spec_from_file_location("benchmarked", self.path)
        if spec is None or spec.loader is None:
            raise UserError("it is no Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UserError(f"it does not load: {cause(error)}") from None
        _, colon, argument = self.config.partition(":")
        found: Experiment = module.get_config(argument) if colon else module.get_config()
        config_lib.fields(found)  # raises AttributeError if it is none
        return found


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
