"""Tables of the page and of the terminal: runs beside the paper's, pairs, grids; each cell with its provenance."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tst_titan.compare.evaluations import NOT_SCORED
from tst_titan.compare.kinds.grid import BAG_LOSS, baseline_of, best_of, cells_of, grids_of
from tst_titan.compare.metrics import (
    BUDGETS,
    HELDOUT,
    LOSSES,
    READ,
    TASK,
    is_own,
    metric_of,
    metric_rank,
    task_order,
)
from tst_titan.compare.numbers import ON_HELDOUT, Number
from tst_titan.compare.results import Results, RunFacts
from tst_titan.compare.sentences import BOUND_WORDS
from tst_titan.paper import SOURCE_SHORT
from tst_titan.report.text import (
    cell_note,
    interval_text,
    number_text,
    signed_text,
)
from tst_titan.text import GAP, WIDTH, text_table, value_text

_BAG_SIZE = "bag_size"
_REPEATS = {"unique_data_tokens": "data_tokens", "device_hours": "hours"}
_WINNERS = {"run": "run ahead", "reference": "reference ahead"}
_PAIR_HEADS = {
    "equal_flops": "Equal FLOPs", "equal_data": "Equal data", "equal_loss": "Equal loss: speed-up",
    "heldout": "Held-out loss", "accuracy": "Average of 7", "switch": "Switch",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One table cell.

    Attributes:
        text: what is shown.
        value: the exact value, for scripts and tests; None where there is none.
        note: shown on hover: exact value, interval, method, files.
        small: shown below in small type.
        lines: further lines of a cell that says several things.
        gap: number of the gap's reason below the table; None where the cell has a value.
        metric: name in table.csv.
    """

    text: str
    value: float | None = None
    note: str = ""
    small: str = ""
    lines: tuple[str, ...] = ()
    gap: int | None = None
    metric: str = ""


@dataclass(frozen=True)
class Row:
    """One row: its head, where its numbers come from, its cells; ``kind`` is "run" or "published"."""

    kind: str
    head: str
    sources: tuple[str, ...]
    cells: list[Cell]
    name: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        reasons: why cells are empty, in the order of ``Cell.gap`` (1 is the first).
        methods: how each column was computed, where a number says so.
    """

    heads: list[str]
    rows: list[Row]
    reasons: list[str]
    methods: list[tuple[str, str]]


def run_table(experiment: Results) -> Table:
    """All runs, like the paper's tables 1 and 3, each followed by the paper's numbers for it."""
    metrics = _columns(experiment)
    several_seeds = len({run.seed for run in experiment.runs}) > 1
    reasons: list[str] = []
    rows = []
    for run in experiment.runs:
        head = run.label + (f" · {run.group}" if len(experiment.groups) > 1 and run.group else "")
        head += f" · seed {run.seed}" if several_seeds else ""
        cells = [_cell(experiment, run, name, reasons) for name in metrics]
        rows.append(Row("run", head, (run.manifest,), cells, run.name))
        published = experiment.metrics(run.name, "paper")
        if published:
            cells = [_published_cell(published, name) for name in metrics]
            sources = dict.fromkeys(
                source for name in metrics if name in published for source in published[name].sources
            )
            # The paper is named once: "arXiv ..., table 4", "table 8".
            short = [
                source.removeprefix(f"{SOURCE_SHORT}, ") if i else source for i, source in enumerate(sources)
            ]
            rows.append(Row("published", "the paper's, at its size", tuple(short), cells, run.name))
    heads = ["Bag size" if name == _BAG_SIZE else metric_of(name).column for name in metrics]
    methods = {
        metric_of(name).label: dict.fromkeys(
            n.method for n in experiment.select("run", metric=name) if n.method
        )
        for name in metrics
    }
    told = [(name, "; ".join(list(found)[:3])) for name, found in methods.items() if found]
    return Table(heads, rows, reasons, told)


def run_text(experiment: Results) -> str:
    """The same for a terminal: gaps with their reasons and the last manifests below it."""
    table = run_table(experiment)
    rows = [
        [
            ("  " if row.kind == "published" else "") + row.head,
            *(f"{c.text}{f' [{c.gap}]' if c.gap else ''}" for c in row.cells),
        ]
        for row in table.rows
    ]
    lines = [text_table(["run", *table.heads], rows, width=WIDTH)]
    lines += [f"[{number}] {reason}" for number, reason in enumerate(table.reasons, 1)]
    return "\n".join([*lines, "", "From:", *(f"  {run.name}: {run.manifest}" for run in experiment.runs)])


def pair_table(experiment: Results) -> Table | None:
    """Every run against its references: equal FLOPs, data and loss, evaluations, the switch; None without pairs."""
    labels = [run.label for run in experiment.runs]
    repeated = len(set(labels)) < len(labels)
    rows = []
    for reference, run in experiment.pairs():
        numbers = experiment.of_pair(run.name, reference.name)
        cells = [
            _budget_cell(numbers, "equal_flops"),
            _budget_cell(numbers, "equal_data"),
            _equal_loss_cell(numbers),
            _scored_cell(numbers["heldout.difference"], "heldout"),
            _scored_cell(numbers["accuracy.difference"], "accuracy"),
            _switch_cell(numbers),
        ]
        who = [side.name if repeated else side.label for side in (run, reference)]
        rows.append(Row("run", " against ".join(who), (run.manifest, reference.manifest), cells))
    if not rows:
        return None
    # Columns in which no row says anything are left out.
    kept = [
        i
        for i in range(len(_PAIR_HEADS))
        if any(r.cells[i].text not in ("", GAP) or r.cells[i].lines for r in rows)
    ]
    heads = list(_PAIR_HEADS.values())
    return Table(
        [heads[i] for i in kept], [replace(r, cells=[r.cells[i] for i in kept]) for r in rows], [], []
    )


def source_table(experiment: Results) -> Table | None:
    """Differences of held-out losses by source of the corpus, a row a pair; None where there are fewer than two."""
    prefix = "heldout.difference/"
    found: dict[tuple[str, str], dict[str, Number]] = {}
    for number in experiment.select("pair"):
        if number.metric.startswith(prefix):
            found.setdefault((number.run, number.reference), {})[number.metric.removeprefix(prefix)] = number
    sources = sorted({source for numbers in found.values() for source in numbers})
    if len(sources) < 2:
        return None
    rows = []
    for pair, numbers in found.items():
        cells = []
        for source in sources:
            cell = _scored_cell(numbers[source], prefix + source) if source in numbers else Cell(GAP)
            both = (experiment.get("run", name, f"{HELDOUT[0]}/{source}") for name in pair)
            cells.append(replace(cell, lines=(" against ".join(map(number_text, both)), *cell.lines)))
        rows.append(Row("run", " against ".join(pair), next(iter(numbers.values())).sources, cells))
    return Table(sources, rows, [], [])


@dataclass(frozen=True)
class Grid:
    """A metric over bag size (down) and bag fraction (across).

    Attributes:
        cells: by bag size and bag fraction.
        best: where the best cell lies; None where none is marked.
        paper: where the paper's numbers stand; empty where it has none.
        gaps: why cells are empty.
    """

    title: str
    metric: str
    cells: dict[tuple[float, float], Cell]
    best: tuple[float, float] | None
    baseline: str
    published_baseline: str
    paper: list[str]
    gaps: list[str]

    @property
    def sizes(self) -> list[float]:
        """Heads of the rows."""
        return sorted({size for size, _ in self.cells})

    @property
    def fractions(self) -> list[float]:
        """Heads of the columns."""
        return sorted({fraction for _, fraction in self.cells})


def grid_tables(experiment: Results) -> list[Grid]:
    """One table a group and metric, the paper's value below ours."""
    tables = []
    for group, metric in sorted(grids_of(experiment), key=lambda grid: metric_rank(grid[1])):
        cells, published = (cells_of(experiment, group, metric, what) for what in ("", ".paper"))
        tables.append(
            Grid(
                title=metric_of(metric).label + (f" · {group}" if group else ""),
                metric=metric,
                cells={place: grid_cell(cell, published.get(place)) for place, cell in cells.items()},
                best=best_of(experiment, group, metric),
                baseline=number_text(baseline_of(experiment, group, metric)),
                published_baseline=number_text(baseline_of(experiment, group, metric, ".paper")),
                paper=sorted({source for cell in published.values() for source in cell.sources}),
                gaps=sorted({cell.reason for cell in cells.values() if not cell.exists}),
            )
        )
    return tables


def _columns(experiment: Results) -> list[str]:
    """Columns in the order of the paper's tables; evaluations that no run has are left out."""
    found = {number.metric for number in experiment.select("run") if number.exists}
    tasks = task_order({name for name in found if name.startswith(TASK) or is_own(name)})
    losses = [name for name in LOSSES if name in found or not name.startswith(ON_HELDOUT)]
    if HELDOUT[0] in found:
        losses = [name for name in losses if not name.startswith(ON_HELDOUT)]
    if "final_bag_loss" in found:
        losses.insert(1, "final_bag_loss")
    evaluations = [name for name in ("average_accuracy", *tasks, "mmlu") if name in found]
    return [
        *BUDGETS,
        _BAG_SIZE,
        *(name for name in READ if _says_more(experiment, name)),
        *losses,
        *evaluations,
    ]


def _says_more(experiment: Results, metric: str) -> bool:
    """Whether a column differs from the one that it would repeat: unique from data tokens, device time from time."""
    values = [experiment.value(run.name, metric) for run in experiment.runs]
    if metric == "epochs":
        return any(value is not None and value > 1 for value in values)
    return metric not in _REPEATS or values != [
        experiment.value(run.name, _REPEATS[metric]) for run in experiment.runs
    ]


def _cell(experiment: Results, run: RunFacts, metric: str, reasons: list[str]) -> Cell:
    """One number of a run; a gap is numbered and its reason collected."""
    if metric == _BAG_SIZE:
        sizes = " → ".join(map(str, run.bag_sizes)) or "1"
        return Cell(sizes, None, f"bag sizes of the stages of {run.manifest}", metric=metric)
    number = experiment.get("run", run.name, metric)
    if number is not None and number.exists:
        return _number_cell(number, metric)
    if metric == "final_bag_loss":
        return Cell("", metric=metric)
    reason = NOT_SCORED if number is None else number.reason
    if reason not in reasons:
        reasons.append(reason)
    return Cell(GAP, None, f"no value: {reason}", gap=reasons.index(reason) + 1, metric=metric)


def _number_cell(number: Number, metric: str = "") -> Cell:
    """A number with its error below it where it has one."""
    small = "" if number.stderr is None else f"± {value_text(number.stderr, number.unit)}"
    return Cell(number_text(number), number.value, cell_note(number), small, metric=metric)


def _published_cell(published: dict[str, Number], metric: str) -> Cell:
    """The paper's number; empty where it gives none."""
    number = published.get(metric)
    if metric == "hours" and number is None:
        number = published.get("device_hours")  # its unit, B200-hours, is written out
    return Cell("", metric=metric) if number is None else _number_cell(number, metric)


def _budget_cell(numbers: dict[str, Number], metric: str) -> Cell:
    """Difference at equal FLOPs or data, both losses below it."""
    gap, ours, theirs = (numbers[f"{metric}.{what}"] for what in ("difference", "run_loss", "reference_loss"))
    if not gap.exists:
        return Cell(GAP, None, gap.reason, lines=(gap.reason,), metric=metric)
    lines = ["held out" if gap.on_heldout else ""]
    lines += [f"{number_text(ours)} against {number_text(theirs)}", interval_text(gap)]
    lines += ["read inside a curve: favours the shorter run"] if gap.bound else []
    lines.append(_WINNERS.get(gap.winner, "undecided"))
    note = f"{gap.note}; {cell_note(gap)}"
    return Cell(signed_text(gap), gap.value, note, lines=tuple(filter(None, lines)), metric=metric)


def _equal_loss_cell(numbers: dict[str, Number]) -> Cell:
    """The speed-up in every budget, or plainly "not reached"."""
    steps = numbers.get("equal_loss.speedup.steps")
    if steps is None:
        return Cell("", metric="equal_loss")
    bound = BOUND_WORDS[steps.bound]
    lines = []
    for budget in ("steps", "flops", "data_tokens", "hours"):
        number = numbers[f"equal_loss.speedup.{budget}"]
        if number.exists:
            interval = f" ({interval_text(number)})" if interval_text(number) else ""
            words = {"flops": "FLOPs"}.get(budget, budget.replace("_", " "))
            lines.append(f"{bound}{number_text(number)} in {words}{interval}")
    reached = numbers["equal_loss.at.steps"].exists
    text = f"{bound}{number_text(steps)}" if reached else "not reached"
    note = f"{steps.note}; {cell_note(steps)}"
    return Cell(text, steps.value, note, lines=tuple(lines), metric="equal_loss")


def _scored_cell(gap: Number, metric: str) -> Cell:
    """Difference of an evaluation."""
    if not gap.exists:
        return Cell(GAP, None, cell_note(gap), metric=metric)
    lines = filter(None, (interval_text(gap), _WINNERS.get(gap.winner, "undecided")))
    return Cell(signed_text(gap), gap.value, cell_note(gap), lines=tuple(lines), metric=metric)


def _switch_cell(numbers: dict[str, Number]) -> Cell:
    """Height of the spike at the switch and the steps to recover."""
    if "switch.step" not in numbers:
        return Cell("", metric="switch")
    step, height, recovered = (
        numbers[f"switch.{what}"] for what in ("step", "height_over_reference", "steps_to_recover")
    )
    after = f"recovers after {number_text(recovered)} steps" if recovered.exists else recovered.reason
    lines = (f"at step {number_text(step)}", after)
    return Cell(signed_text(height), height.value, cell_note(height), lines=lines, metric="switch")


def grid_cell(number: Number | None, published: Number | None, whose: str = "paper ") -> Cell:
    """Ours, and the paper's below it after ``whose``; without ours only the paper's."""
    small = whose + number_text(published) if published is not None else ""
    if number is None:
        return Cell("", small=small)
    is_bag = number.note == BAG_LOSS
    note = cell_note(number) + (f"; {BAG_LOSS}" if is_bag else "")
    text = number_text(number) + (" (bag)" if is_bag and number.exists else "")
    return Cell(text, number.value, note, small)
