"""``tst-titan recommend``: bag size and bag fraction for a model and a budget (docs/recommend.md)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from tst_titan import paper
from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.paper.advice import Recommendation, make_target, recommend
from tst_titan.paper.fit import (
    CELL_NOISE,
    FEATURES,
    REFERENCE,
    cell_noise,
    fit_law,
    held_out,
    held_out_recovery,
    interval_factor,
)
from tst_titan.paper.observations import (
    comparison_observations,
    measured_observations,
    own_observations,
    published_baselines,
    published_observations,
    results_observations,
    without_repetition,
)
from tst_titan.text import amount, hours_alone, parse_amount


def describe(found: Recommendation) -> str:
    """The answer for people."""
    target, best, frugal = found.target, found.best, found.frugal
    lines = [
        f"{target.name}: {amount(target.parameters)} parameters, {amount(target.latents)} latents "
        f"({target.steps:,} steps of {target.latents_per_step:,})",
        "",
        f"  use bags?           {_verdict(found)}",
        f"  bag size s          {best.bag_size}",
        f"  bag fraction r      {best.bag_fraction:g}  ({round(best.bag_fraction * target.steps):,} bag steps)",
        f"  expected gain       {best.gain:.4f} nats/token below the equal-FLOPs baseline "
        f"({found.confidence:.0%} interval {best.gain_low:.4f} to {best.gain_high:.4f})",
        f"  data tokens         {amount(best.data_tokens)}  (baseline: {amount(target.latents)})",
    ]
    lines.append(f"  pays                {_pays(found)}")
    if found.device_hours is not None:
        lines.append(
            f"  training time       {hours_alone(found.device_hours)} {found.hours_from}; the baseline's is the same"
        )
    else:
        lines.append(f"  training time       {found.hours_from}")
    if found.baseline_loss is not None and found.baseline_error is not None:
        lines.append(
            f"  baseline's loss     about {found.baseline_loss:.2f} nats/token with the paper's tokenizer and data "
            f"(held-out error {found.baseline_error:.2f}: a rough guide)"
        )
    if (frugal.bag_size, frugal.bag_fraction) != (best.bag_size, best.bag_fraction):
        lines.append(
            f"  as good within {CELL_NOISE:g}, with the least data: s = {frugal.bag_size}, "
            f"r = {frugal.bag_fraction:g}: {frugal.gain:.4f} nats/token, {amount(frugal.data_tokens)} data tokens"
        )
    if found.published_best:
        lines.append(f"  the paper's best cell here: {found.published_best}")
    for reason in found.extrapolates:
        lines.append(f"  Extrapolated: {reason}.")
    return "\n".join(lines)


def _verdict(found: Recommendation) -> str:
    best = found.best
    if found.target.latents < found.pays.shortest:
        return "cannot be told: no run was measured that is as short for its model and batch"
    if best.gain_low > 0:
        return "yes"
    if best.gain > 0:
        return f"probably: a gain is expected, but the {found.confidence:.0%} interval of it does not exclude a loss"
    return "no: the token phase of so short a run is not expected to make good the switch"


def _pays(found: Recommendation) -> str:
    pays, per_step = found.pays, found.target.latents_per_step
    if pays.expected is None:
        return "at no budget"
    said = f"from about {amount(pays.expected)} latents on ({pays.expected / per_step:,.0f} steps)"
    if pays.expected == pays.shortest:
        said += ", and nothing shorter was measured"
    if pays.surely is None:
        said += ", for sure at no budget"
    elif pays.surely > pays.expected:
        said += f", for sure from {amount(pays.surely)}"
    if pays.until is not None:
        said += f"; up to {amount(pays.until)}, where the data end"
    return said


def describe_own(own: pd.DataFrame) -> str:
    """A line an own group: its best cell, and what the law expects there."""
    model = fit_law(published_observations(), measured_observations())
    lines = []
    for name, cells in own.groupby("group", sort=False):
        best = int(cells["gain"].to_numpy(float).argmax())
        cell = cells.iloc[best]
        lines.append(
            f"{name}: {len(cells)} own cells, best s = {cell['bag_size']:g}, r = {cell['bag_fraction']:g} with "
            f"{cell['gain']:.4f} nats/token (standard error {cell['stderr']:.4f}); the law alone expects "
            f"{model.predict(cells)[best]:.4f}"
        )
    return "\n".join(lines)


def describe_fit(observations: pd.DataFrame) -> str:
    """Coefficients and held-out errors, as docs/recommend.md shows them."""
    measured = measured_observations()
    model, errors = fit_law(observations, measured), held_out(observations, published_baselines())
    recovery = model.recovery
    lines = ["Shape, 1 at s = {:g}, r = {:g}:".format(*REFERENCE)]
    lines += [f"  {name:<14}{value:+.4f}" for name, value in zip(FEATURES, model.coefficients, strict=True)]
    lines += [
        f"Amplitude: log A = {model.log_amplitude:+.4f} - {model.gamma:.4f} log(latents / parameters)",
        "Own amplitudes: " + ", ".join(f"{name} {value:.4f}" for name, value in model.amplitudes.items()),
        "",
        "Held out, one model and length at a time (nats/token):",
        errors.table.set_index("group").T.to_string(float_format=lambda value: f"{value:.4f}", na_rep="-"),
        "",
    ]
    for name in ("rmse_model", "rmse_nearest", "rmse_fixed", "rmse_loss_model", "rmse_loss_nearest"):
        pooled = float(np.sqrt((errors.table[name] ** 2).mean()))
        lines.append(f"{name}, groups alike: {pooled:.4f}")
    for name in ("regret_model", "regret_nearest", "regret_fixed"):
        lines.append(f"{name}, mean of the grids: {float(errors.table[name].mean()):.4f}")
    lines.append(f"Scatter of one cell: {cell_noise(observations):.4f}")
    lines.append(
        f"Log error of the gain near the optimum: {errors.relative_error:.3f}; 95% interval: times or divided by "
        f"{errors.factor(0.95):.2f}"
    )
    short = held_out_recovery(observations, measured)
    lines += [
        "",
        f"Recovery: {recovery.level:.4f} (log s)^{recovery.bags:.3f} exp(-T / ({recovery.reach:,.0f} sqrt(N)))",
        "Held out, one measured model and length at a time (nats/token):",
        short.set_index("group").T.to_string(float_format=lambda value: f"{value:.4f}", na_rep="-"),
        "",
    ]
    for name in ("rmse_model", "rmse_without"):
        lines.append(f"{name}, groups alike: {float(np.sqrt((short[name] ** 2).mean())):.4f}")
    factor = interval_factor(short["log_error"].dropna().to_numpy(float), 0.95)
    lines.append(f"95% interval of the recovery: times or divided by {factor:.2f}")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """Predicted against measured gains: all published cells, and the measured short runs with and without recovery."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    published, measured = published_observations(), measured_observations()
    model = fit_law(published, measured)
    figure, (paper_s, short) = pyplot.subplots(1, 2, figsize=(10, 4.6), layout="constrained")

    def groups(observations: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        for _, cells in observations.groupby("group", sort=False):
            yield f"{amount(cells['parameters'].iloc[0])}, {cells['total_steps'].iloc[0]:,.0f} steps", cells

    for name, cells in groups(published):
        paper_s.plot(cells["gain"], model.predict(cells), ".", ms=4, label=name)
    for name, cells in groups(measured):
        predicted = model.predict(cells)
        (line,) = short.plot(cells["gain"], predicted, "o", ms=5, label=name)
        without = predicted + model.recovery.of(cells)
        short.plot(cells["gain"], without, "x", ms=5, color=line.get_color())
    for axes, title in (
        (paper_s, "the paper's cells"),
        (short, "our short runs (crosses: by the paper's cells alone)"),
    ):
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        ends = (min(low), max(high))
        axes.plot(ends, ends, color="0.7", lw=1, zorder=0)
        axes.axhline(0, color="0.85", lw=0.8, zorder=0)
        axes.axvline(0, color="0.85", lw=0.8, zorder=0)
        axes.set(title=title, xlabel="measured gain, nats/token", ylabel="predicted gain, nats/token")
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tst-titan recommend``; the parsed options carry ``run``."""
    parser.set_defaults(run=run)
    parser.add_argument("--model", help=f"{', '.join(paper.MODELS)}, or parameters per latent, e.g. 1.3B")
    parser.add_argument("--latents", help="latents of the whole run, e.g. 42e9: what the FLOPs pay for")
    parser.add_argument("--max-data-tokens", help="data tokens that there are, e.g. 100e9")
    parser.add_argument(
        "--latents-per-step", type=int, help="global batch; default the model's, else 2097152"
    )
    parser.add_argument("--latents-per-second", type=float, help="measured throughput over all devices")
    parser.add_argument("--mfu", type=float, help="model FLOPs utilisation, with --peak-tflops")
    parser.add_argument("--peak-tflops", type=float, help="peak of one device, with --mfu")
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="of the gain's interval (default 0.95)"
    )
    parser.add_argument("--own-results", type=Path, help="CSV of own final losses, see docs/recommend.md")
    parser.add_argument(
        "--comparison", type=Path, action="append", help="comparison.json of an own grid; repeats"
    )
    parser.add_argument(
        "--results", type=Path, help="results folder: all its grids of final losses correct the published law"
    )
    parser.add_argument("--keep", type=Path, help="write the own cells to this CSV file, and answer nothing")
    parser.add_argument("--draw", type=Path, help="draw predicted against measured gains into this SVG file")
    parser.add_argument(
        "--evaluate", action="store_true", help="print coefficients and held-out errors instead"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(args: argparse.Namespace) -> int:
    """Answer for parsed options; returns the exit status.

    Raises:
        UserError: something in the options or files does not fit.
    """
    parts = []
    if args.own_results is not None:
        try:
            table = pd.read_csv(args.own_results)
        except (OSError, ValueError) as error:
            raise UserError(f"--own-results {args.own_results}: cannot be read: {error}") from error
        parts.append(own_observations(table, str(args.own_results)))
    parts += [comparison_observations(path) for path in args.comparison or []]
    if args.results is not None:
        own_grids, left_out = results_observations(args.results)
        parts += own_grids
        for line in left_out:
            print(line, file=sys.stderr)
    own = without_repetition(pd.concat(parts, ignore_index=True)) if parts else None
    if args.keep is not None:
        if own is None:
            raise UserError("--keep: there are no own cells; give --results, --comparison or --own-results")
        own.to_csv(args.keep, index=False, float_format="%.6g")
        return 0
    if own is not None:
        print(describe_own(own), file=sys.stderr)
    if args.draw is not None:
        draw(args.draw)
        return 0
    if args.evaluate:
        print(describe_fit(published_observations()))
        return 0
    if not args.model or not args.latents:
        raise UserError("--model and --latents are needed (or --evaluate)")
    if not 0 < args.confidence < 1:
        raise UserError(f"--confidence {args.confidence:g} must lie in (0, 1)")
    target = make_target(args.model, parse_amount(args.latents), args.latents_per_step)
    limit = None if args.max_data_tokens is None else parse_amount(args.max_data_tokens)
    found = recommend(
        target, own, limit, args.latents_per_second, args.mfu, args.peak_tflops, args.confidence
    )
    print(json.dumps(asdict(found), indent=1) if args.json else describe(found))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Stand-alone entry point: ``python -m tst_titan.paper.recommend``."""
    parser = argparse.ArgumentParser(prog="tst-titan recommend", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
