"""A toy GAN, for the tests of tasks with two models and two optimisers; run as a script it trains.

python tests/gan.py OUT [resume] [slow]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_lab import nets
from diffusion_lab.data import Dataset, toys
from diffusion_lab.device import generator, randn
from diffusion_lab.training import Recipe, train
from diffusion_lab.training.tasks import indices, seeded

RECIPE = Recipe(
    "gan",
    "points from noise, against a critic",
    options={"rates": [2e-3, 1e-3]},
    net={"name": "mlp", "width": 16, "depth": 2},
    batch=32,
    steps=12,
    warmup=4,
    ema=0.9,
    conditional=False,
)


def points() -> Dataset:
    return toys.dataset("ring", n=500)


class Gan:
    """Critic first, then the generator against the critic that has just learnt."""

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        self.recipe, self.data, self.seen = recipe, data, []
        spec = {k: v for k, v in recipe.net.items() if k != "name"}
        with seeded(recipe.seed):
            self.models = nn.ModuleDict(
                {
                    "maker": nets.make("mlp", **spec, dim=2),
                    "critic": nets.make("mlp", **spec, dim=2, out_dim=1),
                }
            )
            for net in self.models.values():  # their last layer starts at 0: nothing to learn from
                nn.init.normal_(net.last.weight, std=0.3)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        maker, critic = self.recipe.options["rates"]
        return [
            torch.optim.Adam(self.models["critic"].parameters(), critic, (0.5, 0.9)),
            torch.optim.SGD(self.models["maker"].parameters(), maker, momentum=0.9),
        ]

    def draw(self, step: int) -> dict[str, Tensor]:
        r = self.recipe
        z = randn((r.batch, 2), generator(r.seed, 1, step))
        return {
            "x0": self.data.x[indices(len(self.data), r.batch, r.seed, step)],
            "z": z,
            "level": torch.zeros(1),  # not one for each of the batch: goes whole to all
        }

    def losses(
        self, average: nn.ModuleDict, x0: Tensor, z: Tensor, level: Tensor
    ) -> Iterator[Tensor]:
        maker, critic = self.models["maker"], self.models["critic"]
        assert not average.training and not any(p.requires_grad for p in average.parameters())
        before = critic.last.weight.detach().clone()
        fake = maker(z, level)
        soft = nn.functional.softplus
        yield (soft(critic(fake.detach(), level)) + soft(-critic(x0, level))).mean()
        self.seen.append((len(x0), len(level), torch.equal(before, critic.last.weight)))
        yield soft(-critic(maker(z, level), level)).mean()

    def preview(self, average: nn.ModuleDict) -> Tensor:
        """(1, 1, 16, 16): where the averaged generator puts 200 points."""
        x = average["maker"](randn((200, 2), generator(7)), torch.zeros(1))
        place = ((x + 3) / 6 * 16).long().clamp(0, 15)
        picture = torch.zeros(256).index_add_(0, place[:, 0] * 16 + place[:, 1], torch.ones(200))
        return (picture.clamp(max=8) / 4 - 1).reshape(1, 1, 16, 16)

    def distance(self, average: nn.ModuleDict) -> float:
        x = average["maker"](randn((200, 2), generator(7)), torch.zeros(1))
        return (x.mean(0) - self.data.x.mean(0)).norm().item()


if __name__ == "__main__":
    more = {"steps": 150} if "slow" in sys.argv else {}
    rows = []
    for p in train(
        RECIPE,
        data=points(),
        task=Gan,
        out=sys.argv[1],
        resume="resume" in sys.argv,
        report_every=1,
        save_every=1,
        **more,
    ):
        rows.append([p.step, *p.losses])
        print(*rows[-1], flush=True)
        time.sleep(0.002 * ("slow" in sys.argv))
    if "RANK" in os.environ:  # a file each: lines of two processes may mix
        Path(sys.argv[1], f"rank{os.environ['RANK']}.json").write_text(json.dumps(rows))
