"""`jepa doctor golden=FOLDER`: our networks on the device at hand beside the outputs of the reference modules."""

from __future__ import annotations

from pathlib import Path

import torch

from commands.shared.console import Console, format_table
from commands.shared.errors import RunError
from world_model.interop.golden import compare_golden


def check_golden(folder: str, device: str, console: Console) -> int:
    """Print the differences of every golden file in the folder, or of the file given; 1 if one exceeds the tolerance.

    Raises RunError where there is no file, and CheckpointError for one that cannot be read.
    """
    path = Path(folder)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise RunError(f"golden={folder}: there are no golden vectors (*.safetensors)")
    rows, wrong = [], []
    for path in files:
        for found in compare_golden(path, torch.device(device)):
            fits = found.difference <= found.tolerance  # false for NaN, too
            numbers = [f"{found.difference:.1e}", f"{found.tolerance:.1e}", f"{found.largest:.3g}"]
            rows.append([path.stem, found.name, *numbers, "" if fits else "too far"])
            if not fits:
                wrong.append(f"{path.stem}/{found.name}")
    console.say(format_table(rows, ["file", "output", "largest difference", "allowed", "largest value", ""]))
    if wrong:
        console.warn(f"jepa doctor: further from the reference than allowed on {device}: {', '.join(wrong)}")
        return 1
    console.say(f"\n{len(rows)} outputs of {len(files)} files as close as allowed on {device}, fp32")
    return 0
