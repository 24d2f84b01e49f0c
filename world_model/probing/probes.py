"""Probes of frozen features, and warnings of their collapse. Only probes read the true state, never training.

`near_pair_correlation`, the rank correlation of feature distance with the task's true distance over pairs that are
close, predicted planning success best at small scale. They may choose a recipe on `val`, never a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from world_model.encoder import VideoEncoder

TruthDistance = Callable[[Tensor, Tensor], Tensor]
RIDGE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PAIR_CHUNK = 1024  # pairs compared at once
FEW_PAIRS = 10  # least number of different pairs for a rank correlation
NEAREST = 0.02  # share of the pairs that count as near if fewer than FEW_PAIRS are


def measure_spread(features_ND: Tensor) -> dict[str, float]:
    """Standard deviation over samples, mean and least over dimensions, and effective rank exp(entropy of spectrum)."""
    centred = (features_ND - features_ND.mean(0)).double()
    std = centred.square().mean(0).sqrt()
    power = torch.linalg.svdvals(centred).square()
    share = power / power.sum().clamp_min(1e-30)
    entropy = -(share * share.clamp_min(1e-30).log()).sum()
    return {
        "feature_std": std.mean().item(),
        "feature_std_min": std.min().item(),
        "effective_rank": entropy.exp().item(),
    }


def measure_within_share(features_ND: Tensor, episodes_N: Tensor) -> float:
    """Share of the variance that lies within episodes, 0..1: squared distance to the episode's mean over squared
    distance to the mean of all, both summed over frames and dimensions. NaN for one episode, or without variance."""
    within, means, sizes = 0.0, [], []
    for episode in episodes_N.unique():
        group = features_ND[episodes_N == episode].double()
        within += (group - group.mean(0)).square().sum().item()
        means.append(group.mean(0))
        sizes.append(len(group))
    means_ED, sizes_E1 = torch.stack(means), torch.tensor(sizes)[:, None]
    mean = (sizes_E1 * means_ED).sum(0) / len(features_ND)
    total = within + (sizes_E1 * (means_ED - mean).square()).sum().item()
    return within / total if len(sizes) > 1 and total > 0 else float("nan")


def make_random_encoder(encoder: VideoEncoder, seed: int) -> VideoEncoder:
    """An untrained encoder with the same sizes, pixel statistics and device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = VideoEncoder(encoder.config)
    random.set_pixel_statistics(encoder.pixel_mean.cpu(), encoder.pixel_std.cpu())
    return random.to(encoder.pixel_mean.device).eval()


COLLAPSED = 0.05  # spread, as a share of the first, below which features are collapsed
NARROWED = 0.4  # effective rank, as a share of its best in training, below which a warning is due


def find_collapse(evaluations: Sequence[Mapping[str, float]]) -> str | None:
    """One sentence if features collapse, wholly or in part; None otherwise.

    evaluations: results of `measure_spread` with the loss `prediction`, oldest first, the first before training. The
    loss alone does not show collapse: it falls. In part: effective rank and loss both fall well below their best.
    """
    if len(evaluations) < 2:
        return None
    first, last, trained = evaluations[0], evaluations[-1], evaluations[1:]
    if last["feature_std"] < COLLAPSED * first["feature_std"]:
        return (
            f"the features have collapsed: their spread is {last['feature_std']:.2g}, at the start it was "
            f"{first['feature_std']:.2g}; give the objective an EMA teacher, or anti-collapse terms "
            "(objective.terms.variance=1 objective.terms.covariance=1), or a lower trainer.lr"
        )
    best = max(trained, key=lambda numbers: numbers["effective_rank"])
    narrowed = last["effective_rank"] < NARROWED * best["effective_rank"]
    if narrowed and last["prediction"] < best["prediction"]:
        return (
            f"the features are collapsing in part: effective rank {last['effective_rank']:.1f}, at its best "
            f"{best['effective_rank']:.1f}, while the loss falls; try objective.terms.covariance=1, a slower teacher "
            "(objective.teacher.ema nearer to 1) or a lower trainer.lr"
        )
    return None


# Share of the variance within episodes below which features are nearly constant there, by the space that is predicted.
# Embeddings, `reacher` with four factors of variation, 5,000 episodes: 0.33 to 0.69 after 100 to 600 steps with centred
# terms, 0.12 to 0.14 after 100 and 200 without, 0.01 to 0.09 untrained; plain 0.92 to 0.95. Tokens hold the still
# background, too, which cancels where they are compared: 0.03 to 0.07.
CONSTANT = {"pooled": 0.2, "tokens": 0.01}


def find_constant_episodes(evaluations: Sequence[Mapping[str, float]], space: str, centred: bool) -> str | None:
    """One sentence if trained features are nearly constant within episodes whose pictures are not; None otherwise.

    evaluations: as `find_collapse`, with `within_share` and `within_share_pixels`; the first is not judged. space:
    pooled or tokens. centred: whether the objective's terms are.
    """
    last = evaluations[-1]
    if len(evaluations) < 2 or not (last["within_share"] < CONSTANT[space] and last["within_share_pixels"] > 0):
        return None
    advice = (
        "the terms are centred already, so raise objective.terms.variance or train longer (trainer.steps)"
        if centred
        else "set objective.terms.centred=true (objectives future, lewm, pldm)"
    )
    return (
        f"the features are nearly constant within episodes: {100 * last['within_share']:.2g} % of their variance is "
        f"there, the rest tells episodes apart, so a plan hardly sees what moves; {advice}"
    )


# Spread, as a share of the first, below which features have shrunk between two views. `views`, varied scenes, 600 to
# 1200 steps: 0.15 on `push_t`, 0.20 and 0.22 on `two_rooms`, with an effective rank of 2 to 6 of 64; 0.28 on
# `two_rooms` and 0.34 on `reacher` with one of 10; 0.41 to 0.54 with centred errors and 16 to 30 (experiment 25).
SHRUNKEN = 0.25


def find_shrunken_views(evaluations: Sequence[Mapping[str, float]]) -> str | None:
    """One sentence if features shrink in an objective of two views, as their shared error asks; None otherwise.

    evaluations: results of `measure_spread`, oldest first, the first before training.
    """
    first, last = evaluations[0]["feature_std"], evaluations[-1]["feature_std"]
    if last >= SHRUNKEN * first:
        return None
    return (
        f"the features shrink, since two views differ by more than what moves: their spread is {last:.2g}, at the "
        f"start it was {first:.2g}; give objective.shared_error=0.1, or 0"
    )


def reduce_dimensions(features_ND: Tensor) -> Tensor:
    """The features, centred, in double; if wider than N, rotated into their N directions of variance, which changes
    neither distances nor ridge regressions."""
    x = (features_ND - features_ND.mean(0)).double()
    if x.shape[1] <= len(x):
        return x
    power, directions = torch.linalg.eigh(x @ x.T)
    return directions * power.clamp_min(0).sqrt()


def r2(predicted_NP: Tensor, values_NP: Tensor) -> Tensor:
    """Share of variance explained [P]."""
    error, power = (predicted_NP - values_NP).square().mean(0), values_NP.var(0, unbiased=False)
    return 1 - error / power.clamp_min(1e-12)


def fit_ridge(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], score: Callable[[Tensor, Tensor], Tensor] = r2
) -> tuple[float, Tensor, float]:
    """Strength, weights [D, P] and validation score of the best ridge regression of RIDGE_STRENGTHS.

    train, val: features [N, D] and targets [N, P]. A strength is relative to the mean power of a feature.
    """
    x, y = train
    gram, results = x.T @ x, []
    for strength in RIDGE_STRENGTHS:
        penalty = strength * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        weights = torch.linalg.solve(gram + penalty, x.T @ y)
        results.append((strength, weights, score(val[0] @ weights, val[1]).mean().item()))
    return max(results, key=lambda result: result[2])


PROBE_GROUPS = 4  # that a probe needs


def probe_r2(features_ND: Tensor, targets_NP: Tensor, groups_N: Tensor) -> float:
    """Mean R2 of a linear probe on held-out groups (episodes); NaN for fewer than `PROBE_GROUPS`.

    Groups are dealt into as many folds: two fit the ridge, one chooses its strength, the last one is reported.
    """
    _, index = groups_N.unique(return_inverse=True)
    fold = index % PROBE_GROUPS
    x = reduce_dimensions(features_ND)
    x = torch.cat((x, torch.ones(len(x), 1, dtype=x.dtype) * x.square().mean().sqrt().clamp_min(1e-12)), 1)
    y = targets_NP.double()
    train, val, test = fold < 2, fold == 2, fold == 3
    if not (val.any() and test.any()):
        return float("nan")
    _, weights, _ = fit_ridge((x[train], y[train]), (x[val], y[val]))
    return r2(x[test] @ weights, y[test]).mean().item()


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors, with mean ranks for ties; NaN if either is constant."""
    return rank_correlations(a[None], b[None]).item()


def rank_correlations(a_NS: Tensor, b_NS: Tensor) -> Tensor:
    """Spearman's rank correlation of every row of `a` with that of `b`, as of `rank_correlation`: float64 [N]."""
    from scipy.stats import rankdata  # slow to import

    a, b = (torch.from_numpy(rankdata(x.double().cpu().numpy(), axis=1)) for x in (a_NS, b_NS))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return ((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()).clamp(-1, 1)


def near_pair_correlation(
    features_ND: Tensor,
    truth_NL: Tensor,
    distance: TruthDistance,
    near: float,
    scenes_N: Tensor | None = None,
    num_pairs: int = 40_000,
    seed: int = 0,
) -> float:
    """Rank correlation of feature distance (L2) with true distance, over random pairs closer than `near`, or over the
    nearest 2 % if hardly any are.

    scenes_N: pairs are drawn within a scene, since scenes differ in more than state (positions of doors).
    """
    generator = torch.Generator().manual_seed(seed)
    first, draw = torch.randint(len(features_ND), (2, num_pairs), generator=generator)
    scenes = torch.zeros(len(features_ND)) if scenes_N is None else scenes_N
    _, scene, sizes = scenes.unique(return_inverse=True, return_counts=True)
    starts, group = sizes.cumsum(0) - sizes, scene[first]
    second = scene.argsort(stable=True)[starts[group] + draw % sizes[group]]
    true = distance(truth_NL[first], truth_NL[second])
    other = first != second
    close = (true < near) & other
    if _count_pairs(first[close], second[close]) < FEW_PAIRS and other.any():
        close = (true <= true[other].quantile(NEAREST)) & other
    if _count_pairs(first[close], second[close]) < FEW_PAIRS:
        return float("nan")
    return _correlate_distances(features_ND, first[close], second[close], true[close])


def cross_episode_correlation(
    features_ND: Tensor,
    truth_NL: Tensor,
    distance: TruthDistance,
    episodes_N: Tensor,
    num_pairs: int = 40_000,
    seed: int = 0,
) -> float:
    """Rank correlation of feature distance (L2) with true distance over random pairs of different episodes. Where
    scenes vary between episodes, it is high only if features leave out what differs between scenes."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(len(features_ND), (2, num_pairs), generator=generator)
    differ = episodes_N[first] != episodes_N[second]
    first, second = first[differ], second[differ]
    if _count_pairs(first, second) < FEW_PAIRS:
        return float("nan")
    return _correlate_distances(features_ND, first, second, distance(truth_NL[first], truth_NL[second]))


def _count_pairs(first_P: Tensor, second_P: Tensor) -> int:
    """Different pairs among those drawn, whichever comes first."""
    low, high = torch.minimum(first_P, second_P), torch.maximum(first_P, second_P)
    return (low << 32 | high).unique().numel()  # unique(dim=1) takes ten times as long


def _correlate_distances(features_ND: Tensor, first_P: Tensor, second_P: Tensor, true_P: Tensor) -> float:
    """Rank correlation of the feature distances of pairs, given by their rows, with true distances."""
    x = reduce_dimensions(features_ND)
    chunks = zip(first_P.split(PAIR_CHUNK), second_P.split(PAIR_CHUNK), strict=True)
    distances = torch.cat([(x[a] - x[b]).norm(dim=-1) for a, b in chunks])
    return rank_correlation(distances, true_P)
