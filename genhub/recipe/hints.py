"""Hints for unknown keys: the section where a key belongs, or the name it has here. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache

from genhub.errors import did_you_mean
from genhub.interfaces.annotations import members
from genhub.interfaces.section import Section

# What other frameworks, and their users, call a key.
OTHER_NAMES = {
    "data.name": "dataset dataset_name data_dir data_path data_root train_data_dir path root folder",
    "data.columns": "resolution img_size image_resolution size",
    "data.batch_size": "bs batch batchsize train_batch_size per_device_train_batch_size",
    "data.num_workers": "workers dataloader_num_workers num_dataloader_workers",
    "data.flip": "random_flip horizontal_flip hflip",
    "trainer.max_steps": "steps num_steps train_steps total_steps max_train_steps num_train_steps iterations max_iters",
    "trainer.optimizer.lr": "learning_rate base_lr",
    "trainer.optimizer.weight_decay": "wd",
    "trainer.max_grad_norm": "gradient_clip gradient_clipping gradient_clip_val grad_clip clip_grad clip_grad_norm max_norm",
    "trainer.ema.decay": "ema_decay ema_rate",
    "trainer.mixed_precision": "fp16 bf16 amp precision half use_amp",
    "trainer.gradient_accumulation_steps": "gradient_accumulation grad_accum accumulation_steps accumulate_grad_batches",
    "trainer.lr_scheduler": "lr_schedule",
    "trainer.lr_scheduler.warmup_steps": "warmup lr_warmup lr_warmup_steps num_warmup_steps",
    "trainer.save_every": "save_steps save_interval checkpointing_steps checkpoint_every",
    "trainer.log_every": "logging_steps log_interval",
    "trainer.keep_last": "save_total_limit checkpoints_total_limit",
    "trainer.trackers": "logger loggers log_with report_to wandb tensorboard",
    "trainer.device": "cuda gpu gpus accelerator",
    "seed": "random_seed manual_seed",
    "run_dir": "output_dir out_dir output save_dir log_dir logdir checkpoint_dir",
    "hub.repo_id": "hub_model_id push_to_hub",
    "model.from": "pretrained pretrained_model pretrained_model_name_or_path resume_from",
}
_PER_COLUMN = "it is a column's own now: data.columns: {{COLUMN: {{{}}}}}, or data.columns.COLUMN.{}=... on the command line"
GONE = {
    "trainer.keep_memory": "no run depends on it any more; take it out",
    "model.unet": "a model names its network now: network: {name: unet, ...} with the same keys",
    "model.conditional": "say what the model is given: conditions: [label]",
    "model.label_dropout": "it is called condition_dropout now",
    "model.sample_shape": "the data fill it in; take it out",
    "model.num_classes": "the data fill it in; take it out",
    "data.image_column": "it is called target now",
    "data.label_column": "say what the model is given: model.conditions: [COLUMN]",
    "data.image_size": _PER_COLUMN.format("size: 64", "size"),
    "data.channels": _PER_COLUMN.format("channels: 3", "channels"),
    "data.value_range": _PER_COLUMN.format("value_range: auto", "value_range"),
}
"""Keys that recipes had once, and what to do with them."""
EPOCHS = ("epoch", "epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs")
_BY_OTHER_NAME = {other: key for key, others in OTHER_NAMES.items() for other in others.split()}
_NEAR = 0.85
"""Least likeness at which a key of the same section is suggested before one of another section."""


def where_it_belongs(name: str, known: Iterable[str], elsewhere: Iterable[str]) -> str:
    """Return the tail of an "unknown key" message.

    Args:
        known: the names in the section where it was written.
        elsewhere: paths of all other keys, such as trainer.optimizer.lr.
    """
    plain, known = name.lower().replace("-", "_"), list(known)
    if get_close_matches(name, known, n=1, cutoff=_NEAR):
        return did_you_mean(name, known)
    if plain in EPOCHS:
        return "a run is counted in steps: give trainer.max_steps, which is epochs x rows / data.batch_size"
    found = [path for path in elsewhere if path.rpartition(".")[2] == plain]
    found = found if 0 < len(found) <= 3 else [_BY_OTHER_NAME[plain]] if plain in _BY_OTHER_NAME else []
    return f"did you mean {' or '.join(map(repr, found))}?" if found else did_you_mean(name, known)


@cache
def key_paths(section: type[Section], prefix: str = "") -> tuple[str, ...]:
    """Return the paths of all keys in a section and in those inside it."""
    return tuple(_key_paths(section, prefix))


def _key_paths(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for member in members(field.annotation):
            if isinstance(member, type) and issubclass(member, Section):
                yield from _key_paths(member, f"{prefix}{name}.")
