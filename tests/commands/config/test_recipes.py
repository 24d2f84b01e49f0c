"""Published runs: their files resolve, name their sources, build the published sizes, and take a step. Tasks: what was
chosen for each is the same in `jepa demo` and `jepa compare`, and finds the finished cells again."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from commands import compare
from commands.cli.help import format_command_help, read_title
from commands.cli.main import COMMANDS, main
from commands.comparison.cells import Cell, is_current, make_cells, make_tuning
from commands.comparison.table_keys import list_rows, make_cell_keys
from commands.comparison.trials import TRIALS, find_trials
from commands.config.compose import (
    CONFIGS,
    Composed,
    compose,
    compose_defaults,
    compose_help,
    get_config_class,
    list_choices,
    load_config,
)
from commands.config.run_names import compose_reference, make_run_name
from commands.config.schema import has_key, override
from commands.shared.runs import flatten, read_json
from commands.tables.rows import ORACLE
from world_model.actions import ActionSpec
from world_model.dynamics import LatentDynamics
from world_model.encoder import VideoEncoder
from world_model.objectives.masked import Masked
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.loop import TrainerConfig, learning_rate, make_optimizer, train_step, weight_decay
from world_model.training.posttrain import PosttrainModel

FOLDER = Path(compare.__file__).resolve().parent.parent / CONFIGS / "recipe"
TASKS = ("point_maze", "push_t", "reacher", "two_rooms")
FAIR = tuple(sorted(name for name in list_choices("recipe") if name.startswith("fair_")))
OWN = (*TASKS, "common", "varied", "varied_push_t", "vjepa2", *FAIR)
SMALL = "vjepa2ac_small"
PUBLISHED = [name for name in list_choices("recipe") if name not in ("none", SMALL, *OWN)]
PRETRAIN = [name for name in PUBLISHED if "2ac" not in name]
# Parameters in millions of encoder and predictor, of the reference's own modules (whose predictor has eight more mask
# tokens); None: not published.
PARAMETERS = {
    "vjepa2_vitl": (303.9, 22.1),
    "vjepa2_vith": (631.6, None),
    "vjepa2_vitg": (1012.2, None),
    "vjepa21_vitgigantic": (1840, None),
    "vjepa_vitl": (303.9, 22.1),
    "ijepa_vith": (630.8, None),
}
ONE_STAGE_RECIPE = "dreamerv3_12m"  # of a world model


@cache
def recipe(name: str, *words: str) -> Composed:
    """The resolved configuration of a recipe, as a user asks for it."""
    command = "posttrain" if "2ac" in name else "pretrain"
    start = ["start=runs/pretrain/x"] if "cooldown" in name else []
    return compose(command, ["data=runs/collect/x", f"recipe={name}", *start, *words])


def millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_line_of_a_recipe_names_its_source(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    values = [line for line in lines if not re.fullmatch(r"\s*[a-z_]+:|.*,", line)]  # not those that go on below
    bare = [line for line in values if not re.search(r"# .*(paper|YAML|code)", line)]
    assert not bare and "\n# Sources: " in text
    assert yaml.safe_load(text)["defaults"]


def test_recipes_are_offered_to_the_command_they_are_for_alone(capsys):
    assert set(compose_help("pretrain", [])[1]["recipe"]) == {"none", *PRETRAIN}
    assert set(compose_help("posttrain", [])[1]["recipe"]) == {"none", SMALL, "vjepa2ac_vitg"}
    for command in ("demo", "compare"):
        assert set(compose_help(command, [])[1]["recipe"]) == {"none", *OWN}
    page = format_command_help(COMMANDS["pretrain"], ["recipe=vjepa2_vitg"])
    assert "* vjepa2_vitg  " in page and read_title("recipe/vjepa2_vitg") in page
    assert re.search(r"trainer\.lr=.* \[.*paper.*\]", page), "what a key means, and where the recipe has it from"
    assert main(["pretrain", "data=x.h5", "recipe=vjepa2_vitk"]) == 2
    assert "did you mean vjepa2_vit" in capsys.readouterr().err
    assert main(["posttrain", "data=x.h5", "encoder=e", "recipe=vjepa2_vitg"]) == 2
    assert "choices: none, vjepa2ac_small, vjepa2ac_vitg" in capsys.readouterr().err


def test_a_run_is_named_by_its_recipe_and_by_what_differs_from_it():
    name = make_run_name(recipe("vjepa2_vitl"), compose_defaults("pretrain"))
    assert re.fullmatch(r"vjepa2_vitl-[0-9a-f]{8}", name), name
    other = make_run_name(recipe("vjepa2_vitl", "encoder=vit_small", "seed=3"), compose_defaults("pretrain"))
    assert re.fullmatch(r"vit_small-vjepa2_vitl-seed3-[0-9a-f]{8}", other), other
    assert compose_reference(compose("pretrain", ["data=x.h5"]), compose_defaults("pretrain")) is compose_defaults(
        "pretrain"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TASKS, "varied_push_t"])
def test_a_tasks_recipe_is_the_same_for_demo_and_compare(name):
    demo, table = (load_config(command, [f"recipe={name}"]) for command in ("demo", "compare"))
    compare.check(table)
    cell = make_cell_keys(table, "future", 0)
    assert cell.env.name == name.removeprefix("varied_") and cell.planner.name == "icem"
    for key in ("env", "data", "encoder", "objective", "pretrain", "dynamics", "posttrain", "planner"):
        assert getattr(cell, key) == getattr(demo, key), key


@pytest.mark.parametrize("name", [*TASKS, "varied"])
def test_pldms_own_dynamics_see_a_velocity(name):
    """Every task here has inertia, and a single frame shows no velocity."""
    cell = make_cell_keys(load_config("compare", [f"recipe={name}"]), "pldm", 0)
    assert cell.objective.context_frames == 2 and cell.objective.horizon >= cell.planner.horizon


@pytest.mark.parametrize("name", FAIR)
def test_the_tables_on_fresh_seeds_tune_every_method_alike(name):
    table = load_config("compare", [f"recipe={name}"])
    compare.check(table)
    assert [*range(table.seed, table.seed + table.seeds)] == [40, 41, 42] and len(table.vary["metric"]) == 2
    for row in list_rows(table)[0]:
        tuning = make_tuning(table, row, table.seed)
        assert (tuning is None) == (row.objective == ORACLE)
        assert tuning is None or len(tuning.drawn) == table.trials >= 4
    for method in ("lewm", "pldm"):
        terms = make_cell_keys(table, method, table.seed).objective.terms
        assert terms.centred == name.startswith("fair_varied"), "on plain scenes the first setting is the published one"


def test_every_key_of_a_tasks_recipe_is_one_of_demo_or_compare():
    for file in ("_task", "_varied", "_fair", "_fair_varied", *OWN):
        said = yaml.safe_load((FOLDER / f"{file}.yaml").read_text())
        said.pop("defaults", None)
        keys = {key for key in flatten(said) if not key.startswith(("env.kwargs", "small", "choices", "refuses"))}
        for key in keys:
            assert any(has_key(get_config_class(command), key, {}) for command in ("demo", "compare")), key


def test_the_recipe_for_varied_scenes_chooses_the_objective_of_demo_unless_another_is_named():
    varied, views = (load_config("demo", [word]) for word in ("recipe=varied", "objective=views"))
    assert varied.objective == views.objective != load_config("demo").objective
    assert compose("demo", ["recipe=varied"]).choices["objective"] == "views"
    named = compose("demo", ["recipe=varied", "objective=future"])
    assert named.keys.objective == load_config("demo").objective and named.choices["objective"] == "future"
    assert named.keys.encoder == varied.encoder  # the rest of the recipe stays
    tuned = load_config("demo", ["recipe=varied", "objective.views.mix=0.4"])
    assert tuned.objective == override(views.objective, {"views": {"mix": 0.4}})


@pytest.mark.parametrize("task", TASKS)
def test_the_common_setting_is_that_of_varied_scenes_on_a_plain_scene_of_any_task(task):
    plain, varied = (load_config("demo", [f"recipe={name}", f"env={task}"]) for name in ("common", "varied"))
    assert plain.env.variation == "none" and varied.env.variation == "seen"
    for key in ("data", "encoder", "objective", "pretrain", "dynamics", "posttrain", "planner"):
        assert getattr(plain, key) == getattr(varied, key), key


@pytest.mark.parametrize(("name", "row"), [("varied", "views"), ("vjepa2", "vjepa2")])
def test_the_recipes_own_row_of_the_table_is_the_demo(name, row):
    demo, table = (load_config(command, [f"recipe={name}"]) for command in ("demo", "compare"))
    cell = make_cell_keys(table, row, 0)
    for key in ("env", "data", "encoder", "objective", "pretrain", "dynamics", "posttrain", "planner"):
        assert getattr(cell, key) == getattr(demo, key), key
    assert "objective" not in compose("compare", [f"recipe={name}"]).choices


def test_the_recipe_of_vjepa2_plans_in_tokens_by_l1():
    demo = load_config("demo", ["recipe=vjepa2"])
    assert (demo.planner.cost.view, demo.planner.cost.metric, demo.dynamics.outputs) == ("tokens", "l1", "change")
    assert demo.objective.metric is None
    published = load_config("demo", ["recipe=vjepa2", "planner=cem_vjepa2"]).planner
    assert (published.samples, published.iterations, published.elites, published.horizon) == (800, 10, 10, 1)


@pytest.mark.parametrize("command", ["demo", "compare"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env.variation=none"], "env.variation=none contradicts recipe=varied: leave out env.variation=none, or give"),
        (["env=gym"], "an environment of Gymnasium's has no factors of variation; choose another task, as env=reacher"),
        (["env.factors=[colr]"], "'colr' is no factor of this task; did you mean colour?"),
        (["env.variation=sen"], "env.variation=sen is no choice; did you mean seen?"),
    ],
)
def test_what_contradicts_the_recipe_for_varied_scenes_is_one_sentence(
    command, words, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([command, "recipe=varied", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "words"),
    [
        *((task, [f"recipe={task}"]) for task in TASKS if task != "push_t"),
        ("push_t", ["recipe=push_t", "pretrain.precision=bf16"]),
        *((task, ["recipe=varied", f"env={task}", "pretrain.precision=bf16"]) for task in ("reacher", "two_rooms")),
        ("push_t", ["recipe=varied_push_t", "pretrain.precision=bf16"]),
    ],
)
def test_finished_cells_are_those_of_the_recipe(task, words):
    table = load_config("compare", words)
    folder = FOLDER.parents[1] / table.published
    finished = {path for path in folder.glob(f"{task}-*.json") if is_current(read_json(path)["config"])}
    assert finished == find_records(table, folder)
    # With the metric as an axis, methods that learn dynamics are those of `none`, the others those of the table's kind.
    varied = load_config("compare", [*words, f"vary.metric=[none,{table.metric}]"])
    assert finished == find_records(varied, folder)


def find_records(table, folder: Path) -> set[Path]:
    """The records of all rows at equal steps."""
    cells = [
        Cell(row.objective, "steps", seed, make_cell_keys(table, row.objective, seed, row.variant))
        for row in list_rows(table)[0]
        for seed in range(table.seeds)
    ]
    return {record for cell in cells if (record := cell.find_record(folder)) is not None}


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["vary.metric=[none,biharmonic]"]])
def test_finished_cells_of_the_family_of_objectives_are_found(words):
    folder = FOLDER.parents[1] / "docs/objectives"
    at_steps = {path for path in folder.glob("*.json") if path.name.split("-")[2] != "flops"}
    assert {path for path in at_steps if is_current(read_json(path)["config"])} == find_records(
        load_config("compare", words), folder
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.parents[1].glob("docs/fair*/**/*.json")), ids=lambda path: path.stem)
def test_a_finished_cell_on_a_fresh_seed_is_one_of_a_fair_recipe(path):
    record = read_json(path)
    task, varied = record["config"]["env"]["name"], "varied_" * (record["config"]["env"]["variation"] != "none")
    recipe = f"recipe=fair_{varied}{task}"
    seeds = record["seed"] - load_config("compare", [recipe]).seed + 1
    words = [recipe, f"seeds={seeds}", f"objectives=[{path.stem.split('-')[1]}]"]
    trials = record.get("tuning", {}).get("trials")
    cells = make_cells(load_config("compare", [*words, *([f"trials={trials}"] if trials else [])]))
    assert load_config("compare", words).published == "/".join(path.relative_to(FOLDER.parents[1]).parts[:2])
    if path.parent.name == TRIALS:
        assert path in [find_trials(path.parents[1], cell).path for cell in cells if cell.tuning is not None]
    else:
        assert path in [cell.find_record(path.parent) for cell in cells]


def test_words_win_over_a_recipe():
    config = recipe("vjepa2_vitl", "encoder=vit_small", "seed=3", "trainer.lr=1e-3").config
    assert config["encoder"]["width"] == 384 and config["encoder"]["image_px"] == [256, 256]
    assert config["trainer"]["lr"] == 1e-3 and config["trainer"]["steps"] == 240_000


def test_a_cooldown_asks_for_the_run_it_goes_on_from(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "data=x.h5", "recipe=vjepa2_vitl_cooldown"]) == 2
    assert "give start=runs/pretrain/NAME" in capsys.readouterr().err
    assert main(["pretrain", "data=x.h5", "recipe=vjepa2_vitl_cooldown", "start=runs/none"]) == 2
    assert "start=runs/none holds no checkpoints/step-*.safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_builds_the_published_sizes(name):
    config = recipe(name).keys
    sizes, objective = config.adapted_encoder, config.objective
    with torch.device("meta"):
        model = PretrainModel(VideoEncoder(sizes), objective, 1)
    encoder, predictor = PARAMETERS[name]
    assert millions(model.encoder) == pytest.approx(encoder, rel=0.004)
    assert isinstance(model.objective, Masked) and model.objective.predictor.rope == sizes.rope
    assert predictor is None or millions(model.objective.predictor) == pytest.approx(predictor, rel=0.004)


def test_the_action_conditioned_recipe_builds_the_published_predictor():
    shape = recipe("vjepa2ac_vitg").keys.dynamics.shape(7)
    giant = recipe("vjepa2_vitg").keys.adapted_encoder
    with torch.device("meta"):
        made = LatentDynamics(shape, VideoEncoder(giant), ActionSpec((-1.0,) * 7, (1.0,) * 7))
    # The reference's 305.2 M hold a map of the camera's extrinsics (6), which is created there and never used.
    assert millions(made.predictor) == pytest.approx(305.2 - 1.024e-3 - 6 * 1.024e-3, abs=0.05)


def test_the_small_action_conditioned_recipe_has_the_layout_losses_and_schedule_of_the_published_one():
    small, published = recipe(SMALL, "encoder=runs/pretrain/x").keys, recipe("vjepa2ac_vitg").keys
    for key in ("space", "outputs", "inputs", "scene", "pixels"):
        assert getattr(small.dynamics, key) == getattr(published.dynamics, key), key
    assert small.dynamics.predictor.conditioning == published.dynamics.predictor.conditioning == "tokens"
    for key in ("loss", "teacher_forcing", "rollout", "rollout_steps"):
        assert getattr(small.dynamics.losses, key) == getattr(published.dynamics.losses, key), key
    for key in ("schedule", "decay_share", "lr_end", "weight_decay", "betas"):
        assert getattr(small.trainer, key) == getattr(published.trainer, key), key
    for ratio in (lambda keys: keys.lr_start / keys.lr, lambda keys: keys.warmup / keys.steps):
        assert ratio(small.trainer) == pytest.approx(ratio(published.trainer), rel=0.03)


def test_the_recipe_of_leworldmodel_builds_the_published_predictor():
    config = recipe("lewm_vitti").keys
    with torch.device("meta"):
        actions = ActionSpec((-1.0,) * 2, (1.0,) * 2, 5)
        objective = PretrainModel(VideoEncoder(config.adapted_encoder), config.objective, 1, 0, actions).objective
    shapes = {name: tuple(value.shape) for name, value in objective.predictor.predictor_blocks[5].state_dict().items()}
    assert shapes["attn.qkv.weight"] == (3072, 192) and shapes["attn.proj.weight"] == (192, 1024)
    assert shapes["mlp.fc1.weight"] == (2048, 192) and shapes["modulation.weight"] == (1152, 192)
    assert shapes["attn_norm.weight"] == shapes["mlp_norm.weight"] == (192,)
    assert not {"norm1.weight", "norm2.weight", "attn.qkv.bias"} & shapes.keys()
    encoder = {name: tuple(value.shape) for name, value in objective.predictor.action_encoder.state_dict().items()}
    assert encoder["mix.weight"] == (10, 10) and encoder["fc1.weight"] == (768, 10)


def test_masks_cover_the_published_shares_of_a_clip():
    objective = recipe("vjepa2_vitl").keys.objective
    assert [(mask.blocks, mask.area) for mask in objective.masks] == [(8, (0.15, 0.15)), (2, (0.7, 0.7))]
    for mask, visible in zip(objective.masks, (0.34, 0.11), strict=True):
        made = mask.sample(16, (objective.frames // 2, 16, 16), (0,))
        assert made.context_BM.shape[1] / (8 * 256) == pytest.approx(visible, abs=0.12)


def trainer(name: str) -> TrainerConfig:
    return recipe(name).keys.trainer


def test_learning_rates_are_the_published_ones():
    main_phase, cooldown, acting = (trainer(f"vjepa2{name}") for name in ("_vitg", "_vitg_cooldown", "ac_vitg"))
    rates = [learning_rate(main_phase, step) for step in (0, 5_999, 11_999, 12_000, 239_999)]
    assert rates == pytest.approx([1e-4 + 4.25e-4 / 12_000, 3.125e-4, 5.25e-4, 5.25e-4, 5.25e-4])
    rates = [learning_rate(cooldown, step) for step in (0, 6_000, 11_999)]
    assert rates == pytest.approx([5.25e-4, 2.63e-4, 1e-6], rel=0.05)
    assert main_phase.steps + cooldown.steps == 252_000
    rates = [learning_rate(acting, step) for step in (0, 4_499, 4_500, 90_000, 92_250, 94_499)]
    assert rates == pytest.approx([7.5e-5 + 3.5e-4 / 4_500, 4.25e-4, 4.25e-4, 4.25e-4, 2.125e-4, 4.25e-4 / 4_500])
    first = trainer("vjepa_vitl")
    assert learning_rate(first, 89_999) == pytest.approx(1e-6, rel=0.01)
    assert weight_decay(first, 90_000) == pytest.approx(0.4)


# What makes a recipe small enough to take a step here: sizes alone.
TINY_ENCODER = {"width": 32, "depth": 4, "heads": 2, "mlp_ratio": 2.0}
TINY_PREDICTOR = {"width": 32, "depth": 2, "heads": 2}


def tiny(name: str):
    """A recipe with small networks, pictures of 4 x 4 patches and at most four tubelets."""
    config = recipe(name).keys
    side = 4 * config.encoder.patch_px
    levels = [0, 1, 2, 3] if config.encoder.levels else []
    return override(
        config,
        {
            "encoder": {**TINY_ENCODER, "image_px": [side, side], "levels": levels},
            "objective": {"frames": min(config.objective.frames, 8), "predictor": TINY_PREDICTOR},
            "trainer": {"batch_size": 2},
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name in PRETRAIN if not re.search(f"vit(h|gigantic)_|vitg_cool|2_vit[hg]$|{ONE_STAGE_RECIPE}", name)],
)
def test_one_step_of_every_pretraining_recipe_at_a_reduced_size(name):
    config = tiny(name)
    sizes, objective, settings = config.adapted_encoder, config.objective, config.trainer
    torch.manual_seed(0)
    actions = ActionSpec((-1.0,) * 2, (1.0,) * 2, 5) if objective.reads_actions else None
    model = PretrainModel(VideoEncoder(sizes), objective, settings.steps, settings.seed, actions)
    before = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    clips = torch.randint(0, 256, (2, objective.frames, *sizes.image_px, 3), dtype=torch.uint8)
    batch = {"pixels": clips} | ({"action": torch.rand(2, objective.frames - 1, 10)} if actions is not None else {})
    loss, terms = train_step(model, batch, make_optimizer(model, settings), settings, 0)
    assert torch.isfinite(loss) and terms["grad_norm"] > 0
    assert any(not torch.equal(value, before[key]) for key, value in model.encoder.state_dict().items())


def test_the_recipe_of_dreamerv3_has_its_optimiser_and_takes_a_step():
    """Optimiser and schedule of the released configs.yaml: lr 4e-5, agc 0.3, eps 1e-20, warmup 1000, no decay."""
    config = recipe(ONE_STAGE_RECIPE).keys
    settings = config.trainer
    assert [learning_rate(settings, step) for step in (0, 499, 999, 274_999)] == pytest.approx([4e-8, 2e-5, 4e-5, 4e-5])
    assert (config.objective.frames, settings.batch_size, settings.clip_norm, settings.adaptive_clip) == (
        64,
        16,
        0,
        0.3,
    )
    small = override(config.objective, {"frames": 5, "deter": 16, "hidden": 8, "classes": 4, "depth": 2, "units": 4})
    model = small.make_world_model((64, 64), ActionSpec((-1.0,) * 2, (1.0,) * 2, 2))
    optimizer = make_optimizer(model, settings)
    assert all(group["eps"] == 1e-20 and not group["weight_decay"] for group in optimizer.param_groups)
    batch = {"pixels": torch.zeros(2, 5, 64, 64, 3, dtype=torch.uint8), "action": torch.rand(2, 4, 4)}
    loss, terms = train_step(model, batch, optimizer, override(settings, {"precision": "fp32"}), 0)
    assert torch.isfinite(loss) and terms["grad_norm"] > 0
    assert compose("pretrain", ["data=x", "recipe=dreamerv3_12m", "objective=dreamerv3"]).keys.objective.deter == 512


def test_one_step_of_the_action_conditioned_recipe_at_a_reduced_size():
    config = override(recipe("vjepa2ac_vitg").keys, {"dynamics": {"predictor": TINY_PREDICTOR}})
    shape, losses, settings = config.dynamics.shape(7), config.dynamics.losses, config.trainer
    sizes = tiny("vjepa2_vitg").adapted_encoder
    torch.manual_seed(0)
    model = PosttrainModel(LatentDynamics(shape, VideoEncoder(sizes), ActionSpec((-1.0,) * 7, (1.0,) * 7)), losses)
    assert model.window == 16
    batch = {"features": torch.randn(2, 16, 16, 32), "action": torch.rand(2, 15, 7), "proprio": torch.rand(2, 16, 7)}
    loss, terms = train_step(model, batch, make_optimizer(model, settings), settings, 4_499)
    # Both losses count the first prediction from the first frame: the rollout begins there at every step.
    assert torch.isfinite(loss) and set(terms) == {"teacher_forcing", "rollout", "grad_norm"}
    with torch.no_grad():
        path = model.imagine(batch, batch["features"], batch["proprio"], 1)
        again = model.loss(batch, 0)[1]["rollout"], model.loss(batch, 7)[1]["rollout"]
    assert path.shape[1] == 2 and torch.equal(*again)
