"""The axes of a table: rows, their pipelines, and what is left out or refused."""

from __future__ import annotations

import pytest

from commands import compare
from commands.cli.main import main
from commands.comparison.search import read_space
from commands.comparison.table_keys import list_rows, make_cell_keys, make_search_space
from commands.config.compose import list_choices, load_config
from commands.shared.errors import UsageError
from commands.tables.rows import format_row
from tests.world_model.small import ONE_STAGE
from world_model.nn.pools import KeypointPoolConfig
from world_model.objectives.end_to_end import EndToEndConfig


def load(*words):
    return load_config("compare", list(words))


def test_every_objective_is_planned_with_and_without_a_metric():
    names = ["untrained", *(name for name in list_choices("objective") if name not in ("collapse", *ONE_STAGE))]
    config = load(f"objectives=[oracle,{','.join(names)}]", "vary.metric=[none,biharmonic]")
    rows, left_out = list_rows(config)
    assert [row.name for row in rows] == ["oracle"] + [f"{n} metric={m}" for n in names for m in ("none", "biharmonic")]
    assert not left_out
    for row in rows[1:]:
        keys = make_cell_keys(config, row.objective, 0, row.variant)
        kind = None if keys.objective.metric is None else keys.objective.metric.kind
        assert kind == (None if row.variant["metric"] == "none" else "biharmonic"), row.name


def test_an_axis_with_the_name_of_a_column_is_refused():
    with pytest.raises(UsageError, match="axes.seed: tables have a column of this name"):
        list_rows(load("axes.seed={a: ['pretrain.lr=1.0e-3']}", "vary.seed=[a]", "objectives=[future]"))


def test_a_world_model_of_one_stage_has_rows_where_an_axis_changes_it():
    config = load(
        "objectives=[dreamerv3,lewm]",
        "vary.metric=[none,biharmonic]",
        "vary.rate=[low,high]",
        "axes.rate={low: ['pretrain.lr=5.0e-4','posttrain.lr=1.0e-3'], high: ['pretrain.lr=2.0e-3']}",
    )
    rows, left_out = list_rows(config)
    mine = [row.name for row in rows if row.objective == "dreamerv3"]
    assert mine == ["dreamerv3 metric=none rate=low", "dreamerv3 metric=none rate=high"] and len(rows) == 6
    assert left_out == {
        "a world model of one stage has no metric": [f"dreamerv3 metric=biharmonic rate={r}" for r in ("low", "high")]
    }
    rates = [make_cell_keys(config, "dreamerv3", 0, row.variant).pretrain.lr for row in rows[:2]]
    assert rates == [5e-4, 2e-3]
    rows, left_out = list_rows(load("objectives=[dreamerv3]", "vary.encoder=[patches,patches8,keypoints]"))
    assert [row.name for row in rows] == ["dreamerv3 encoder=patches"]
    assert list(left_out) == ["the same as another variant of this objective"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("small.dreamerv3=['posttrain.lr=1.0e-3']",), "small.dreamerv3: posttrain.lr: dreamerv3 is a world model of"),
        (("search.dreamerv3={dynamics.history: {choice: [1,2]}}", "trials=2"), "all methods share dynamics"),
        (("search.dreamerv3={posttrain.lr: {log: [1.0e-4,1.0e-2]}}", "trials=2"), "has no stage 2: leave it out"),
        (("small.dreamerv3=['objective.metric.kind=commute']",), "small.dreamerv3: objective.metric: dreamerv3 is a"),
        (("arms.mine=['objective=dreamerv3','dynamics.decoder={}']", "objectives=[mine]"), "arms.mine: dynamics"),
        (("planner.flow_steps=2",), "planner.flow_steps=2 is for a model with dynamics.flow"),
        (("efforts=[candidates,flops]",), "name one, as small.OBJECTIVE=['planner.cost.view=pixels']"),
        (("protocol.split=val",), "dreamerv3 chooses its view on val, and protocol.split=val would report on it, too"),
        (("same_size=0.05",), "same_size compares the encoder and the dynamics of methods"),
    ],
)
def test_what_does_not_fit_a_world_model_of_one_stage_is_one_sentence(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "objectives=[dreamerv3]", *words, "name=x"]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error
    assert not list(tmp_path.iterdir())


def test_the_metrics_of_a_recipe_are_the_same_for_every_row():
    config = load("recipe=push_t", "vary.metric=[commute]")
    metrics = {make_cell_keys(config, row.objective, 0, row.variant).objective.metric for row in list_rows(config)[0]}
    (metric,) = metrics - {load_config("demo").objective.metric}  # that of the oracle, which has no encoder
    assert (metric.kind, metric.lag, metric.source, metric.modes) == ("commute", 1, "inputs", 32)


def test_an_encoder_that_changes_nothing_or_is_refused_makes_no_row():
    config = load("objectives=[vjepa2,lewm,untrained]", "vary.encoder=[patches,keypoints,conv]")
    rows, left_out = list_rows(config)
    assert [row.name for row in rows] == [
        "vjepa2 encoder=patches",
        *(f"{name} encoder={kind}" for name in ("lewm", "untrained") for kind in ("patches", "keypoints", "conv")),
    ]
    assert list(left_out.values()) == [["vjepa2 encoder=keypoints"], ["vjepa2 encoder=conv"]]
    assert "sees into hidden patches" in list(left_out)[1]


def test_an_untrained_row_follows_the_pool_of_its_variant():
    config = load("objectives=[untrained]", "vary.encoder=[patches,keypoints]")
    patches, keypoints = (make_cell_keys(config, "untrained", 0, row.variant) for row in list_rows(config)[0])
    assert (patches.objective.family, keypoints.objective.family) == ("masked", "future")
    assert isinstance(keypoints.encoder.pool, KeypointPoolConfig) and keypoints.pretrain.steps == 0
    drawn = make_cell_keys(load(), "untrained", 0, {}, {"encoder": {"pool": {"kind": "keypoints"}}})
    assert drawn.objective.family == "future"


def test_an_axis_of_ones_own_makes_rows():
    config = load("objectives=[future,lewm]", "axes.rate={slow: ['pretrain.lr=1.0e-4']}", "vary.rate=[slow]")
    rows = list_rows(config)[0]
    assert [row.name for row in rows] == ["future rate=slow", "lewm rate=slow"]
    assert all(make_cell_keys(config, row.objective, 0, row.variant).pretrain.lr == 1e-4 for row in rows)


def test_the_variant_wins_over_what_was_chosen_for_a_method_alone():
    config = load("small.future=['objective.metric.kind=commute']", "vary.metric=[kinetic]")
    assert make_cell_keys(config, "future", 0, {"metric": "kinetic"}).objective.metric.kind == "kinetic"


def test_a_row_is_named_by_what_differs():
    assert format_row("lewm", {}) == "lewm"
    assert format_row("lewm", {"metric": "none", "encoder": "conv"}) == "lewm metric=none encoder=conv"


def test_every_method_has_a_space_of_three_keys_and_of_whether_its_terms_are_centred():
    config = load()
    for name in config.objectives:
        space = read_space(config.search.get(name, {}), f"search.{name}")
        if name == "oracle":
            assert not space
        elif name == "untrained":
            assert list(space) == ["encoder"] and len(space["encoder"].values) == 9
        else:
            has_terms = name in ("future", "lewm", "pldm")
            assert len(space) == (4 if has_terms else 3) and "pretrain.lr" in space, name
            assert ("objective.terms.centred" in space) == has_terms, name
    compare.check(config)


def test_spaces_of_end_to_end_objectives_lie_around_the_published_weights():
    config = load()
    for name in ("lewm", "pldm"):
        objective = make_cell_keys(config, name, 0).objective
        assert isinstance(objective, EndToEndConfig)
        for key, distribution in make_search_space(config, name).items():
            if distribution.kind == "log" and key.startswith("objective."):
                value = objective
                for part in key.split(".")[1:]:
                    value = getattr(value, part)
                assert distribution.values[0] < value < distribution.values[1], key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trials=0"], "trials=0 is out of range: it must be at least 1"),
        (["trial_episodes=0"], "trial_episodes=0 is out of range: it must be at least 1"),
        (["vary.metric=[]"], "vary.metric=[] names no variant: give some of [none, kinetic, commute, biharmonic]"),
        (["vary.metric=[biharmonc]"], "vary.metric: biharmonc is no variant; did you mean biharmonic?"),
        (["vary.metric=[none,none]"], "vary.metric=[none,none] names a variant twice"),
        (["vary.metrc=[none]"], "vary.metrc: there is no such axis; did you mean metric?"),
        (["axes.x.y=[nonsense]", "vary.x=[y]"], "axes.x.y: 'nonsense' is not key=value"),
        (
            ["axes.x.y=['pretrain.lrr=1']", "vary.x=[y]"],
            "vary (future x=y): 'pretrain.lrr' is no key; did you mean lr?",
        ),
        (["axes.x.y=['data.episodes=9']", "vary.x=[y]"], "axes: data.episodes is equal in all rows of a table"),
        (["objectives=[vjepa2]", "vary.encoder=[conv]"], "no row is left: vjepa2 encoder=conv: encoder.stem.kind=conv"),
        (["search.lewn.pretrain.lr={log: [1,2]}"], "search.lewn: there is no such objective; did you mean lewm?"),
        (["search.future.pretrain.lrr={log: [1,2]}"], "search.future: 'pretrain.lrr' is no key; did you mean lr?"),
        (["search.lewm.pretrain.lr={lgo: [1,2]}"], "search.lewm.pretrain.lr"),
        (["search.future.objective.frame_gap={choice: [0]}"], "objective.frame_gap=0 is out of range"),
        (["trials=2", "search.future=null"], "search.future"),
        (["trials=2", "protocol.split=val"], "trials=2 chooses on val, and protocol.split=val would report on it"),
        (["trials=2", "objectives=[collapse]"], "trials=2: search.collapse states no key to draw"),
    ],
)
def test_a_mistake_is_one_sentence(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "objectives=[future]", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert not list(tmp_path.iterdir())
