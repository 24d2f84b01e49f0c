"""Golden vectors: outputs of the reference modules of V-JEPA 2, LeWorldModel and PLDM, compared with ours.

A file is a safetensors file. Keys that start with `weights.` are a state dict under the reference's names, the others
inputs and outputs; the metadata entry `config` has the sizes as JSON. Vectors of any size are compared on any device,
in fp32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data.checks import check_regular
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.interop.lewm import WindowPredictor
from world_model.interop.lewm_weights import from_released, to_released
from world_model.masked_predictor import MaskedPredictor, MaskedSizes
from world_model.nn import poses
from world_model.nn.layers import ActionMLP, BlockConfig, gather_tokens
from world_model.objectives.end_to_end import PathTerms, StepTerms, compute_path_terms, compute_step_terms
from world_model.objectives.losses import normalise_target, regression, sigreg
from world_model.predictor import ActionPredictor, PredictorConfig
from world_model.probing.attentive import AttentiveProbe, AttentiveProbeConfig
from world_model.training.checkpoint import CheckpointError, check_weights_of, load_weights

WEIGHTS = "weights."
TOLERANCE = 1e-4
BASELINE_TOLERANCE = 1e-5  # of LeWorldModel and PLDM, relative to values above 1

Vectors = dict[str, Tensor]


@dataclass(frozen=True)
class Comparison:
    """One output: its name, the largest absolute difference to the reference's, the reference's largest value, and the
    largest difference that is allowed."""

    name: str
    difference: float
    largest: float
    tolerance: float


def compare_golden(path: Path, device: torch.device) -> list[Comparison]:
    """Every output of a golden file beside ours. Raises CheckpointError for another file."""
    config, weights, vectors = read_golden(path, device)
    kinds = [mark for mark in CHECKS if mark in weights or mark in vectors]
    if not kinds:
        raise CheckpointError(f"{path} holds no golden vectors that are known here (one of {', '.join(CHECKS)})")
    with torch.no_grad():
        outputs = CHECKS[kinds[0]](config, weights, vectors, str(path))

    def compare(name: str, output: Tensor) -> Comparison:
        largest = vectors[name].abs().max().item()
        tolerance = BASELINE_TOLERANCE * max(1.0, largest) if kinds[0] in BASELINES else TOLERANCE
        return Comparison(name, (output - vectors[name]).abs().max().item(), largest, tolerance)

    return [compare(name, output) for name, output in outputs.items()]


def read_golden(path: Path, device: torch.device) -> tuple[dict[str, Any], Vectors, Vectors]:
    """Sizes, weights and vectors of a golden file."""
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "null"))
            tensors = {name: _to_device(file.get_tensor(name), device) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as golden vectors: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no golden vectors: its metadata has no entry 'config'")
    weights = {name.removeprefix(WEIGHTS): value for name, value in tensors.items() if name.startswith(WEIGHTS)}
    return config, weights, {name: value for name, value in tensors.items() if not name.startswith(WEIGHTS)}


def _to_device(value: Tensor, device: torch.device) -> Tensor:
    """On the device; in single precision on devices without double."""
    return value.float().to(device) if device.type == "mps" and value.dtype == torch.float64 else value.to(device)


def _load_model(model: torch.nn.Module, weights: Vectors, source: str, device: torch.device) -> Any:
    """The model with the file's weights, in eval mode on the device of the vectors."""
    statistics = {name: value for name, value in model.state_dict().items() if "pixel_" in name}
    load_weights(model, {**statistics, **weights}, source)
    return model.to(device).eval()


def _run_encoder(config: dict[str, Any], weights: Vectors, vectors: Vectors, source: str) -> Vectors:
    sizes = EncoderConfig(
        image_px=(config["img_size"],) * 2,
        patch_px=config["patch_size"],
        tubelet=config["tubelet_size"],
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        pool=None,
        rope=config["rope"],
    )
    clip = vectors["clip_BCTHW"]
    encoder = _load_model(VideoEncoder(sizes), weights, source, clip.device)
    frame = clip[:, :, :1].repeat(1, 1, sizes.tubelet, 1, 1)
    return {
        "tokens_full_BND": encoder(clip),
        "tokens_context_BMD": encoder(clip, vectors["context_BM"]),
        "tokens_nonsquare_BND": encoder(vectors["clip_nonsquare_BCTHW"]),
        "tokens_single_frame_duplicated_BND": encoder(frame),
    }


def _read_predictor_sizes(config: dict[str, Any]) -> tuple[PredictorConfig, tuple[int, int], int]:
    side = config["img_size"] // config["patch_size"]
    sizes = PredictorConfig(config["predictor_embed_dim"], config["depth"], config["num_heads"], rope=config["rope"])
    return sizes, (side, side), config["num_frames"] // config["tubelet_size"]


def _run_masked_predictor(config: dict[str, Any], weights: Vectors, vectors: Vectors, source: str) -> Vectors:
    sizes, grid, steps = _read_predictor_sizes(config)
    model = MaskedPredictor(MaskedSizes(config["embed_dim"], grid, config["num_mask_tokens"]), sizes)
    context, target, tokens = vectors["context_BM"], vectors["target_BP"], vectors["tokens_context_BMD"]
    model = _load_model(model, weights, source, tokens.device)
    outputs = {
        f"predicted_mask_token_{k}_BPD": model(tokens, context, target, steps, k)[0]
        for k in range(config["num_mask_tokens"])
    }
    teacher = normalise_target(vectors["teacher_tokens_BND"])
    loss = regression(outputs["predicted_mask_token_0_BPD"], gather_tokens(teacher, target), "l1")
    return {**outputs, "l1_loss": loss.unsqueeze(0)}


def _run_action_predictor(config: dict[str, Any], weights: Vectors, vectors: Vectors, source: str) -> Vectors:
    sizes, grid, _ = _read_predictor_sizes(config)
    parts = [vectors[name] for name in ("actions_BTA", "states_BTS", "extrinsics_BTE") if name in vectors]
    inputs, extrinsics_dim = torch.cat(parts, -1), parts[2].shape[-1] if len(parts) == 3 else 0
    model = ActionPredictor(
        config["embed_dim"], grid, config["action_dim"], sizes, "features", config["state_dim"], extrinsics_dim
    )
    if not extrinsics_dim:  # the reference always has this map, and uses it only with extrinsics
        weights = {name: value for name, value in weights.items() if not name.startswith("extrinsics_encoder")}
    model = _load_model(model, weights, source, inputs.device)
    features = vectors["tokens_B_TN_D"].unflatten(1, (-1, model.frame_tokens))
    predicted = model(features, inputs)
    outputs = {
        "predicted_B_TN_D": predicted.flatten(1, 2),
        "predicted_first_frame_only_BND": model(features[:, :1], inputs[:, :1])[:, 0],
    }
    if "rollout2_l1" in vectors:
        # V-JEPA 2-AC's two losses, by the rollout that plans: outputs are layer-normed before they enter a loss or are
        # fed back.
        model.outputs = "normed"
        forced = model(features, inputs)[:, :-1]
        past = model.prefill(features[:, :0], inputs[:, :0])
        path = model.rollout(past, features[:, 0], inputs[:, None, :2])[:, 0]
        outputs["teacher_forcing_l1"] = regression(forced, features[:, 1:], "l1").unsqueeze(0)
        outputs["rollout2_tokens_B_2N_D"] = path.flatten(1, 2)
        outputs["rollout2_l1"] = regression(path, features[:, 1:3], "l1").unsqueeze(0)
    return outputs


def _run_attentive_probe(config: dict[str, Any], weights: Vectors, vectors: Vectors, source: str) -> Vectors:
    sizes = AttentiveProbeConfig(
        config["embed_dim"], config["num_heads"], config["depth"], config["num_classes"], config["mlp_ratio"]
    )
    tokens = vectors["tokens_BND"]
    return {"logits_BK": _load_model(AttentiveProbe(sizes), weights, source, tokens.device)(tokens)}


def _run_poses(config: dict[str, Any], weights: Vectors, vectors: Vectors, source: str) -> Vectors:
    return {
        "deltas_between_T7": poses.subtract_poses(vectors["poses_T7"]),
        "integrated_T7": poses.integrate_actions(vectors["poses_T7"], vectors["actions_T7"]),
    }


def _run_pldm(config: dict[str, Any], weights: Vectors, vectors: Vectors, source: str) -> Vectors:
    """PLDM's terms, without weights."""
    embedded_BTD, predicted_BTD = vectors["z_TBD"].transpose(0, 1), vectors["predicted_TBD"].transpose(0, 1)
    terms = compute_step_terms(embedded_BTD, StepTerms(variance=1.0, covariance=1.0), torch.Generator())
    terms |= compute_path_terms(embedded_BTD, PathTerms(variance=1.0, covariance=1.0, smoothness=1.0))
    return terms | {"prediction": regression(predicted_BTD[:, 1:], embedded_BTD[:, 1:], "l2")}


def _run_lewm(config: dict[str, Any], weights: Vectors, vectors: Vectors, source: str) -> Vectors:
    """LeWorldModel's SIGReg for given directions, its action encoder, and its predictor without positions."""
    width, embedded_BTD = config["width"], vectors["sigreg.z_BTD"]
    names = {name: name.replace("predictor.", "predictor.transformer.") for name in weights}
    weights = {names[name]: value for name, value in weights.items()}
    weights["predictor.pos_embedding"] = torch.zeros(1, config["history"], width, device=embedded_BTD.device)
    block = BlockConfig(
        width,
        config["heads"],
        config["mlp_dim"] / width,
        condition_dim=width,
        head_dim=config["head_dim"],
        inner_norms=True,
    )
    predictor = WindowPredictor(config["history"], block, config["depth"])
    parts = torch.nn.ModuleDict({"predictor": predictor, "action_encoder": ActionMLP(config["action_dim"], width)})
    check_weights_of(to_released(parts.state_dict()), weights, source)
    parts.load_state_dict(from_released(weights, parts.state_dict()))
    parts.to(embedded_BTD.device).eval()
    return {
        "sigreg.statistic": sigreg(embedded_BTD.transpose(0, 1), vectors["sigreg.directions_DP"]),
        "action_encoder.output_BTD": parts["action_encoder"](vectors["action_encoder.actions_BTA"]),
        "predictor.output_BTD": predictor(vectors["predictor.embeddings_BTD"], vectors["predictor.actions_BTD"]),
    }


# A key that only files of that kind have -> its check.
CHECKS: dict[str, Callable[[dict[str, Any], Vectors, Vectors, str], Vectors]] = {
    "patch_embed.proj.weight": _run_encoder,
    "mask_tokens.0": _run_masked_predictor,
    "action_encoder.weight": _run_action_predictor,
    "pooler.query_tokens": _run_attentive_probe,
    "poses_T7": _run_poses,
    "covariance_time": _run_pldm,
    "sigreg.statistic": _run_lewm,
}
BASELINES = ("covariance_time", "sigreg.statistic")
