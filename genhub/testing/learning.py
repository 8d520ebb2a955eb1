"""Checks of a model's config, phases and losses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from genhub.errors import RecipeError
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.means import Means
from genhub.interfaces.model import Batch, Model, Phase
from genhub.recipe.recipe import read_recipe
from genhub.recipe.sections import AccelerateConfig
from genhub.run.suited import nested
from genhub.testing.report import Broken, told
from genhub.testing.subject import ModelSubject
from genhub.training.checks import check_loss
from genhub.training.optim import FrozenNetworks, build_optimizers, check_phases, trained_parameters

LEARNING_RATES = (1e-3, 1e-4)
"""Learning rates at one of which a loss has to fall."""
TRIES = 30
COMPILE_ADVICE = "call network.forward() where it can't be compiled (for a second derivative, say), or simplify it"


def config(subject: ModelSubject) -> None:
    """Every key of Config has a default, a Config survives JSON, `super().__init__` is given it, and what it returns as
    `suited` to these data are keys of a recipe."""
    made = subject.recipe.model
    if type(made).model_validate_json(made.model_dump_json()) != made:
        raise Broken(
            "the Config is another one after it was written as JSON and read again",
            "give its keys types that pydantic writes as JSON: a checkpoint keeps the Config that way",
            type(made),
        )
    if subject.build().config != made:
        raise Broken(
            "model.config is not the Config that the model was built from",
            "call super().__init__(config) first, and leave self.config alone",
            subject.cls.__init__,
        )
    for means in (Means(10, rows=1797), Means(60, accelerator=True)):
        _check_suited(made, means)


def _check_suited(made: ModelConfig, means: Means) -> None:
    assert made.data is not None
    try:
        keys = type(made).suited(made.data, means)
    except ValueError:  # which says why nothing good would come of it
        return
    try:
        read_recipe(nested({"model.name": made.name, "model.conditions": list(made.conditions), **keys}))
    except RecipeError as error:
        raise Broken(
            f"what suited returns for {'a GPU' if means.accelerator else 'a CPU'} is no recipe: {error.args[0]}",
            'return values by the paths of a recipe\'s keys: {"model.hidden": 64, "data.batch_size": 32}',
            type(made).suited,
        ) from error


def phases(subject: ModelSubject) -> None:
    """Phases have names of their own and train existing networks, in sets that are equal or disjoint."""
    model = subject.build()
    check_phases(model, model.phases())


def losses(subject: ModelSubject) -> None:
    """A loss is a mapping of scalar tensors; its "loss" is finite and has a gradient, and the batch stays as it was."""
    model = subject.build()
    for phase in model.phases():
        batch, before = subject.batch, parts_of(subject.batch)
        found = model(batch, phase.name)
        check_loss(model, phase, found)
        if not torch.isfinite(found["loss"]):
            raise Broken(
                f"phase '{phase.name}': the very first loss is {found['loss'].item()}",
                "look for what divides by zero or takes a root or logarithm of it",
                phase.loss,
            )
        after = parts_of(batch)
        for part, values in before.items():
            if part not in after or not torch.equal(after[part], values):
                raise Broken(
                    f"phase '{phase.name}' changes {part} in place",
                    "work on a new tensor: the phases of a step share a batch",
                    phase.loss,
                )


def parts_of(batch: Batch) -> dict[str, Tensor]:
    """Return a batch's tensors, by where they are."""
    values = {f"batch.conditions.values['{name}']": tensor for name, tensor in batch.conditions.values.items()}
    present = {f"batch.conditions.present['{name}']": tensor for name, tensor in batch.conditions.present.items()}
    return {"batch.x": batch.x} | values | present


def latents(subject: ModelSubject) -> None:
    """The output of `frozen_encoder` depends on the element alone, and no phase trains its networks; a loss that gets it as
    batch.cached["latents"] is the loss of x itself."""
    model, batch = subject.trained(), subject.batch
    encoder = model.frozen_encoder()
    if encoder is None:
        return
    trained = {id(p) for phase in model.phases() for p in trained_parameters(model, phase.trains)}
    if any(id(p) in trained for p in encoder.networks.parameters()):
        raise Broken(
            "a phase trains what frozen_encoder computes with", "leave it out of `trains`, or return None", model.phases
        )
    with torch.no_grad():
        whole, alone = encoder.encode(batch.x), torch.cat([encoder.encode(one[None]) for one in batch.x])
    if not torch.allclose(whole, alone, rtol=1e-3, atol=1e-4):
        raise Broken(
            "frozen_encoder makes another thing of an element that is alone in its batch",
            "use nothing random in it and no statistics of the batch, in training mode too",
            encoder.encode,
        )
    for phase in model.phases():
        found = []
        cached = replace(batch, x=whole.new_empty((len(batch), 0)), cached={"latents": whole})
        for given in (batch, cached):
            again = subject.trained()
            torch.manual_seed(0)
            found.append(again(given, phase.name)["loss"])
        if not torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-5):
            raise Broken(
                f"phase '{phase.name}': the loss of batch.cached['latents'] is not the loss of batch.x",
                "let the loss go on from either in the same way",
                phase.loss,
            )


def gradients(subject: ModelSubject) -> None:
    """Gradients reach every trained parameter, and no parameter that no phase trains."""
    model = subject.build()
    phases, names = list(model.phases()), {id(p): name for name, p in model.named_parameters()}
    trained = {names[id(p)] for phase in phases for p in trained_parameters(model, phase.trains)}
    for phase in phases:
        strays = backward(model, phase, subject) - trained
        if strays:
            raise Broken(
                f"phase '{phase.name}' depends on {some(strays)}, which no phase trains",
                "put them into a network that a phase names in `trains`, or freeze them: requires_grad_(False)",
                phase.loss,
            )
    frozen, reached = FrozenNetworks(model, phases), set[str]()
    for phase in phases:
        frozen.all_but(phase)
        reached |= backward(model, phase, subject)
    if trained - reached:
        raise Broken(
            f"no gradient reaches {some(trained - reached)}",
            "use them in the loss of the phase that trains them, "
            "leave them out of the network, or freeze them: requires_grad_(False)",
            phases[0].loss,
        )


def training(subject: ModelSubject) -> None:
    """Each phase, trained alone on one batch with the same random numbers every time, lowers its loss."""
    model = subject.trained()
    for phase in model.phases():
        curves = [curve(subject, phase.name, lr) for lr in LEARNING_RATES]
        if not any(fallen(losses) for losses in curves):
            first, last = curves[0][0], curves[0][-1]
            raise Broken(
                f"phase '{phase.name}': the loss went from {first:.5g} to {last:.5g} in {TRIES} steps on one batch",
                "look for a wrong sign, a detach() too many, or a loss that does not depend on what is trained",
                phase.loss,
            )


def curve(subject: ModelSubject, phase_name: str, lr: float) -> list[float]:
    """Return a phase's losses over TRIES steps. The other networks, buffers and random numbers stay as they are, so that the
    loss is one function of what the phase trains, and going down means the same for every family: a GAN's discriminator
    and generator each against the other as it was."""
    model, batch = subject.trained(), subject.batch
    phases = {phase.name: phase for phase in model.phases()}
    phase = phases[phase_name]
    FrozenNetworks(model, list(phases.values())).all_but(phase)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    config = AccelerateConfig.model_validate({"optimizer": {"name": "adam", "lr": lr}})
    optimizer = build_optimizers(model, [phase], config)[frozenset(phase.trains)]
    losses = []
    for _ in range(TRIES):
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        torch.manual_seed(0)
        again = replace(batch, x=batch.x.clone(), conditions=batch.conditions.each(torch.clone))
        loss = model(again, phase_name)["loss"]
        loss.backward()
        optimizer.step(1.0)
        losses.append(loss.item())
    return losses


def fallen(losses: list[float]) -> bool:
    last = sum(losses[-5:]) / 5
    return last < losses[0] - 1e-3 * abs(losses[0])


def bf16(subject: ModelSubject) -> None:
    """Losses and gradients are finite under bfloat16 autocast (`trainer.mixed_precision: bf16`)."""
    model = subject.trained()
    for phase in model.phases():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(subject.batch, phase.name)["loss"]
        backward_of(model, loss)
        wrong = {name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()}
        if wrong or not loss.isfinite():
            what = f"the gradient of {some(wrong)} is not finite" if loss.isfinite() else f"the loss is {loss.item()}"
            raise Broken(
                f"phase '{phase.name}' in bf16: {what}",
                "do what needs digits in float32: x.float(), or torch.autocast(device_type, enabled=False)",
                phase.loss,
            )


def compile(subject: ModelSubject) -> None:
    """Losses and gradients are the same with the trained networks compiled (`trainer.compile`).

    Compiled with the backend aot_eager: tracing and autograd are torch.compile's, and it is there that a model can go
    wrong; the kernels that inductor would make of it take a C++ compiler and a minute.
    """
    model, compiled = subject.trained(), subject.trained()
    try:
        for network in sorted({network for phase in model.phases() for network in phase.trains}):
            getattr(compiled, network).compile(backend="aot_eager")
        for phase in model.phases():
            try:
                loss, gradients = loss_and_gradients(model, phase, subject), loss_and_gradients(compiled, phase, subject)
            except RuntimeError as error:
                raise Broken(
                    f"phase '{phase.name}' with compiled networks: {told(error)}", COMPILE_ADVICE, phase.loss
                ) from error
            for name, ours in loss.items():
                if not torch.allclose(ours, gradients[name], rtol=1e-2, atol=1e-4):
                    raise Broken(
                        f"phase '{phase.name}' with compiled networks: another {name}",
                        "look for Python side effects in the network's forward()",
                        phase.loss,
                    )
    finally:
        torch.compiler.reset()


def loss_and_gradients(model: Model, phase: Phase, subject: ModelSubject) -> dict[str, Tensor]:
    torch.manual_seed(0)
    loss = model(subject.batch, phase.name)["loss"]
    backward_of(model, loss)
    found = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | found


def backward(model: Model, phase: Phase, subject: ModelSubject) -> set[str]:
    """Return the names of the parameters that a phase's gradient reaches."""
    backward_of(model, model(subject.batch, phase.name)["loss"])
    return {name for name, p in model.named_parameters() if p.grad is not None}


def backward_of(model: Model, loss: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]


def some(names: Iterable[str]) -> str:
    *first, last = sorted(names)
    shown = [*first, last][:5]
    return ", ".join(shown) + (f" and {len(first) - 4} more" if len(first) > 4 else "")
