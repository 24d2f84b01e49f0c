"""The whole way, as a user types it: collect -> pretrain -> posttrain -> plan, at the smallest size, and again."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from commands.training.model_folders import load_dynamics

pytestmark = pytest.mark.slow
HOME = Path(__file__).resolve().parent.parent
TINY = ("trainer=debug", "seed=1")
PLANNED = ("model=runs/posttrain/model", "data=runs/collect/data", "protocol.episodes=2")
SEARCH = ("planner.samples=12", "planner.elites=4", "planner.iterations=2")


@dataclass(frozen=True)
class Output:
    """What a command printed."""

    stdout: str
    stderr: str


def jepa(*words: str, cwd: Path, code: int = 0) -> Output:
    """Run a command in this process, which is spared the imports, and check its exit code."""
    from commands.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = main(list(words))
    assert found == code, (words, found, out.getvalue()[-2000:], err.getvalue()[-2000:])
    return Output(out.getvalue(), err.getvalue())


def run_process(*command: str, cwd: Path) -> str:
    """Run Python in a process of its own; what it printed."""
    env = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=env, text=True, capture_output=True)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with a small data file, an encoder and dynamics."""
    folder = tmp_path_factory.mktemp("work")
    jepa("collect", "data.episodes=12", "data.frames=30", "name=data", cwd=folder)
    jepa("pretrain", "data=runs/collect/data", "encoder=tiny", *TINY, "name=encoder", cwd=folder)
    jepa("posttrain", "data=runs/collect/data", "encoder=runs/pretrain/encoder", *TINY, "name=model", cwd=folder)
    return folder


def test_planning_leaves_results_episodes_videos_and_a_page(work):
    done = jepa(
        "plan",
        "model=runs/posttrain/model",
        "data=runs/collect/data",
        "protocol.episodes=2",
        "videos=1",
        "protocol.oracle_cost.episodes=1",
        *SEARCH,
        "name=p",
        cwd=work,
    )
    folder = work / "runs/plan/p"
    results = json.loads((folder / "results.json").read_text())
    assert set(results["methods"]) == {"model", "random", "zero action", "oracle", "oracle, model's cost"}
    assert results["schema"] == 2 and results["episodes"] == 2 and 0 <= results["success_rate"] <= 1
    assert results["protocol"]["split"] == "eval" and results["plan"]["ms_p50"] > 0
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 9 and all(len(line["distances"]) == results["protocol"]["budget"] + 1 for line in lines)
    assert (folder / "report.html").stat().st_size > 10_000 and list((folder / "videos").iterdir())
    assert "within 0.2 rad" in done.stdout
    assert done.stdout.index("videos: ") < done.stdout.index("random  "), "videos are seen before the baselines play"


def test_an_appearance_that_the_data_cannot_give_is_refused_before_a_folder_is_made(work):
    for words, said in (
        (("plan", *PLANNED, "protocol.goal_nuisance=other"), "were collected without factors of appearance"),
        (("plan", *PLANNED, "protocol.variation=unseen"), "collect with env.variation=seen"),
        (("plan", *PLANNED, "goal=photo.png", "protocol.goal_nuisance=clean"), "goal=photo.png is shown as it is"),
        (("demo", "protocol.goal_nuisance=other"), "were collected without factors of appearance"),
        (("compare", "protocol.variation=moving"), "were collected without factors of appearance"),
    ):
        assert said in jepa(*words, "name=refused", cwd=work, code=2).stderr
        assert not (work / "runs" / words[0] / "refused").exists()


def test_a_picture_can_be_the_goal_and_a_wrong_one_is_named(work):
    from PIL import Image

    from data.store import Reader

    frame = Reader(work / "runs/collect/data/trajectories.h5").column("pixels", 0)[7]
    Image.fromarray(frame).save(work / "photo.png")
    (work / "words.png").write_text("no picture")
    words = ("plan", "model=runs/posttrain/model", "data=runs/collect/data", "protocol.episodes=2", *SEARCH, "videos=1")
    done = jepa(*words, "goal=photo.png", "name=photo", cwd=work)
    folder = work / "runs/plan/photo"
    results = json.loads((folder / "results.json").read_text())
    assert results["methods"]["model"]["start"] > 0 and "success_rate" not in results
    assert "feature distance" in done.stdout and len(list((folder / "videos").iterdir())) == 1
    assert "looks unlike the data" not in done.stderr
    both = (*words, "goal=[photo.png,photo.png]")
    jepa(*both, "planner.mpc.subgoal_steps=2", "name=both", cwd=work)
    results = json.loads((work / "runs/plan/both/results.json").read_text())
    way, last = results["methods"]["model, from photo.png on the way"], results["methods"]["model"]
    assert results["sub_goals"] == ["photo.png"] and way == last  # the same picture twice
    assert "planner.mpc.subgoal_steps" in jepa(*both, cwd=work, code=2).stderr
    Image.fromarray(255 - frame).save(work / "strange.png")
    strange = jepa(*words, "goal=strange.png", "name=strange", cwd=work)
    assert "looks unlike the data" in strange.stderr and "another environment" in strange.stderr
    for goal, code, says in (
        ("words.png", 1, "as an image"),
        ("none.png", 1, "no such file"),
    ):
        wrong = jepa(*words, f"goal={goal}", cwd=work, code=code)
        assert says in wrong.stderr and len(wrong.stderr.strip().splitlines()) == 1, wrong.stderr


def test_two_processes_pretrain_what_one_does(work):
    from safetensors.torch import load_file

    from commands.shared.console import read_metrics

    words = ("pretrain", "data=runs/collect/data", "encoder=tiny", *TINY, "name=two")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert run_process(*torchrun, "-m", "commands", *words, cwd=work).count("writing to") == 1
    one, two = (work / f"runs/pretrain/{name}" for name in ("encoder", "two"))
    losses = [
        [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"] for run in (one, two)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 5
    # The weights before the metric, which scales what little data leave undetermined.
    ours, theirs = (load_file(run / "checkpoints/step-00000005.safetensors") for run in (one, two))
    for name, value in ours.items():  # AdamW takes whole steps where a gradient is rounding alone
        assert (value - theirs[name]).abs().max() < 1e-3, name


def test_a_finished_run_says_so_and_is_not_done_again(work):
    before = (work / "runs/pretrain/encoder/model/model.safetensors").stat().st_mtime_ns
    done = jepa("pretrain", "data=runs/collect/data", "encoder=tiny", *TINY, "name=encoder", cwd=work)
    assert "finished" in done.stdout
    assert (work / "runs/pretrain/encoder/model/model.safetensors").stat().st_mtime_ns == before


def test_the_same_command_makes_the_same_weights(work):
    words = ("data=runs/collect/data", "encoder=runs/pretrain/encoder", *TINY, "name=again")
    run_process("-m", "commands", "posttrain", *words, cwd=work)
    first, again = (work / f"runs/posttrain/{name}/model/model.safetensors" for name in ("model", "again"))
    assert first.read_bytes() == again.read_bytes()


def posttrain_and_plan(work: Path, name: str, dynamics: str, view: str, *encoder: str) -> None:
    """Stage 2 and one episode, two model steps ahead."""
    jepa(
        "posttrain",
        "data=runs/collect/data",
        *encoder,
        f"dynamics={dynamics}",
        "dynamics.horizon=2",
        "dynamics.losses.rollout_steps=2",
        "dynamics.reach.dim=4",
        "dynamics.reach.steps=3",
        *TINY,
        f"name={name}",
        cwd=work,
    )
    jepa(
        "plan",
        f"model=runs/posttrain/{name}",
        "data=runs/collect/data",
        "protocol.episodes=1",
        "protocol.budget=3",
        "protocol.oracle=false",
        "protocol.oracle_cost.episodes=0",
        "planner.horizon=2",
        f"planner.cost.view={view}",
        f"videos={int(view == 'pixels')}",
        *SEARCH,
        f"name={name}-{view}",
        cwd=work,
    )
    assert (work / f"runs/plan/{name}-{view}/results.json").exists()
    assert (work / f"runs/plan/{name}-{view}/imagined.png").exists() == (view == "pixels")


@pytest.mark.parametrize(
    ("objective", "dynamics", "view"),
    [
        ("vjepa2", "tokens", "tokens"),
        ("future", "scene", "pooled"),
        ("pixels", "pixels", "pixels"),
        ("pixels", "pixels", "pooled"),
        ("vjepa21", "tokens", "tokens"),
        ("vjepa", "tokens", "reach"),
        ("ijepa", "tokens", "tokens"),
        ("data2vec", "tokens", "tokens"),
        ("videomae", "tokens", "tokens"),
        ("nepa", "tokens", "tokens"),
    ],
)
def test_every_arm_goes_through_the_same_commands(work, objective, dynamics, view):
    name = f"{objective}-{dynamics}"
    words = ("pretrain", "data=runs/collect/data", "encoder=tiny", f"objective={objective}", *TINY, f"name={name}")
    levels = ("objective.targets.levels=2",) if objective == "vjepa21" else ()  # the tiny encoder has two blocks
    jepa(*words, *levels, cwd=work)
    posttrain_and_plan(work, name, dynamics, view, f"encoder=runs/pretrain/{name}")


def test_dynamics_see_the_keypoints_of_an_encoder_that_has_them(work):
    words = ("data=runs/collect/data", "encoder=tiny", "encoder.pool.kind=keypoints", "objective=future", *TINY)
    jepa("pretrain", *words, "name=keypoints", cwd=work)
    posttrain_and_plan(work, "keypoints", "scene", "pooled", "encoder=runs/pretrain/keypoints")
    seen, _ = load_dynamics(work / "runs/posttrain/keypoints", torch.device("cpu"))
    assert seen.predictor.scene_tokens == 1 and seen.features.scene_scale.max() < 0.5  # those of the data


@pytest.mark.parametrize("objective", ["lewm", "pldm"])
def test_an_end_to_end_model_plans_by_itself_and_its_encoder_posttrains(work, objective):
    words = ("data=runs/collect/data", "encoder=tiny", f"objective={objective}", *TINY, f"name={objective}")
    jepa("pretrain", *words, cwd=work)
    plan = ("protocol.episodes=1", "protocol.budget=3", "protocol.oracle=false", "protocol.oracle_cost.episodes=0")
    found = (f"model=runs/pretrain/{objective}", "data=runs/collect/data", "videos=0", f"name={objective}")
    jepa("plan", *found, *plan, *SEARCH, cwd=work)
    assert (work / f"runs/plan/{objective}/results.json").exists()
    posttrain_and_plan(work, f"{objective}-frozen", "pooled", "pooled", f"encoder=runs/pretrain/{objective}")


def test_a_cooldown_goes_on_from_another_run_with_other_clips_and_the_same_sizes(work):
    words = ("pretrain", "data=runs/collect/data", "encoder=tiny", "objective=vjepa2", *TINY)
    jepa(*words, "name=primary", cwd=work)
    cooldown = ("objective.frames=12", "trainer.schedule=linear", "trainer.warmup=0", "name=cooldown")
    jepa(*words, *cooldown, "start=runs/pretrain/primary", cwd=work)
    lines = [json.loads(line) for line in (work / "runs/pretrain/cooldown/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5]
    wider = jepa(*words, "encoder.width=48", "start=runs/pretrain/primary", "name=wider", cwd=work, code=1)
    assert "does not fit this model: " in wider.stderr


def test_a_timm_encoder_posttrains_and_plans(work):
    words = ("encoder=timm", "timm.model=test_vit", "timm.weights=random", "timm.image_px=96")
    posttrain_and_plan(work, "timm", "tokens", "tokens", *words)


def test_weights_made_elsewhere_posttrain_and_plan(work):
    from world_model.encoder import EncoderConfig, VideoEncoder
    from world_model.interop.export import export_official

    sizes = EncoderConfig((32, 32), 8, 2, 48, 2, 3, pool=None, rope="tiled")
    export_official(work / "official.pt", VideoEncoder(sizes), None)
    words = ("encoder=pretrained", "path=official.pt", "pretrained.image_px=32", "pretrained.heads=3")
    posttrain_and_plan(work, "elsewhere", "tokens", "tokens", *words)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("plan", "model=runs/posttrain/nothing", "data=runs/collect/data"), 2, "there is no folder"),
        (("plan", "model=runs/posttrain/model", "data=nothing.h5"), 1, "nothing.h5"),
        (("plan", "model=runs/pretrain/encoder", "data=runs/collect/data"), 1, "'dynamics' model is needed"),
        (("plan", *PLANNED, "planner.horizon=9"), 1, "horizon"),
        (("plan", *PLANNED, "planner.cost.view=tokens"), 1, "pooled"),
        (("plan", "model=runs/posttrain/model", "data=runs/collect/data", "protocol.goal_offset=40"), 2, "goal_offset"),
        (("pretrain", "data=runs/collect/data", "objective=futur"), 2, "future"),
        (("pretrain", "data=runs/collect/data", "encoder=tiny", "objective=vjepa21"), 2, "objective.targets.levels=4"),
        (("posttrain", "data=runs/collect/data", "encoder=pretrained"), 2, "path="),
        (("posttrain", "data=runs/collect/data", "encoder=pretrained", "path=no.pt"), 1, "there is no file no.pt"),
        (("posttrain", "data=runs/collect/data", "encoder=timm", "timm.model=resnet18"), 1, "no vision transformer"),
        (("pretrain", "data=runs/collect/data", "start=runs/none"), 2, "give a run folder of jepa pretrain"),
        (("doctor", "golden=nothing"), 1, "no golden vectors"),
        (("collect", "env=reachr"), 2, "reacher"),
        (("pretrain", "data=runs/collect/data", "device=cuda", "encoder=tiny"), 1, "CUDA"),
        (("pretrain", "data=runs/collect/data", "encoder=tiny", "trainer=debug", "seed=2", "name=encoder"), 1, "seed"),
    ],
)
def test_a_mistake_is_one_sentence_and_the_right_exit_code(work, words, code, says):
    if "device=cuda" in words:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
    done = jepa(*words, "runs=runs", cwd=work, code=code)
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/quick_start.md"])
def test_the_python_of_a_page_drives_an_environment_with_a_model(work, monkeypatch, page):
    (code,) = re.findall(r"^```python\n(.*?)^```", (HOME / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (folder,) = re.findall(r'Agent\("(runs/[^"]*)"', code)
    monkeypatch.chdir(work)
    shutil.copytree("runs/posttrain/model", folder, dirs_exist_ok=True)  # both pages may name it
    scope: dict = {}
    exec(compile(code, page, "exec"), scope)
    scope["env"].close()
    assert scope["action"].shape == (2,) and scope["action"].dtype == np.float32
    assert (np.abs(scope["action"]) <= 1).all()


def test_data_of_another_picture_size_train_both_stages_plan_and_probe(work):
    jepa("collect", "data.episodes=6", "data.frames=30", "env.kwargs={size: 96}", "name=large", cwd=work)
    large = "data=runs/collect/large"
    done = jepa("pretrain", large, "encoder=tiny", *TINY, "name=large", cwd=work)
    says = "frames of 96x96 pixels are resized to the encoder's 64x64 (crop: centre, bilinear)"
    assert says in done.stdout
    assert says in jepa("posttrain", large, "encoder=runs/pretrain/large", *TINY, "name=large", cwd=work).stdout
    for stage in ("pretrain", "posttrain"):
        config = json.loads((work / f"runs/{stage}/large/model/model.json").read_text())["config"]
        assert config["about"]["preprocessing"]["stored_hw"] == [96, 96]
    quick = ("protocol.episodes=1", "protocol.budget=3", "protocol.oracle_cost.episodes=1", "videos=1", *SEARCH)
    jepa("plan", "model=runs/posttrain/large", large, *quick, "name=large", cwd=work)
    jepa("plan", "model=runs/posttrain/model", large, *quick, "name=larger", cwd=work)  # trained on 64x64
    probe = ("windows=40", "readout.kinds=[ridge]", "landscape.cells=3", "episodes=2", "name=large")
    jepa("probe", "model=runs/posttrain/large", large, *probe, cwd=work)


def test_a_goal_picture_of_any_size_is_brought_to_the_model_s(work):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    photo = np.random.default_rng(0).integers(0, 256, (480, 640, 4), dtype=np.uint8)
    Image.fromarray(photo).save(work / "phone.png", exif=exif)
    words = ("plan", *PLANNED[:2], *SEARCH, "videos=0", "protocol.budget=2", "goal=phone.png", "name=phone")
    done = jepa(*words, cwd=work)
    assert "towards phone.png from 30 starts" in done.stdout  # the frames of one held-out episode, of 50 asked for
    assert "phone.png has alpha: it is laid on white" in done.stderr
    assert "frames of 640x480 pixels are resized to the encoder's 64x64" in done.stdout


def test_probe_reports_features_and_dynamics(work):
    words = (
        "data=runs/collect/data",
        "windows=40",
        "readout.steps=3",
        "readout.depth=2",
        "landscape.cells=5",
        "episodes=2",
        "rank_reach.moments=4",
        "rank_reach.candidates=8",
        "rank_reach.steps=[4,99]",
        "rank_reach.simulator_moments=2",
    )
    done = jepa("probe", "model=runs/posttrain/model", *words, "name=model", cwd=work)
    results = json.loads((work / "runs/probe/model/results.json").read_text())
    assert {"tokens, ridge", "tokens, linear", "tokens, attentive", "untrained tokens, ridge"} <= set(results["probes"])
    assert set(results["probes"]["tokens, ridge"]["r2"]) == {"pose", "velocity"}
    assert results["open_loop"]["copy"][0] > 0 and results["landscape"]["transitions"] > 0
    assert "jump" in results["surprise"]["discrimination"] and results["surprise"]["shuffled_over_true"] > 0
    reach = results["rank_reach"]
    assert (reach["steps"], reach["left_out"]) == ([4], [100])
    assert all(0 < row["moments"][0] <= 4 and -1 <= row["mean"][0] <= 1 for row in reach["curves"])
    assert {(row["dynamics"], row["candidates"]) for row in reach["curves"] if row["view"] == "pooled"} == {
        (dynamics, candidates) for dynamics in ("model", "simulator") for candidates in ("random", "middle", "elite")
    }
    assert reach["verdicts"][0]["sentence"] in done.stdout
    for figure in ("landscape", "rank_reach"):
        assert (work / f"runs/probe/model/{figure}.png").stat().st_size > 5000
    jepa("probe", "model=runs/pretrain/encoder", *words, "readout.kinds=[ridge]", "name=encoder", cwd=work)
    assert "surprise" not in json.loads((work / "runs/probe/encoder/results.json").read_text())


def test_compare_fills_a_table_and_does_no_cell_twice(work):
    small = (
        "trainer@pretrain=debug",
        "trainer@posttrain=debug",
        "pretrain.steps=2",
        "posttrain.steps=2",
        "encoder=tiny",
    )
    data = ("data=debug", "data.frames=30", "data.episodes=12", "protocol.episodes=1", "protocol.budget=3", *SEARCH)
    words = ("compare", *small, *data, "cells=cells", "name=table")
    done = jepa(*words, "objectives=[future]", "budgets=[steps]", cwd=work)
    assert "plan/report.html" not in done.stdout, "files that are removed are not drawn"
    cells = list((work / "cells").glob("*.json"))
    assert len(cells) == 1
    reach = json.loads(cells[0].read_text())["rank_reach"]
    assert (reach["view"], reach["candidates"], reach["steps"]) == ("pooled", "random", [2, 6, 10, 20])
    before = cells[0].read_bytes()
    table = work / "runs/compare/table"
    assert not list(table.rglob("model.json"))
    lewm = ["objectives=[oracle,future,untrained,lewm]", "budgets=[steps,flops]", "keep_models=true"]
    jepa(*words, *lewm, cwd=work)
    kept = sorted(path.parent.parent for path in table.glob("*/posttrain/model/model.json"))
    assert [path.parent.name.split("-")[1] for path in kept] == ["lewm", "lewm", "untrained"]
    assert all((path.parent / "plan/report.html").exists() for path in kept)
    names = {path.name.rsplit("-", 1)[0] for path in (work / "cells").glob("*.json")}
    assert names == {
        "reacher-future-steps-seed0",
        "reacher-untrained-both-seed0",
        "reacher-oracle-both-seed0",
        "reacher-lewm-steps-seed0",
        "reacher-lewm-flops-seed0",
    }
    assert cells[0].read_bytes() == before
    page = (work / "cells/reacher.md").read_text()
    tables = [part.partition("\n### ")[0] for part in page.split("\n## ")[1:] if part.startswith("Equal")]
    assert len(tables) == 2 and "](reacher_success.png)" in page and (table / "report.html").exists()
    assert all(f"| `{name}` |" in table for name in ("future", "lewm", "untrained", "oracle") for table in tables)
    lewm = {b: json.loads(next((work / "cells").glob(f"*lewm-{b}*")).read_text()) for b in ("steps", "flops")}
    future = json.loads(cells[0].read_text())
    assert lewm["steps"]["steps"] == future["steps"] == 2 and "plan_own" in lewm["steps"]
    assert future["flops"]["total"] == sum(future["flops"][key] for key in ("pretrain", "metric", "posttrain"))
    outcomes = lewm["steps"]["outcomes"]
    assert outcomes["goals"] == future["outcomes"]["goals"] and outcomes["random"] == future["outcomes"]["random"]
    assert all(len(outcomes[part]["final_distance"]) == 1 for part in ("plan", "plan_own", "random"))
    assert future["flops"]["posttrain"] == lewm["steps"]["flops"]["posttrain"] > 0
    with (work / "cells/reacher_episodes.csv").open() as lines:
        episodes = list(csv.DictReader(lines))
    assert {line["row"] for line in episodes} >= {"future", "lewm", "lewm, its own dynamics", "oracle", "random"}
    assert lewm["flops"]["steps"] == max(1, round(2 * future["flops_per_step"] / lewm["flops"]["flops_per_step"]))


def test_compare_varies_the_metric_and_tunes_every_row_with_as_many_trials(work):
    small = ("trainer@pretrain=debug", "trainer@posttrain=debug", "pretrain.steps=2", "posttrain.steps=2")
    data = ("data=debug", "data.frames=30", "data.episodes=12", "protocol.episodes=1", "protocol.budget=3", *SEARCH)
    words = ("compare", *small, *data, "encoder=tiny", "budgets=[steps]", "cells=tuned", "name=tuned", "published=null")
    rows = ("objectives=[lewm]", "vary.metric=[none,biharmonic]", "trials=2", "trial_episodes=1")
    jepa(*words, *rows, cwd=work)
    records = [json.loads(path.read_text()) for path in (work / "tuned").glob("*.json")]
    found = {record["variant"]["metric"]: record for record in records}
    assert found.keys() == {"none", "biharmonic"}
    for kind, record in found.items():
        tuning = record["tuning"]
        assert tuning["split"] == "val" and len(tuning["results"]) == 2 and tuning["results"][0]["setting"] == {}
        assert ("plan_own" in record) == (kind == "none")
        assert (record["config"]["objective"]["metric"] is None) == (kind == "none")
        assert all(("stage1_of" in trial) == (kind == "biharmonic") for trial in tuning["results"])
    settings = [[trial["setting"] for trial in record["tuning"]["results"]] for record in found.values()]
    assert settings[0] == settings[1]
    page = (work / "tuned/reacher.md").read_text()
    assert all(f"| `lewm metric={kind}` | 0 |" in page for kind in found)
    assert not list((work / "runs/compare/tuned").glob("stage1*"))
    again = jepa(*words, *rows, "seeds=2", cwd=work)
    assert "4 cells, 2 of them finished before" in again.stdout and "trial 1 of" not in again.stdout
    assert len(list((work / "tuned").glob("*-seed1-*.json"))) == 2


def test_policies_and_segments_start_a_search_and_act_without_one(work):
    given = ("model=runs/posttrain/model", "data=runs/collect/data")
    assert "pairs of a frame and a later one" in jepa("clone", *given, *TINY, "name=inverse", cwd=work).stdout
    pixels = ("source=pixels", "policy.steps_left=false", "trainer.batch_size=2")
    jepa("clone", *given, *TINY, *pixels, "name=pixels", cwd=work)
    valued = jepa("clone", *given, *TINY, "method=gcivl", "trainer.batch_size=8", "name=gcivl", cwd=work).stdout
    assert "transitions of a model step" in valued and "rank correlation of values" in valued
    quick = ("protocol.episodes=2", "protocol.budget=4", "protocol.oracle=false", "protocol.oracle_cost.episodes=0")
    plan = ("plan", *given, *quick, "videos=1")
    sources = "planner.proposal.source=retrieval,runs/clone/inverse,runs/clone/pixels,runs/clone/gcivl"
    for planner in (("planner=direct",), ("planner=icem", *SEARCH, "planner.proposal.count=2")):
        done = jepa(*plan, *planner, sources, "--multirun", cwd=work)
        assert "success against operations: runs/plan/searches-" in done.stdout
    results = [json.loads(path.read_text()) for path in (work / "runs/plan").glob("*icem*/results.json")]
    found = {result["planner"]["proposal"]["source"]: result for result in results}
    assert {"retrieval", "runs/clone/inverse", "runs/clone/pixels", "runs/clone/gcivl"} <= set(found)
    direct = [json.loads(path.read_text()) for path in (work / "runs/plan").glob("direct*/results.json")]
    assert len(direct) == 4 and all(result["oracle_planner"] == "cem" for result in direct)
    assert max(result["plan"]["flops"] for result in direct) < min(found[s]["plan"]["flops"] for s in found)
    value = ("planner=icem", *SEARCH, "planner.value=runs/clone/gcivl", "name=value")
    jepa(*plan, *value, cwd=work)
    planned = json.loads((work / "runs/plan/value/results.json").read_text())["planner"]
    assert planned["value"] == "runs/clone/gcivl" and planned["cost"]["distance"] is None


def test_a_model_that_knows_the_robots_state_plans_and_says_so(work):
    jepa(
        "posttrain",
        "data=runs/collect/data",
        "encoder=runs/pretrain/encoder",
        "dynamics.proprio_model=predicted",
        *TINY,
        "name=with_state",
        cwd=work,
    )
    words = ("data=runs/collect/data", "model=runs/posttrain/with_state", "protocol.episodes=1", "protocol.budget=4")
    jepa(
        "plan",
        *words,
        "protocol.oracle=false",
        "protocol.oracle_cost.episodes=0",
        "videos=0",
        *SEARCH,
        "name=with_state",
        cwd=work,
    )
    results = json.loads((work / "runs/plan/with_state/results.json").read_text())
    assert results["proprio"] == "predicted"
    assert "robot state known" in json.loads((work / "runs/plan/with_state/finished.json").read_text())["summary"]
