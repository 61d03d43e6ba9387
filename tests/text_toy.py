"""A text-conditional model from nothing: defined, trained and sampled with the package as it is."""

import torch
from torch import nn

from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator, randn
from diffusion_lab.generate import generate
from diffusion_lab.nets.layers import LevelEmbedding
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.schedules import Linear

WORDS = {"empty": 0, "left": 1, "right": 2, "up": 3, "down": 4}
PLACES = torch.tensor([[0.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])


class TextNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.level, self.words = LevelEmbedding(64), nn.Linear(8, 64)
        self.body = nn.Sequential(nn.Linear(66, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, lam, tokens):  # tokens (B, L, 8)
        told = self.level(lam, None, len(x)) + self.words(tokens).mean(1)
        return self.body(torch.cat([x, told.expand(len(x), -1)], dim=1))


def tokens(words):  # (B, L) numbers of words -> (B, L, 8)
    return nn.functional.one_hot(torch.as_tensor(words), 8).float()


torch.manual_seed(0)
model = NetDenoiser(TextNet(), Linear(), "v", shape=(2,), lam_range=(-4.0, 4.0))
loss, adam = DiffusionLoss(model, Weighting("edm")), torch.optim.Adam(model.parameters(), 1e-2)
for step in range(400):
    gen = generator(0, step)
    said = torch.randint(5, (128, 2), generator=gen)
    said[torch.rand(128, generator=gen) < 0.1] = WORDS["empty"]
    x0 = PLACES[said].sum(1) + 0.1 * randn((128, 2), gen)
    t = draw_times(model.schedule, 128, gen, law="lambda", lam_range=(-4.0, 4.0))
    adam.zero_grad()
    loss(x0, t, randn(x0.shape, gen), tokens=tokens(said)).mean().backward()
    adam.step()
asked = tokens([[WORDS["left"], WORDS["up"]]] * 200)
drawn = generate(model, 200, condition={"tokens": asked}, steps=12).x
guided = generate(
    model, 200, condition={"tokens": asked}, scale=1.5, null={"tokens": tokens([0, 0])}
)
