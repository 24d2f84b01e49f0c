"""Tuned cells: what is trained, what is judged on which episodes, and what a killed command goes on with."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest

from commands.comparison import trials
from commands.comparison.cells import make_cells
from commands.comparison.execution import add_own, make_record
from commands.comparison.phases import Phases
from commands.comparison.trials import choose, find_trials, run_trials
from commands.comparison.validation import make_trial_evaluation
from commands.config.compose import load_config
from commands.evaluation.cases import draw_cases
from commands.evaluation.methods import MODEL_METHOD, RANDOM_METHOD
from commands.evaluation.protocol import resolve_protocol
from commands.shared.console import Console
from commands.shared.runs import read_json, write_json
from envs.reacher.spec import REACHER

CONSOLE = Console(io.StringIO(), io.StringIO())
WORDS = ("objectives=[lewm]", "budgets=[steps]", "encoder=tiny", "pretrain.batch_size=2", "trials=4", "seeds=2")


class Killed(BaseException):
    """Ends a command where SIGKILL would."""


def summarise(success, distance):
    rates = {"0.2": success, "0.1": 0.0}
    return {"episodes": 4, "any": rates, "held": rates, "final_distance": distance}


def make_evaluation(success):
    methods = dict.fromkeys((MODEL_METHOD, RANDOM_METHOD), summarise(success, 1.0))
    outcomes = {"budget": 30, "goals": {}, "methods": dict.fromkeys(methods, {})}
    return {"methods": methods, "thresholds": [0.2, 0.1], "unit": "rad", "outcomes": outcomes}


class FakePhases(Phases):
    """Stands for training and planning; success follows from the learning rate. log: what was done, in order."""

    log: list = []
    steps: list = []  # of both stages, of every training
    success = {}  # trial -> success of the shared dynamics, of own dynamics
    kill_at = None

    def __init__(self, cell, name, data, work, shared, console):
        self.keys, self.name, self.work, self.seconds = cell.keys, name, work, {}
        self.number = int(work.name.removeprefix("trial").removeprefix("short"))

    def train(self):
        if self.kill_at == self.number:
            raise Killed
        self.log.append(("train", self.number))
        self.steps.append((self.keys.pretrain.steps, self.keys.posttrain.steps))
        self.work.mkdir(parents=True, exist_ok=True)
        return {"steps": 1, "flops": {"total": 1.0}, "seconds": {"pretrain": 1.0}}

    def train_encoder(self):
        self.log.append(("train_encoder", self.number))
        self.work.mkdir(parents=True, exist_ok=True)
        return self.name

    def plan(self, keys, name="plan"):
        assert self.work.exists(), "its model is there"
        self.log.append((name, self.number, keys.protocol.split, keys.protocol.episodes))
        return make_evaluation(self.success[self.number][0])

    def choose_view(self):
        return None

    def plan_own(self, keys, name="plan_own"):
        self.log.append((name, self.number, keys.protocol.split, keys.protocol.episodes))
        return make_evaluation(self.success[self.number][1])

    def measure_model(self):
        return {"rank_reach": {"of": self.number}}

    def remove_features(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(trials, "Phases", FakePhases)
    monkeypatch.setattr(trials, "check_val_episodes", lambda *args: None)
    monkeypatch.setattr(FakePhases, "log", [])
    monkeypatch.setattr(FakePhases, "steps", [])
    monkeypatch.setattr(FakePhases, "success", {0: (0.2, 0.9), 1: (0.8, 0.1), 2: (0.8, 0.1), 3: (0.5, 0.5)})
    return FakePhases


def run_in(folder, cell):
    return run_trials(cell, "data", folder, folder / "shared", find_trials(folder, cell), CONSOLE)


@pytest.fixture(scope="module")
def cells():
    return make_cells(load_config("compare", [*WORDS, "trial_episodes=7"]))


def test_the_best_trial_on_val_is_evaluated_once_and_own_dynamics_with_the_setting_that_is_best_for_them(
    tmp_path, fake, cells
):
    cell, plan, own, parts = run_in(tmp_path, cells[0])
    assert [entry for entry in fake.log if entry[0] == "train"] == [("train", number) for number in range(4)]
    assert [entry for entry in fake.log if entry[0] == "plan_val"] == [("plan_val", n, "val", 7) for n in range(4)]
    on_eval = [entry for entry in fake.log if entry[-2:] == ("eval", 50)]
    assert on_eval == [("plan", 1, "eval", 50), ("plan_own", 0, "eval", 50)]
    assert {entry[2] for entry in fake.log if len(entry) > 2 and entry not in on_eval} == {"val"}
    tuning = parts["tuning"]
    assert (tuning["chosen"], tuning["chosen_own"], tuning["setting_own"], tuning["trials"]) == (1, 0, {}, 4)
    assert tuning["tried"] == 4
    assert [result["val"]["success"] for result in tuning["results"]] == [0.2, 0.8, 0.8, 0.5]
    assert all({"setting", "seconds", "flops", "val_own"} <= result.keys() for result in tuning["results"])
    assert cell.keys.pretrain.lr == tuning["setting"]["pretrain.lr"] != cells[0].keys.pretrain.lr
    assert parts["rank_reach"] == {"of": 1}
    assert [found["methods"][MODEL_METHOD]["any"]["0.2"] for found in (own, plan)] == [0.9, 0.8]
    assert sorted(path.name for path in tmp_path.glob("trial[0-9]")) == ["trial0", "trial1"], "models of the best"


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_killed_command_goes_on_with_the_finished_trials(number, tmp_path, fake, cells, monkeypatch):
    monkeypatch.setattr(fake, "kill_at", number)
    with pytest.raises(Killed):
        run_in(tmp_path, cells[0])
    done = list(fake.log)
    monkeypatch.setattr(fake, "kill_at", None)
    again = run_in(tmp_path, cells[0])
    assert len([entry for entry in fake.log if entry[0] == "train"]) == 4
    assert fake.log[: len(done)] == done
    assert again[1:] == run_in(tmp_path / "other", cells[0])[1:]


def test_trials_with_a_share_of_the_steps_leave_no_models_and_the_chosen_setting_is_trained_in_full(
    tmp_path, fake, cells
):
    whole = (cells[0].keys.pretrain.steps, cells[0].keys.posttrain.steps)
    part = tuple(round(0.25 * steps) for steps in whole)
    cell = replace(cells[0], tuning=replace(cells[0].tuning, share=0.25))
    trial, _, _, parts = run_in(tmp_path, cell)
    assert fake.steps == [part] * 4 + [whole]
    assert (trial.keys.pretrain.steps, trial.keys.posttrain.steps) == whole
    at_the_end = [("train", 1), ("plan", 1, "eval", 50), ("train_encoder", 0), ("plan_own", 0, "eval", 50)]
    assert fake.log[-4:] == at_the_end, "own dynamics of another setting have their stage 1 trained, too"
    assert parts["tuning"]["share"] == 0.25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial0", "trial1", "trials"]


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_another_machine_goes_on_with_the_next_trial(share, tmp_path, fake, cells, monkeypatch):
    cell = replace(cells[0], tuning=replace(cells[0].tuning, share=share))
    monkeypatch.setattr(fake, "kill_at", 3)
    with pytest.raises(Killed):
        run_in(tmp_path / "first", cell)
    monkeypatch.setattr(fake, "kill_at", None)
    fake.log.clear()
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "trials").rename(tmp_path / "second" / "trials")
    _, _, _, parts = run_in(tmp_path / "second", cell)
    assert [entry[1] for entry in fake.log if entry[0] == "train"] == [3, 1], "the last trial, and the chosen one anew"
    assert [result["val"]["success"] for result in parts["tuning"]["results"]] == [0.2, 0.8, 0.8, 0.5]


def test_a_further_seed_trains_with_the_chosen_settings_and_its_record_is_found(tmp_path, fake, cells):
    first, second = cells
    assert second.find_record(tmp_path) is None
    trial, plan, own, parts = run_in(tmp_path / "first", first)
    write_json(tmp_path / f"{first.name}.json", add_own(make_record(trial, plan, MODEL_METHOD) | parts, own))
    path = first.find_record(tmp_path)
    assert path is not None and first.read_record(path)["tuning"]["trials"] == 4
    fake.log.clear()
    chosen = replace(second, tuning=replace(second.tuning, chosen=read_json(path)["tuning"]))
    trial, plan, own, parts = run_in(tmp_path / "second", chosen)
    assert fake.log == [
        ("train", 1),
        ("plan", 1, "eval", 50),
        ("train_encoder", 0),
        ("plan_own", 0, "eval", 50),
    ]
    assert parts["tuning"]["results"] == [] and parts["tuning"]["setting"] == first.tuning.drawn[1][0]
    write_json(tmp_path / f"{second.name}.json", add_own(make_record(trial, plan, MODEL_METHOD) | parts, own))
    assert second.find_record(tmp_path) == tmp_path / f"{second.name}.json"
    assert read_json(tmp_path / f"{second.name}.json")["config"]["pretrain"]["lr"] == trial.keys.pretrain.lr


def test_a_record_belongs_to_cells_of_the_same_trials_alone(tmp_path, fake, cells):
    trial, plan, own, parts = run_in(tmp_path / "run", cells[0])
    write_json(tmp_path / f"{cells[0].name}.json", add_own(make_record(trial, plan, MODEL_METHOD) | parts, own))
    tuning = cells[0].tuning
    for other in (
        None,
        replace(tuning, trials=3),
        replace(tuning, episodes=8),
        replace(tuning, share=0.5),
        replace(tuning, seed=1),
        replace(tuning, space={}),
    ):
        cell = replace(cells[0], tuning=other)
        assert cell.find_record(tmp_path) is None and cell.name != cells[0].name


def test_finished_trials_are_found_by_their_configuration_whatever_their_name_and_number(tmp_path, fake, cells):
    cell = cells[0]
    run_in(tmp_path, cell)
    (path,) = (tmp_path / "trials").iterdir()
    assert path.stem == cell.name
    renamed = path.rename(path.with_name(f"{cell.task}-lewm-steps-seed0-of-an-earlier-version.json"))
    content = read_json(renamed)
    content["config"]["posttrain"].pop("adaptive_clip")  # a key of later versions, which had no other value before
    write_json(renamed, content)
    drawn = cell.tuning.drawn
    fewer = replace(cell, tuning=replace(cell.tuning, trials=2, drawn=drawn[:2]))
    for other in (cell, fewer):
        assert find_trials(tmp_path, other).path == renamed and len(find_trials(tmp_path, other).read()) == 4
    fake.log.clear()
    _, _, _, parts = run_in(tmp_path, fewer)
    assert [entry for entry in fake.log if entry[0] == "train"] == []
    assert (parts["tuning"]["trials"], len(parts["tuning"]["results"])) == (2, 2)
    find_trials(tmp_path, fewer).remove()
    assert renamed.exists(), "it has results that a command with more trials can use"
    find_trials(tmp_path, cell).remove()
    assert not renamed.exists()


def test_a_command_with_more_trials_goes_on_from_a_finished_record(tmp_path, fake, cells):
    cell, tuning = cells[0], cells[0].tuning
    fewer = replace(cell, tuning=replace(tuning, trials=3, drawn=tuning.drawn[:3]))
    trial, plan, own, parts = run_in(tmp_path / "run", fewer)
    write_json(tmp_path / f"{fewer.name}.json", add_own(make_record(trial, plan, MODEL_METHOD) | parts, own))
    assert find_trials(tmp_path, cell).read() == parts["tuning"]["results"] and len(parts["tuning"]["results"]) == 3
    fake.log.clear()
    _, _, _, more = run_in(tmp_path, cell)
    assert [entry[1] for entry in fake.log if entry[0] == "train"] == [3, 1], "the last trial, and the chosen one anew"
    assert len(more["tuning"]["results"]) == 4
    assert find_trials(tmp_path, replace(cell, tuning=replace(tuning, share=0.5))).read() == []


def test_trials_of_another_configuration_or_of_other_settings_are_not_found(tmp_path, fake, cells):
    cell, tuning = cells[0], cells[0].tuning
    run_in(tmp_path, cell)
    (path,) = (tmp_path / "trials").iterdir()
    longer = replace(cell.keys, pretrain=replace(cell.keys.pretrain, steps=7))
    for other in (
        replace(cell, keys=longer),
        replace(cell, tuning=replace(tuning, share=0.5)),
        replace(cell, tuning=replace(tuning, drawn=(tuning.drawn[0], *tuning.drawn[2:]))),
    ):
        assert find_trials(tmp_path, other).read() == []
    assert len(find_trials(tmp_path, cell).read()) == 4
    write_json(path, read_json(path)["results"])  # as earlier versions wrote them
    assert find_trials(tmp_path, cell).read() == []


def test_of_equal_trials_the_one_that_ends_nearest_is_chosen_and_then_the_first():
    def result(success, distance):
        return {"val": {"success": success, "final_distance": distance}}

    assert choose([result(0.5, 0.1), result(0.9, 0.3), result(0.9, 0.2), result(0.9, 0.2)], "val") == 2
    assert choose([result(0.5, 0.1)], "val_own") is None


def test_starts_and_goals_of_trials_are_frames_of_val(cells):
    """Of a file whose episodes are of each split in turn."""
    import numpy as np

    truth = np.random.default_rng(0).uniform(-3, 3, (60, 30, 4))
    splits = {"train": np.arange(0, 60, 3), "val": np.arange(1, 60, 3), "eval": np.arange(2, 60, 3)}
    reader = SimpleNamespace(
        episodes=splits.__getitem__,
        column=lambda name, episode: truth[episode],
        num_frames=lambda episode: 30,
    )
    keys = make_trial_evaluation(cells[0].keys.evaluation, 10)
    assert not keys.protocol.oracle and keys.protocol.oracle_cost.episodes == 0
    cases = draw_cases(reader, REACHER, resolve_protocol(keys.protocol, REACHER))
    assert len(cases.episodes) == 10 and set(cases.episodes) <= set(splits["val"])
