"""NPZ tables of a corpus, read with every way they can be wrong told by name."""

import zipfile
from pathlib import Path

import numpy as np

from mer_jax.errors import UserError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """{column: array}; pickles in it are never opened. Raises UserError naming the file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, no table of columns")
        with file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an npz table ({error})") from None
