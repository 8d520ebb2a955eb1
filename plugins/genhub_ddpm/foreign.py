"""Read the Configs of DDPMs that plain diffusers saved, and make a folder one that it can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genhub import CheckpointError, Image, ModelData, NetworkConfig, read_json
from genhub_ddpm.config import UNET, DDPMConfig, ScheduleConfig


def write_index(path: Path, scheduler: type) -> None:
    """Make a folder with a `unet` and a `scheduler` of this class a `DDPMPipeline`'s. diffusers' own class would write the
    same, but importing it brings all its pipelines and transformers: as much of a short run's time as torch."""
    import diffusers

    parts = {"scheduler": ["diffusers", scheduler.__name__], "unet": ["diffusers", "UNet2DModel"]}
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": diffusers.__version__, **parts}
    (path / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def config_of(path: Path) -> DDPMConfig:
    """Return the Config of a `DDPMPipeline`, `DDIMPipeline` or `UNet2DModel` folder.

    Raises:
        CheckpointError: a network or noise schedule that a DDPM can't use.
    """
    if (path / "model_index.json").is_file():
        network = read_json(path / "model_index.json").get("unet")
        if network != ["diffusers", "UNet2DModel"]:
            raise CheckpointError(f"{path}: its unet is {network!r:.100}; a genhub DDPM reads diffusers' UNet2DModel")
    unet_folder = path / "unet" if (path / "unet").is_dir() else path
    unet, shape = _unet_of(read_json(unet_folder / "config.json"))
    schedules = [folder / "scheduler_config.json" for folder in (path / "scheduler", path)]
    saved: dict[str, Any] = next((read_json(file) for file in schedules if file.is_file()), {})
    if saved.get("trained_betas") or saved.get("rescale_betas_zero_snr"):
        raise CheckpointError(f"{path}: its noise schedule has betas of its own, which a genhub DDPM does not take")
    # diffusers' own defaults stand where its file says nothing
    schedule = {"beta_schedule": "linear", "prediction_type": "epsilon"} | {
        key: value for key, value in saved.items() if key in ScheduleConfig.model_fields and key != "timestep_spacing"
    }
    data = ModelData(target=Image(shape=shape))
    return DDPMConfig(name="ddpm", data=data, network=unet, scheduler=ScheduleConfig(**schedule))


def _unet_of(saved: dict[str, Any]) -> tuple[NetworkConfig, tuple[int, int, int]]:
    """Return the Config of a network and the (c, h, w) in a `config.json` of UNet2DModel.

    Raises:
        CheckpointError: a network that a plain DDPM can't use.
    """
    if saved.get("num_class_embeds") or saved.get("class_embed_type"):
        raise CheckpointError("this U-Net is conditional on classes; only unconditional ones can be read so far")
    size = saved.get("sample_size")
    if not size:
        raise CheckpointError("this U-Net's config.json names no sample_size")
    height, width = (size, size) if isinstance(size, int) else size
    # diffusers' defaults, for what an old file leaves out
    defaults = {"block_out_channels": (224, 448, 672, 896), "layers_per_block": 2, "norm_num_groups": 32}
    cls: Any = NetworkConfig.class_for({"name": UNET})
    known = {key: value for key, value in (defaults | saved).items() if key in cls.model_fields}
    return cls.model_validate(known | {"name": UNET}), (saved.get("in_channels", 3), height, width)
