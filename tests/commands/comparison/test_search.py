"""Search spaces of trials, and how settings are drawn."""

from __future__ import annotations

import math

import pytest

from commands.comparison.search import Distribution, draw_settings, leave_out_keys, list_extremes, read_space
from commands.shared.errors import UsageError

SPACE = {
    "pretrain.lr": {"log": [1e-4, 1e-2]},
    "objective": {"terms": {"sigreg": {"uniform": [0, 2]}}},
    "encoder": {"choice": [{"patch_px": 8}, {"pool": {"kind": "keypoints"}}]},
}


def draw(space, trials, name="a", apply=dict):
    return [setting for setting, _ in draw_settings(read_space(space, "search.lewm"), trials, name, apply)]


def test_a_space_may_be_dotted_or_nested():
    space = read_space(SPACE, "search.lewm")
    assert space == {
        "pretrain.lr": Distribution("log", (1e-4, 1e-2)),
        "objective.terms.sigreg": Distribution("uniform", (0.0, 2.0)),
        "encoder": Distribution("choice", ({"patch_px": 8}, {"pool": {"kind": "keypoints"}})),
    }
    nested = {**SPACE, "pretrain": {"lr": None}, "encoder": {"choice": [1]}}  # as words of a command line add them
    assert set(read_space(nested, "search.lewm")) == {"objective.terms.sigreg", "encoder"}
    assert {"objective.terms.sigreg": 2.0} in list_extremes(space) and len(list_extremes(space)) == 6


def test_the_first_trial_is_the_published_setting_and_more_trials_begin_with_the_same():
    eight = draw(SPACE, 8)
    assert eight[0] == {} and len(eight) == 8
    assert draw(SPACE, 4) == eight[:4]
    assert draw(SPACE, 8, "b")[1:] != eight[1:]


def test_draws_follow_their_distributions():
    """Quarters of the range in which a log-uniform and a uniform number lie hold a quarter of the draws each."""
    drawn = draw({key: SPACE[key] for key in ("pretrain.lr", "objective")}, 2001)[1:]
    shares = {
        "pretrain.lr": [math.log10(setting["pretrain.lr"] / 1e-4) / 2 for setting in drawn],
        "objective.terms.sigreg": [setting["objective.terms.sigreg"] / 2 for setting in drawn],
    }
    for values in shares.values():
        assert min(values) >= 0 and max(values) <= 1
        for quarter in range(4):
            count = sum(quarter / 4 <= value < (quarter + 1) / 4 for value in values)
            assert abs(count - 500) < 4 * math.sqrt(2000 * 3 / 16)


def test_a_drawn_number_has_three_digits():
    assert all(float(f"{setting['pretrain.lr']:.3g}") == setting["pretrain.lr"] for setting in draw(SPACE, 20)[1:])


def test_a_finite_space_is_tried_in_full_and_nothing_twice():
    space = {"encoder.patch_px": {"choice": [8, 16, 32]}}
    apply = lambda setting: setting.get("encoder.patch_px", 16)  # noqa: E731  the published one is 16
    drawn = draw(space, 9, apply=apply)
    assert sorted(map(apply, drawn)) == [8, 16, 32] and drawn[0] == {}


@pytest.mark.parametrize("decided", ["encoder.pool.kind", "encoder", "encoder.patch_px"])
def test_what_an_axis_decides_is_not_searched(decided):
    left = leave_out_keys(read_space(SPACE, "search.lewm"), [decided])
    assert set(left) == {"pretrain.lr", "objective.terms.sigreg"}
    assert set(leave_out_keys(left, ["pretrain.lr_end", "objective.metric.kind"])) == set(left)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"pretrain.lr": {"lgo": [1, 2]}}, "search.lewm.pretrain.lr: lgo is no distribution; did you mean log?"),
        ({"pretrain.lr": {"log": [1, 2], "choice": [1]}}, "has 2 distributions (log, choice): give one"),
        ({"pretrain.lr": {"log": [0, 2]}}, "give two bounds, the lower one first, both above 0"),
        ({"pretrain.lr": {"uniform": [2, 1]}}, "search.lewm.pretrain.lr.uniform=[2, 1]: give two bounds, the lower"),
        ({"pretrain.lr": {"uniform": [1]}}, "give two bounds"),
        ({"pretrain.lr": {"uniform": [False, True]}}, "give two bounds"),
        ({"pretrain.lr": {"choice": []}}, "search.lewm.pretrain.lr.choice=[]: give a list of values"),
        ({"pretrain.lr": 3}, "search.lewm.pretrain.lr=3: give a distribution, as"),
        ({"pretrain": {}}, "search.lewm.pretrain={}: give a distribution, as"),
        ({"data.episodes": {"choice": [1]}}, "search.lewm.data.episodes: all methods share data; a search space holds"),
        ({"pretrain.steps": {"choice": [1]}}, "search.lewm.pretrain.steps: the budget decides the steps"),
    ],
)
def test_a_space_that_means_nothing_is_refused(space, said):
    with pytest.raises(UsageError) as caught:
        read_space(space, "search.lewm")
    assert said in str(caught.value)
