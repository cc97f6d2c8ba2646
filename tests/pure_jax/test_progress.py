"""What a command says of its progress: lines where there is no terminal, a bar where there is one, nothing if quiet."""

from __future__ import annotations

import io
import sys

import pytest

from pure_jax.progress import Reporter, _Stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Bell:
    """Stands in for the event that ends the lines: it rings once when the interval is over, and then at the end."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def wait(self, interval: float) -> bool:
        self.waited.append(interval)
        return len(self.waited) > 1

    def set(self) -> None:
        pass


def test_without_a_terminal_each_stage_is_one_line(capsys):
    with Reporter() as report:
        for stage in ("load", "restore", "restore", "write"):
            report(stage)
    assert capsys.readouterr() == ("", "pure: load\npure: restore\npure: write\n")


def test_a_line_that_is_to_stay_is_said_even_if_quiet(capsys):
    with Reporter(quiet=True) as report:
        report.say("'a [b].jpg' is empty, " + 99 * "long ")
    assert capsys.readouterr().err == "pure: 'a [b].jpg' is empty, " + 99 * "long " + "\n"


def test_without_a_terminal_a_line_follows_every_30_seconds(capsys, monkeypatch):
    report, bell = Reporter(), Bell()
    monkeypatch.setattr(report, "_closed", bell)
    report("compile")
    with report:
        pass
    stage, line = capsys.readouterr().err.splitlines()
    assert stage == "pure: compile" and line.startswith("pure: compile after 0:0")
    assert bell.waited == [30, 30]


@pytest.mark.parametrize(
    ("stage", "now", "line"),
    [
        (_Stage("compile", 0, 0, began=5), 65, "compile after 1:00"),
        (_Stage("encode", 0, 225, began=0, done=0), 30, "encode 0 % of 225 after 0:30"),
        # 90 of 100 new ones in 45 s: the 10 that were there when the time began took nobody knows how long.
        (_Stage("restore", 10, 1000, began=0, done=100), 45, "restore 10 % of 1,000 after 0:45, about 7:30 left"),
        (_Stage("restore", 0, 2, began=0, done=1), 3661, "restore 50 % of 2 after 1:01:01, about 1:01:01 left"),
    ],
)
def test_a_line_tells_the_share_the_time_and_what_is_left(stage, now, line):
    assert stage.status(now) == line


def test_a_note_follows_what_is_counted(capsys):
    with Reporter(counted="steps", told=False) as report:
        report("train", 0, 20)
        report("train", 10, 20, "loss 0.5")
        assert (
            report._stage.status(report._stage.began + 60) == "train 50 % of 20 after 1:00, about 1:00 left, loss 0.5"
        )
    assert capsys.readouterr().err == ""


def test_what_is_told_in_portions_adds_up():
    with Reporter(quiet=True) as report:
        add = report.adding("write", 100)
        add(30)
        add(20)
    assert (report._stage.name, report._stage.done, report._stage.total) == ("write", 50, 100)


def test_a_terminal_gets_a_bar_that_goes(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Reporter() as report:
        report("restore", 10, 100)
        report("restore", 30, 100)
    shown = terminal.getvalue()
    assert "restore" in shown and "pure:" not in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(("counted", "said"), [("steps", "30/100"), ("bytes", "30/100 bytes"), ("tokens", "restore")])
def test_a_bar_that_stays_says_how_far_it_came(monkeypatch, counted, said):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Reporter(counted=counted, stays=True) as report:
        report("restore", 30, 100, "loss 0.5")
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert (
        said in shown and "restore, loss 0.5" in shown and shown.endswith("\n\x1b[?25h")
    )  # the cursor, and no erasing


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_quiet_is_silent_everywhere(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    with Reporter(quiet=True) as report:
        report("restore", 10, 100)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
