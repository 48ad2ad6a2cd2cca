"""What a person sees of a run: a progress bar, a table of results, plain lines."""

from __future__ import annotations

import logging
import math
import time
from types import TracebackType

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from openmm_les.analysis.energies import EnergySummary, Mean

stderr = Console(stderr=True)
stdout = Console()


def say(text: str) -> None:
    """A plain line on stdout, its brackets and numbers left alone."""
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A plain line on stderr, above a running progress bar."""
    stderr.print(text, markup=False, highlight=False, soft_wrap=True)


def log_to_stderr() -> None:
    """Show the package's own log lines, such as the route a model takes."""
    logger = logging.getLogger("openmm_les")
    if not logger.handlers:
        logger.addHandler(RichHandler(console=stderr, show_time=False, show_path=False, show_level=False))
    logger.setLevel(logging.INFO)


class RunProgress:
    """Bar with the speed and the time left; without a terminal, a line at every tenth.

    Parameters
    ----------
    first_step, total_steps : of this run or of the rest of a resumed one
    timestep : fs
    """

    def __init__(self, first_step: int, total_steps: int, timestep: float) -> None:
        self._first = first_step
        self._total = total_steps
        self._timestep = timestep
        self._started = time.perf_counter()
        self._next_line = first_step
        self._status = ""
        self._bar = Progress(
            TextColumn("[bold]dynamics"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=stderr,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=first_step, status="")

    def __enter__(self) -> RunProgress:
        if stderr.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, temperature: float | None) -> None:
        """Show a step, and the temperature (K) when there is a new one."""
        seconds = time.perf_counter() - self._started
        speed = (step - self._first) * self._timestep * 1e-6 / (seconds / 86400)
        left = seconds / (step - self._first) * (self._total - step)
        if temperature is not None:
            self._status = f"{temperature:5.1f} K  "
        text = f"{self._status}{speed:.3g} ns/day  {duration(left)} left"
        self._bar.update(self._task, completed=step, status=text)
        if not stderr.is_terminal and (step >= self._next_line or step == self._total):
            note(f"step {step}/{self._total}  {text}")
            self._next_line = step + math.ceil((self._total - self._first) / 10)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def summary_table(summary: EnergySummary, title: str) -> Table:
    """Table of a run's results; means are over its second half."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.caption = "means and drift of the second half of the run"
    table.caption_justify = "left"
    table.add_row("simulated time", f"{summary.time:.3f}", "ps")
    table.add_row("temperature", _pair(summary.temperature, ".1f"), "K")
    table.add_row("potential energy", _pair(summary.potential, ".1f"), "kJ/mol")
    table.add_row("kinetic energy", _pair(summary.kinetic, ".1f"), "kJ/mol")
    table.add_row("total energy", _pair(summary.total, ".1f"), "kJ/mol")
    table.add_row("drift of total energy", _number(summary.drift, ".3g"), "kJ/mol/ps")
    if summary.density is not None:
        table.add_row("density", _pair(summary.density, ".4f"), "g/mL")
    table.add_row("speed", _number(summary.speed, ".3g"), "ns/day")
    return table


def _pair(value: Mean, spec: str) -> str:
    return f"{value.mean:{spec}} ± {value.deviation:{spec}}"


def _number(value: float, spec: str) -> str:
    return format(value, spec) if math.isfinite(value) else "–"
