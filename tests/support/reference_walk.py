"""Section 6 of the method in slow, plain NumPy float64; it shares no code with selection/walk.

Every step recomputes everything from the rows of S'. Beside the picks it returns the smallest
distance between any two numbers that were compared and the point where the comparison would turn:
where that is near float32 rounding, two correct programs may differ.
"""

import numpy as np

EQUAL = 1e-6


class Reference:
    """One instance of the walk; `run()` returns (picks, ends), each pick a dict."""

    def __init__(self, features, directions, budgets, weights, costs, sources, cap, rules, near):
        features = np.asarray(features, np.float64)
        lengths = np.linalg.norm(features, axis=1)
        self.g = features / np.where(lengths == 0, 1e-10, lengths)[:, None]
        self.directions = np.asarray(directions, np.float64)
        self.budgets, self.weights = [int(b) for b in budgets], np.asarray(weights)
        self.costs, self.sources, self.cap = costs, sources, cap
        self.rules, self.near = rules, near
        self.used, self.on_source, self.picks, self.ends = [], {}, [], []
        self.margin = np.inf

    def run(self):
        """Walks all components; the budgets of later ones may grow on the way."""
        for i in range(len(self.directions)):
            self.rest = self.budgets[i]
            self.one_walk(i)
            last = i + 1 == len(self.directions)
            unused = [j for j in range(len(self.g)) if j not in self.used]
            if self.rest == 0:
                self.ends.append("filled")
            elif any(self.fits(j) for j in unused):
                self.ends.append("no valid row")
            elif any(self.under_cap(j) for j in unused):
                self.ends.append("rest too small")
                if not last:
                    self.budgets[i + 1] += self.rest
                    continue
            else:
                self.ends.append("no row left")
            if self.rules.on_exhausted == "redistribute" and not last:
                self.share_out(i)
        return self.picks, self.ends

    def share_out(self, i):
        """Largest remainder over the components still to walk."""
        weights = self.weights[i + 1 :] / self.weights[i + 1 :].sum()
        shares = [int(np.floor(self.rest * w + 1e-12)) for w in weights]
        remainders = [round(self.rest * w - s, 6) for w, s in zip(weights, shares, strict=True)]
        while sum(shares) < self.rest:
            winner = remainders.index(max(remainders))
            shares[winner] += 1
            remainders[winner] = -1
        for c, share in enumerate(shares):
            self.budgets[i + 1 + c] += share

    def one_walk(self, i):
        k = self.directions[i]
        chosen = []  # S'
        first = True
        while self.rest > 0:
            fitting = [j for j in range(len(self.g)) if j not in self.used and self.fits(j)]
            if not fitting:
                return
            if not chosen:
                reason = "anchor" if first else "reanchor"
                row, score = self.largest(fitting, lambda j: self.g[j] @ k)
            else:
                found = self.next_row(fitting, chosen, k)
                if found is None:
                    if self.rules.on_exhausted != "reanchor":
                        return
                    chosen = []
                    continue
                row, score, reason = found
            first = False
            cosines = [self.g[row] @ self.g[s] for s in chosen]
            self.picks.append(
                {
                    "row": row,
                    "component": i,
                    "reason": reason,
                    "score": score,
                    "cos_previous": cosines[-1] if cosines else None,
                    "cos_component": self.g[row] @ k,
                    "cos_smallest": min(cosines) if cosines else None,
                }
            )
            chosen.append(row)
            self.used.append(row)
            self.rest -= self.costs[row]
            source = self.sources[row]
            self.on_source[source] = self.on_source.get(source, 0) + self.costs[row]

    def next_row(self, fitting, chosen, k):
        """Steps 2 to 4, then with rules dropped one after the other."""
        last, pull = chosen[-1], self.rules.pull
        attempts = [("", "ces")]
        if self.rules.on_exhausted == "relax":
            attempts += [
                ("relaxed conflict", "es"),
                ("relaxed consistency", "s"),
                ("relaxed similarity", ""),
            ]
        for reason, kept in attempts:
            valid = [j for j in fitting if self.valid(j, chosen, k, kept)]
            close = valid if self.near is None else [j for j in valid if j in self.near[last]]
            if close:
                row, score = self.largest(
                    close,
                    lambda j: (1 - pull) * (self.g[j] @ self.g[last]) + pull * (self.g[j] @ k),
                )
                return row, score, reason or "neighbour"
            if valid:
                row, score = self.largest(valid, lambda j: self.g[j] @ k)
                return row, score, reason or "fallback"
        return None

    def valid(self, j, chosen, k, kept):
        cosines = [self.g[j] @ self.g[s] for s in chosen]
        ok = True
        if "c" in kept:
            ok &= self.at_least(min(cosines), -self.rules.conflict_tolerance)
        if "e" in kept:
            so_far = {
                "current": lambda: self.along(chosen, k),
                "anchor": lambda: self.along(chosen[:1], k),
                "best": lambda: max(self.along(chosen[: n + 1], k) for n in range(len(chosen))),
            }[self.rules.delta_reference]()
            ok &= self.at_least(self.along([*chosen, j], k), self.rules.delta * so_far)
        if "s" in kept and self.rules.max_similarity < 1:
            ok &= self.at_least(self.rules.max_similarity, max(cosines))
        return ok

    def along(self, rows, k):
        """|cos(sum of the rows, k)|; 0 for a sum without a direction."""
        total = self.g[rows].sum(axis=0)
        length = np.linalg.norm(total)
        # A short sum amplifies rounding, so its comparisons count as close ones.
        self.amplified = min(1.0, length) ** 2 if length > 1e-5 else 1.0
        self.margin = min(self.margin, abs(length**2 - 1e-6))
        return 0.0 if length <= 1e-3 else abs(total @ k) / length

    def at_least(self, left, right):
        self.margin = min(self.margin, abs(left - right + EQUAL) * getattr(self, "amplified", 1.0))
        return left >= right - EQUAL

    def largest(self, rows, score):
        """The row of largest score, equal ones by lower index, and its own score."""
        scores = {j: score(j) for j in rows}
        best = max(scores.values())
        for j in rows:
            self.margin = min(self.margin, abs(best - scores[j] - EQUAL))
        winner = min(j for j in rows if best - scores[j] < EQUAL)
        return winner, scores[winner]

    def fits(self, j):
        return self.costs[j] <= self.rest and self.under_cap(j)

    def under_cap(self, j):
        return self.on_source.get(self.sources[j], 0) + self.costs[j] <= self.cap
