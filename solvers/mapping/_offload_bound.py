"""Compiled bound on the time of an offload: the least way to cut one path of the graph into calls, memory known.

Take a path P of the graph, and any legal mapping. No path leaves a slot and comes back, so a slot that is busy runs
either none of P or a stretch P[a..b] of it, in one call, and the stretches and the segments on concurrent slots between
them follow each other: T is at least their sum. With P[a] and P[b] in a call, everything that lies on a way from the
one to the other is in it as well, by the same rule; what can be reached from P[b + 1], or leads to P[a - 1], is not.
That tells what computes there at least, what moves through its ports, and what it holds, which must fit. A dynamic
programme over the places of P and the number of calls finds the least sum; any path gives a bound.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def heaviest_path(a, weight):  # type: ignore[no-untyped-def]
    """Return the path of the graph whose segments weigh most together, by weight [K]."""
    segments = weight.shape[0]
    total, back = weight.copy(), np.full(segments, -1, np.int64)
    for k in range(segments):
        for e in range(a.first[k], a.first[k + 1]):
            i = a.source[e]
            if back[k] < 0 or total[i] > total[back[k]]:
                back[k] = i
        if back[k] >= 0:
            total[k] += total[back[k]]
    k, length = int(np.argmax(total)), 0
    path = np.empty(segments, np.int64)
    while k >= 0:
        path[length] = k
        length += 1
        k = back[k]
    return path[:length][::-1].copy()


@njit(cache=True)
def _places(a, path):  # type: ignore[no-untyped-def]
    """Return, of each segment [K], the last place of the path that leads to it (or is it), and the first it leads to.

    -1, and the length of the path, where there is none.
    """
    segments, length = a.compute.shape[0], path.shape[0]
    after, before = np.full(segments, -1, np.int64), np.full(segments, length, np.int64)
    for n in range(length):
        after[path[n]] = before[path[n]] = n
    for k in range(segments):
        for e in range(a.first[k], a.first[k + 1]):
            after[k] = max(after[k], after[a.source[e]])
    for k in range(segments - 1, -1, -1):
        for e in range(a.first[k], a.first[k + 1]):
            before[a.source[e]] = min(before[a.source[e]], before[k])
    return after, before


@njit(cache=True)
def _sum_inside(value):  # type: ignore[no-untyped-def]
    """Make value [n, n] at (a, b) the sum of what it had at a' >= a and b' <= b."""
    n = value.shape[0]
    for i in range(n - 2, -1, -1):
        value[i] += value[i + 1]
    for j in range(1, n):
        value[:, j] += value[:, j - 1]


@njit(cache=True)
def path_bound(a, path):  # type: ignore[no-untyped-def]
    """Return the least time of the path [n], in ms, and the call of each place then, or -1: none."""
    segments, modes = a.compute.shape
    n = path.shape[0]
    calls, most = 0, 0.0
    port_in, port_out = np.inf, np.inf
    wait, wait_byte = np.inf, np.inf
    for s in range(modes):
        if not a.never_busy[s]:
            calls += 1
            most = max(most, a.capacity[s])
            port_in, port_out = min(port_in, a.port_in[s]), min(port_out, a.port_out[s])
        for q in range(modes):
            if q != s:
                wait, wait_byte = min(wait, a.latency[s, q]), min(wait_byte, a.per_byte[s, q])
    if modes == 1:
        wait = wait_byte = 0.0
    fast, held = np.full(segments, np.inf), np.full(segments, np.inf)  # in a call
    alone = np.full(segments, np.inf)  # on a concurrent slot
    for k in range(segments):
        for s in range(modes):
            if a.ok[k, s]:
                if a.never_busy[s]:
                    alone[k] = min(alone[k], a.compute[k, s])
                else:
                    fast[k], held[k] = min(fast[k], a.compute[k, s]), min(held[k], a.resident[k, s])
    after, before = _places(a, path)
    load, bytes_, never = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    for k in range(segments):
        i, j = after[k], before[k]
        if i >= 0 and j < n:
            if fast[k] < np.inf:
                load[i, j] += fast[k]
                bytes_[i, j] += held[k]
            else:
                never[i, j] += 1.0
    _sum_inside(load)
    _sum_inside(bytes_)
    _sum_inside(never)
    if calls > 0 and a.ports:
        reach = np.empty(n + 1, np.int64)
        for u in range(segments):
            last = -1  # place of the path after which a consumer of u comes
            for i in range(a.out_first[u], a.out_first[u + 1]):
                last = max(last, after[a.target[a.out_edge[i]]])
            for j in range(before[u], min(last, n)):  # P[j + 1] leads to that consumer: it is not in the call
                for i in range(after[u] + 1):
                    load[i, j] += a.output[u] * port_out
            if before[u] < last:
                reach[:] = n  # the first place that a consumer leads to, of those that place i leads to
                for i in range(a.out_first[u], a.out_first[u + 1]):
                    v = a.target[a.out_edge[i]]
                    if after[v] >= 0:
                        reach[after[v]] = min(reach[after[v]], before[v])
                for i in range(n - 1, -1, -1):
                    reach[i] = min(reach[i], reach[i + 1])
                for i in range(before[u] + 1, last + 1):
                    for j in range(max(i, reach[i]), n):
                        load[i, j] += a.output[u] * port_in
    # least[c, i, r]: of the first i places with c calls, r: the last one in a call
    least = np.full((calls + 1, n + 1, 2), np.inf)
    origin = np.full((calls + 1, n + 1, 2), -1, np.int64)
    for c in range(calls + 1):
        least[c, 0, 0] = 0.0
    step = np.zeros(n)  # the wait at place i, if it comes from another slot
    for i in range(1, n):
        size = 0.0
        for e in range(a.first[path[i]], a.first[path[i] + 1]):
            if a.source[e] == path[i - 1]:
                size = max(size, a.size[e])
        step[i] = wait + size * wait_byte
    for c in range(calls + 1):
        for i in range(1, n + 1):
            here = alone[path[i - 1]]
            from_call = least[c, i - 1, 1] + step[i - 1]
            least[c, i, 0] = min(least[c, i - 1, 0], from_call) + here
            origin[c, i, 0] = 1 if from_call < least[c, i - 1, 0] else 0
            if c == 0:
                continue
            for j in range(i - 1, -1, -1):
                if never[j, i - 1] > 0.0 or bytes_[j, i - 1] > most * (1 + 1e-12):
                    break
                into = min(least[c - 1, j, 0], least[c - 1, j, 1]) + step[j]
                if j == 0:
                    into = least[c - 1, 0, 0]
                if into + load[j, i - 1] < least[c, i, 1]:
                    least[c, i, 1] = into + load[j, i - 1]
                    origin[c, i, 1] = j
    call = np.full(n, -1, np.int64)
    best, c, r = np.inf, 0, 0
    for count in range(calls + 1):
        for kind in range(2):
            if least[count, n, kind] < best:
                best, c, r = least[count, n, kind], count, kind
    if best == np.inf:
        return best, call
    i = n
    while i > 0:
        if r == 0:
            r = origin[c, i, 0]
            i -= 1
        else:
            j = origin[c, i, 1]
            c -= 1
            call[j:i] = c
            i = j
            r = 1 if least[c, j, 1] < least[c, j, 0] else 0
    return best, call
