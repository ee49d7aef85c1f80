"""What a comparison must show: each figure that rondo promises, from the results of perf/compare."""

import statistics

from measure import interval

LIBRARIES = ("libuv", "libuv-doc", "libevent", "libev", "asio", "go", "asyncio", "asyncio-buffered",
             "asyncio-streams", "uvloop", "twisted")
PINGPONG = ("pp64x1", "pp64x50", "pp64x1000", "pp64x10000", "pp1k", "pp16k")
EVERY = ("epoll", *LIBRARIES)


def _ratios(values, over, under):
    """Of two servers, within each round in which both were measured."""
    return [values[over][number] / values[under][number]
            for number in values.get(over, {}) if number in values.get(under, {})]


def median_ratio(result, over, under):
    """Of their costs; None without any."""
    ratios = _ratios(result["rounds"], over, under)
    return statistics.median(ratios) if ratios else None


def surely_ratio(result, over, under, key):
    """The least that the median may be; None without any. For what is too noisy for its median to be compared."""
    ratios = _ratios(result[key], over, under)
    return interval(ratios)[0] if ratios else None


def tax_ns(result):
    costs = result["rounds"]
    taxes = [costs["rondo"][number] - costs["best"][number]
             for number in costs.get("rondo", {}) if number in costs.get("best", {})]
    return statistics.median(taxes) if taxes else None


def _figure(load, what, limit, measured):
    return {"load": load, "figure": what, "limit": limit, "measured": measured,
            "holds": None if measured is None else measured <= limit}


def _against(results, load, limits):
    return [_figure(load, f"CPU to {server}", limit, median_ratio(results[load], "rondo", server))
            for server, limit in limits.items()]


def _wanted(load):
    if load in PINGPONG:
        return {"best": 1.05, "epoll": 1.03, **dict.fromkeys(LIBRARIES, 1.0)}
    return {
        "pipe16": {"best": 1.10, **dict.fromkeys(LIBRARIES, 1.0)},
        "lines16": {"best": 1.15, "libuv": 0.12, "asyncio": 0.12, "libevent": 0.6, "uvloop": 0.6},
        "bulk64k": {"best": 1.05, **dict.fromkeys(EVERY, 1.05)},
        "bulk1m": {"best": 1.05, "epoll": 0.6, "libuv": 0.6},
        "churn-orderly": {"best": 1.05, "epoll": 0.92},
        "churn-reset": {"best": 1.05, "epoll": 0.80},
        "open150k": {"best": 1.04, **dict.fromkeys(LIBRARIES, 1.0)},
    }.get(load, {})


def _of_idle(result):
    bytes_each = {name: statistics.median(values) for name, values in result["bytes"].items()}
    mine = bytes_each.get("rondo")
    figures = [_figure("idle", "resident bytes of a connection", 256, mine),
               _figure("idle", "resident bytes of one with a handler", 6144, bytes_each.get("rondo-stream"))]
    return figures + [_figure("idle", f"bytes, to {name}'s {theirs:.0f}", theirs, mine)
                      for name, theirs in bytes_each.items() if name in LIBRARIES and theirs > 270]


def _of_shards(result):
    """The gain beside the bare ring's; the rate beside everybody else's."""
    def ratio(key, name):
        return statistics.median(result[key]["rondo"]) / statistics.median(result[key][name])

    wanted = [("gain", "best", 0.97)] + [("rate", name, 1.0) for name in EVERY]
    return [{"load": "two-shards", "figure": f"{key}, to {name}'s", "limit": least, "measured": ratio(key, name),
             "holds": ratio(key, name) >= least}
            for key, name, least in wanted if name in result[key] and "rondo" in result[key]]


def _of_greedy(result):
    share = statistics.median(result["share"]["rondo"]) if result["share"].get("rondo") else None
    if share is None:
        return []
    peak, limit = max(result["peak_bytes"]["rondo"]) / 2**20, result["limit_bytes"] / 2**20
    return [{"load": "greedy", "figure": "share of their rate that the others keep", "limit": 0.8, "measured": share,
             "holds": share >= 0.8},
            _figure("greedy", "MiB at the peak", limit, peak),
            _figure("greedy", "receive buffers not returned", 0, max(result["buffers_kept"]["rondo"]))]


def judge(results):
    """A list of figures, each with its limit, what was measured, and whether it holds."""
    figures = []
    for load, result in results.items():
        if result["kind"] == "idle":
            figures += _of_idle(result)
        elif result["kind"] == "shards":
            figures += _of_shards(result)
        elif result["kind"] == "greedy":
            figures += _of_greedy(result)
        elif result["kind"] == "switch":
            figures += [_figure("switch", f"ns, {count}", 30, statistics.median(values))
                        for count, values in result["switch_ns"].items() if count in ("1 in turn", "50 in turn")]
        else:
            figures += _against(results, load, _wanted(load))
        if load == "lines16":
            figures.append(_figure(load, "a handler's CPU to callbacks", 1.35, median_ratio(result, "rondo-stream", "rondo")))
        if load in ("pp64x50", "pp64x1000"):
            figures.append(_figure(load, "on epoll: CPU to epoll", 1.05, median_ratio(result, "rondo-epoll", "epoll")))
        if load in PINGPONG and load.startswith("pp64"):
            figures.append(_figure(load, "tax, ns", 200, tax_ns(result)))
        if load == "open150k":
            figures.append(_figure(load, "p99 to best, at least", 1.0, surely_ratio(result, "rondo", "best", "p99_us")))
        for name, limit in (("user_share", 0.05),) if load == "pp64x50" else ():
            figures.append(_figure(load, "share of samples in user space", limit, result.get(name)))
        if load == "pp64x50" and result.get("counters", {}).get("rondo"):
            counted = result["counters"]["rondo"]
            for key, limit in (("submissions", 1.01), ("completions", 2.01), ("bytes_copied", 0.0),
                               ("system_calls", 0.25)):
                figures.append(_figure(load, f"{key} of a request", limit, counted[key]))
    return [figure for figure in figures if figure["measured"] is not None]
