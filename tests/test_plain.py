"""What comes from data neither commands a terminal, a page nor a spreadsheet, nor hides what is said."""

import io
import json
import sys

import pytest
import rich.table

from mer_jax import plain
from mer_jax.errors import UserError, reported
from mer_jax.report import html
from mer_jax.runtime.console import Console

EVIL = "a\x1b[2J\x9b31m\u202egpj\u2066\x07\ud800"
SHOWN = r"a\u001b[2J\u009b31m\u202egpj\u2066\u0007\ud800"


def test_an_error_cannot_command_the_terminal(capsys):
    def command():
        with reported():
            print(f"note: {EVIL}")
            raise UserError(f"{EVIL}: no class, é’ א \tok")

    with pytest.raises(SystemExit):
        command()
    found = capsys.readouterr()
    assert found.out == f"note: {SHOWN}\n"
    assert found.err == f"error: {SHOWN}: no class, é’ א \tok\n"


def test_a_line_cannot_be_written_over_but_by_progress(capsys):
    with reported():
        print("good\revil")
        print("3/4", end="\r", flush=True)
        print("4/4\r\n")
    assert capsys.readouterr().out == "good\\u000devil\n3/4\r4/4\r\n\n"


def test_json_lines_stay_the_same_data():
    assert json.loads(plain.for_terminal(json.dumps({"id": EVIL}, ensure_ascii=False))) == {"id": EVIL}


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_keeps_its_own_colours_only(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with reported():
        console = Console(
            highlight=False, force_terminal=terminal, width=200, color_system="standard" if terminal else None
        )
        table = rich.table.Table("name")
        table.add_row(f"[red]{EVIL}[/red]")
        console.print(table)
        console.print(f"[red]{EVIL}[/red]")
        found = sys.stdout.raw.getvalue()
    assert found.count("a\\u001b[2J\\") == 2
    assert ("\x1b[31m" in found) is terminal
    assert not plain.OBEYED.search(found.replace("\x1b[31m", "").replace("\x1b[0m", "").replace("\x1b[1m", ""))


def test_a_page_cannot_be_commanded():
    assert html.escaped(f"<b>{EVIL}") == "&lt;b&gt;a�[2J�31m�gpj���"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_computes_nothing(text):
    assert plain.for_spreadsheet(text) == "'" + text
    assert plain.for_spreadsheet("a" + text[0]) == "a" + text[0]
    assert plain.for_spreadsheet(-1.5) == -1.5


def test_a_long_value_is_shown_by_its_beginning():
    doubled = ()
    for _ in range(60):
        doubled = (doubled, doubled)
    assert len(plain.brief(doubled)) < 1000
    assert len(plain.brief("a" * 10**6)) < 100


def test_a_long_line_of_an_error_keeps_its_ends():
    error = UserError("a.pkl: " + "x" * 10**6 + " is no class\nGive --labels")
    first, second = str(error).split("\n")
    assert first.startswith("a.pkl: xx")
    assert first.endswith("x is no class")
    assert len(first) < 2000
    assert second == "Give --labels"
