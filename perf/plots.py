"""Plots of a comparison, by gnuplot: CPU to the best bare ring's, a group of bars for each server."""

import shutil
import statistics
import subprocess

from loads import BY_NAME

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # told apart also by those who see few colours
TITLES = {
    "pingpong": "64 bytes, there and back", "messages": "larger messages, there and back",
    "pipelined": "16 messages in flight: echo, and a reply for each line", "bulk": "bulk, on 8 connections",
    "churn": "connect, 64 bytes, close", "open": "64 bytes at a fixed rate", "unix": "over Unix sockets",
}


def _ratios(result, name):
    base = result["rounds"]["best"]
    return [cost / base[number] for number, cost in result["rounds"][name].items() if number in base]


def _quoted(text):
    return '"' + text.replace("_", "\\\\_") + '"'


def _bars(family, results):
    """A gnuplot script: for each server and load the median, and the lowest and the highest round."""
    loads = [name for name, result in results.items()
             if BY_NAME[name].family == family and result["kind"] == "cpu" and "best" in result["rounds"]]
    servers = [name for name in results[loads[0]]["rounds"] if name != "best"]
    rows, top = [], 2.0
    for server in servers:
        row = [_quoted(server)]
        for load in loads:
            ratios = _ratios(results[load], server) if server in results[load]["rounds"] else []
            row.append(" ".join(f"{f(ratios):.4f}" for f in (statistics.median, min, max)) if ratios else "- - -")
            top = max(top, statistics.median(ratios)) if ratios else top
        rows.append(" ".join(row))
    plots = ", ".join(f"$data using {2 + 3 * i}:{3 + 3 * i}:{4 + 3 * i}{':xtic(1)' if i == 0 else ''} "
                      f"title {_quoted(load)} linecolor rgb {_quoted(COLOURS[i % len(COLOURS)])}"
                      for i, load in enumerate(loads))
    return "\n".join(["$data << EOD", *rows, "EOD",
                      "set terminal svg size 900,420 font 'sans-serif,12' background 'white'",
                      "set datafile missing '-'", "set style data histograms", "set style histogram errorbars gap 1.5 lw 1",
                      "set style fill solid 0.85 border rgb '#444444'", "set xtics rotate by -35 nomirror", "set ytics nomirror",
                      "set border 3", "set grid ytics linecolor rgb '#dddddd'", "set key outside top center horizontal",
                      f"set yrange [0:{min(top * 1.1, 6):.2f}]", "set ylabel 'server CPU, to the best bare ring'",
                      f"set title {_quoted(TITLES[family])}", f"plot 1 notitle linecolor rgb '#888888', {plots}"])


def draw(results, folder):
    """Write FAMILY.svg for each family that was measured against the best ring. Returns a word about it."""
    if not shutil.which("gnuplot"):
        return "no plots: gnuplot is missing (gnuplot-nox)"
    drawn = []
    for family in TITLES:
        if any(BY_NAME[name].family == family and "best" in result.get("rounds", {}) for name, result in results.items()):
            path = folder / f"{family}.svg"
            with path.open("w") as file:
                subprocess.run(["gnuplot"], input=_bars(family, results), stdout=file, text=True, check=True)
            drawn.append(path.name)
    return f"plots in {folder}: {', '.join(drawn)}" if drawn else "no plots: nothing was measured beside the best ring"
