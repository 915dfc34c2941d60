"""Training of one model: its steps, the weights that were best, what a checkpoint needs of it.

Each step draws its random numbers anew, from the seed, its own number and the worker's: so that a
checkpoint need hold none, and a run that was interrupted ends as if it had not been.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from isohop.coldbrew.learners import Batch, Learner, Told
from isohop.coldbrew.settings import DistillSettings
from isohop.coldbrew.structural import PREFIX
from isohop.coldbrew.teacher import Teacher
from isohop.engines.checkpoints import Tensors, load_optimiser, optimiser_tensors
from isohop.engines.determinism import draw_by
from isohop.engines.workers import Workers
from isohop.errors import IsohopError
from isohop.giant.row_table import gradient_of

VALIDATE_EVERY = 20
VALIDATIONS = 16
"""At most, of however many steps: each looks at the whole graph."""
WEIGHTS = ("model", "best")
OF_ROWS = "optimiser 1"
"""Parts of a checkpoint: weights as they are and the best, and what the optimiser knows of rows of
which a step touches few."""


def mixed(*numbers: int) -> int:
    """A seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Training:
    """``seed``: numbers that no other training has. ``draw``: the batch of a step; ``score``: of
    what the model says, on validation, where it is to be validated; ``halfway``: to be done before
    the first step of the second half."""

    def __init__(
        self,
        name: str,
        learner: Learner,
        settings: DistillSettings,
        steps: int,
        seed: Sequence[int],
        workers: Workers,
        draw: Callable[[int], Batch],
        score: Callable[[Told], float] | None = None,
        halfway: Callable[[], None] | None = None,
    ):
        self.name = name
        self.learner = learner
        self.steps = steps
        self._every = VALIDATE_EVERY * -(-steps // (VALIDATE_EVERY * VALIDATIONS))
        self.done = 0
        self._seed = tuple(seed)
        self._workers = workers
        self._draw = draw
        self._score = score
        self._halfway = halfway
        self._best: tuple[float, dict[str, Tensor]] | None = None
        self._begun = False
        """Whether the weights that it begins with are as good as any."""
        learner.module.train()
        self._optimisers = _optimisers(learner.module, settings)
        self._schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                optimiser,
                settings.learning_rate,
                total_steps=steps + 1,
                pct_start=max(0.1, 2 / (steps + 1)),  # of one step it would divide by zero
            )
            for optimiser in self._optimisers
        ]

    def train(self, steps: int) -> tuple[list[float], float | None]:
        """Take some steps; (losses, validation score where one was due). Raises `IsohopError` on a
        loss that is no number, before anything is learned from it."""
        losses = []
        valid = None
        for _ in range(min(steps, self.steps - self.done)):
            if self._halfway and self.done == self.steps // 2:
                self._halfway()
            losses.append(self._step())
            if self._score and (self.done % self._every == 0 or self.done == self.steps):
                valid = self._validate(self._score)
        return losses, valid

    def consider(self) -> None:
        """Keep the weights that it begins with, where no step is better."""
        self._begun = True
        if self._score:
            self._validate(self._score)

    def _step(self) -> float:
        """The loss of all workers together."""
        draw_by(mixed(*self._seed, self.done, self._workers.rank))
        loss = self.learner.loss(self._draw(self.done))
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        lost = loss.detach()
        self._add_up(lost)
        value = float(lost)
        if not np.isfinite(value):
            raise IsohopError(
                f"Training of the {self.name}: the loss of step {self.done + 1} is {value}. "
                "Lower 'distill.learning_rate'."
            )
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            optimiser.step()
            schedule.step()
        self.done += 1
        return value

    def _add_up(self, lost: Tensor) -> None:
        """Loss and gradients over all workers, each of which has found its share."""
        if self._workers.count == 1:
            return
        module = self.learner.module
        rows = {id(parameter) for parameter in _of_rows(module)}
        if isinstance(module, Teacher):
            module.structural.give_back()
        dense = [p for p in module.parameters() if p.requires_grad and id(p) not in rows]
        self._workers.add([lost, *map(gradient_of, dense)])

    def _validate(self, score: Callable[[Told], float]) -> float:
        module = self.learner.module.eval()
        with torch.no_grad():
            value = score(self.learner.tell())
        module.train()
        # Of equal scores the later wins: where there is nothing to validate on, all are equal. Not
        # where it began with something good.
        best = self._best
        if best is None or value > best[0] or (value == best[0] and not self._begun):
            self._best = value, {n: v.detach().clone() for n, v in module.state_dict().items()}
        return value

    def keep_best(self) -> None:
        """Of the weights that were validated."""
        if self._best is not None:
            self.learner.module.load_state_dict(self._best[1])

    def checkpoint(self) -> tuple[dict[str, Tensors], dict[str, str]]:
        """What `resume` takes, as `save_checkpoint` does."""
        parts: dict[str, Tensors] = {"model": self.learner.module.state_dict()}
        for number, optimiser in enumerate(self._optimisers):
            parts[f"optimiser {number}"] = optimiser_tensors(optimiser)
        about = {"done": str(self.done)}
        if self._best is not None:
            about["best"] = json.dumps(self._best[0])
            parts["best"] = self._best[1]
        return parts, about

    def resume(self, parts: Mapping[str, Mapping[str, Tensor]], about: Mapping[str, str]) -> None:
        self.learner.module.load_state_dict(dict(parts["model"]))
        self.done = int(about["done"])
        for number, optimiser in enumerate(self._optimisers):
            load_optimiser(optimiser, parts.get(f"optimiser {number}", {}))
            with warnings.catch_warnings(action="ignore"):  # the steps were taken, elsewhere
                for _ in range(self.done):
                    self._schedules[number].step()
        if "best" in about:
            self._best = json.loads(about["best"]), dict(parts["best"])


def _of_rows(module: nn.Module) -> list[nn.Parameter]:
    """Structural embeddings, where a step touches few of them and gradients are sparse."""
    if isinstance(module, Teacher) and module.structural.sparse:
        return list(module.structural.parameters())
    return []


def _optimisers(module: nn.Module, settings: DistillSettings) -> list[torch.optim.Optimizer]:
    """Adam; of structural embeddings that a step touches few of, an Adam of their own. These have a
    penalty of their own in place of weight decay, however many are touched."""
    rate = settings.learning_rate
    sparse = _of_rows(module)
    placed = list(module.structural.parameters()) if isinstance(module, Teacher) else []
    own = {id(parameter) for parameter in placed}
    groups = [
        {
            "params": [p for p in module.parameters() if p.requires_grad and id(p) not in own],
            "weight_decay": settings.weight_decay,
        }
    ]
    if placed and not sparse:
        groups.append({"params": placed, "weight_decay": 0.0})
    found: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, lr=rate)]
    if sparse:
        found.append(torch.optim.SparseAdam(sparse, lr=rate))
    return found


def parted(
    training: Mapping[str, Tensors],
) -> tuple[Mapping[str, Tensors], Mapping[str, Tensors]]:
    """Of what `Training.checkpoint` gives by part: what all workers hold alike, and of structural
    embeddings that they share out, what each holds of them."""
    alike: dict[str, dict[str, Tensor]] = {}
    own: dict[str, dict[str, Tensor]] = {}
    for part, tensors in training.items():
        for name, tensor in tensors.items():
            shared = part == OF_ROWS or (part in WEIGHTS and name.startswith(PREFIX))
            (own if shared else alike).setdefault(part, {})[name] = tensor
    return alike, own
