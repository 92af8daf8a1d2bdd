"""Writes what finished runs have found as one HTML page that needs no network and no script.

    python -m mer_jax.report RUN                      writes RUN/report.html
    python -m mer_jax.report RUN RUN --out both.html  compares them, too

RUN is the workdir of a finished run. Sections whose file a run does not have are left out, and the page says so.
"""

import argparse

from etils import epath

from mer_jax.errors import UserError, reported
from mer_jax.report.render import write


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=epath.Path, nargs="+", metavar="RUN", help="workdir of a finished run")
    parser.add_argument(
        "--out", type=epath.Path, metavar="FILE.html", help="default: RUN/report.html; of several runs ./report.html"
    )
    flags = parser.parse_args(argv)
    with reported():
        out = flags.out or (flags.runs[0] / "report.html" if len(flags.runs) == 1 else epath.Path("report.html"))
        if out.is_dir() or (flags.out and "://" not in str(out) and not out.parent.is_dir()):
            raise UserError(f"--out={out}: must be a file in a folder that exists")
        write(flags.runs, out)
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
