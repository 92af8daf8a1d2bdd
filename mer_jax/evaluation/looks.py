"""A run's looks at its corpus's test part, counted before they are taken."""

import datetime
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from mer_jax import config as config_lib
from mer_jax.data import ledger, protocols
from mer_jax.runtime import checkpoint, distributed
from mer_jax.runtime.console import console
from mer_jax.training.setup import Run


def count_look(run: Run, mode: str, digest: Mapping[str, Any]) -> int | None:
    """How many looks there were at the run's test part, with this one; None, and a note, where that is not known.

    mode: that of the command. digest: of the checkpoint whose models are scored. A run that ends looks once, however
    often it was killed at it; every other command looks each time. Of several processes the first one writes."""
    found = _counted(run, mode, digest) if distributed.is_primary() else None
    return json.loads(distributed.all_gather_text(json.dumps(found))[0])


def _counted(run: Run, mode: str, digest: Mapping[str, Any]) -> int | None:
    folder, config = run.corpus.path, json.dumps(config_lib.to_dict(run.config), sort_keys=True)
    look: ledger.Look = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "mer_jax": importlib.metadata.version("mer_jax"),
        "mode": mode,
        "protocol": run.split.protocol,
        "split_sha256": protocols.sha256(run.corpus, run.split),
        "test_sha256": ledger.test_part(run.corpus, run.split),
        "workdir": str(checkpoint.absolute_path(run.workdir)).encode(errors="replace").decode(),  # it may be no UTF-8
        "experiment": run.config.experiment,
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        "checkpoint_sha256": digest.get("sha256", ""),
        "replicas": len(run.groups.replicas),
    }
    try:
        looks = ledger.add(folder, look, once=mode in ("train", "test"))
    except OSError as error:
        why = error.strerror or error
        text = f"note: {folder / ledger.FILE}: {why}. This look at the test part is not counted; how many there were is"
        console.print(f"{text} not known", markup=False, soft_wrap=True)
        return None
    if looks.damaged:
        numbers = ", ".join(map(str, looks.damaged[:5])) + " …" * (len(looks.damaged) > 5)
        text = f"note: {folder / ledger.FILE}: damaged in line {numbers}; {len(looks.damaged)} count as looks"
        console.print(text, markup=False, soft_wrap=True)
    return looks.count
