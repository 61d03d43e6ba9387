"""Recipes: everything that fixes a training, in one dictionary.

``diffusion-lab train NAME`` runs one from nothing; the shipped checkpoints record theirs.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from diffusion_lab.errors import unknown, whole

__all__ = ["ADDED", "PRECISIONS", "RECIPES", "TASKS", "Recipe", "get"]

TASKS = {
    "diffusion": "diffusion_lab.training.tasks:Diffusion",
    "classifier": "diffusion_lab.training.tasks:Classification",
}
"""Short names of tasks; any other is written out, as these are."""

PRECISIONS = ("fp32", "bf16", "fp16")
ADDED = {"options": {}, "precision": "fp32", "accumulate": 1}
"""Fields that headers written before them lack, with what was meant."""


@dataclass(frozen=True)
class Recipe:
    """One training. Times in optimiser steps; ``sd`` None takes the data's own std.

    task: one of ``TASKS``, or the name of another, "diffusion_lab.module:Class"; options: what it
    alone knows. times: the law of t with its parameters. conditional: whether the network is told
    the data's conditions, or the names of those that it is told. null: share of labels dropped, so
    that one network learns both the conditional and the unconditional answer, or a share for each
    condition by name. decay: share of the steps after which the learning rate falls linearly to 0.
    precision: of the forward passes, "fp32", "bf16" or "fp16"; weights are float32 always.
    accumulate: parts in which each process takes its share of the batch, one after another, to
    need less memory. sampler: what draws the best pictures from the result.
    """

    name: str
    about: str
    task: str = "diffusion"
    options: dict[str, Any] = field(default_factory=dict)
    data: str = "fashion"
    full: bool = False
    net: dict[str, Any] = field(default_factory=lambda: {"name": "unet"})
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "edm", "sigma_max": 20.0})
    kind: str = "edm"
    sd: float | None = None
    lam_range: tuple[float, float] | None = (-2.9957, 4.6052)  # sigma/alpha from 20 down to 0.01
    weighting: dict[str, Any] = field(default_factory=lambda: {"name": "edm"})
    times: dict[str, Any] = field(
        default_factory=lambda: {"law": "lognormal", "mean": -0.6, "std": 1.2}
    )
    hybrid: bool = False
    conditional: bool | tuple[str, ...] = True
    null: float | dict[str, float] = 0.1
    batch: int = 32
    steps: int = 4000
    lr: float = 2.5e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    decay: float = 0.5
    warmup: int = 100
    ema: float = 0.999
    seed: int = 0
    precision: str = "fp32"
    accumulate: int = 1
    sampler: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError for what no training can be: sizes of none, shares outside [0, 1], no name."""
        for name in ("betas", "lam_range", "conditional"):  # as JSON holds them
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not (isinstance(self.name, str) and re.fullmatch(r"[\w-]+", self.name, re.ASCII)):
            raise ValueError(
                f"name of a recipe names its files: letters, digits, - and _; got {self.name!r}"
            )
        if self.task not in TASKS and ":" not in str(self.task):
            raise unknown("task", self.task, TASKS)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        for name, least in (
            ("batch", 1),
            ("steps", 1),
            ("accumulate", 1),
            ("warmup", 0),
            ("seed", -(2**63)),
        ):
            whole(f"{name} of a recipe", getattr(self, name), least)
        null = self.null if isinstance(self.null, dict) else {"": self.null}
        for name, share in [("decay", self.decay), *(("null", one) for one in null.values())]:
            if not (_is_number(share) and 0 <= share <= 1):
                raise ValueError(f"{name} of a recipe is a share from 0 to 1; got {share}")
        numbers = _is_number(self.lr) and _is_number(self.weight_decay)
        if not (numbers and 0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError(
                "lr of a recipe must be > 0 and weight_decay >= 0; "
                f"got {self.lr} and {self.weight_decay}"
            )
        named = self.conditional if isinstance(self.conditional, tuple) else ("",)
        if not all(isinstance(one, str) for one in named) or not isinstance(
            self.conditional, bool | tuple
        ):
            raise ValueError(
                "conditional of a recipe is True, False or a list of names of conditions; "
                f"got {self.conditional!r}"
            )
        for name, key in (
            ("net", "name"),
            ("schedule", "name"),
            ("weighting", "name"),
            ("times", "law"),
        ):
            given = getattr(self, name)
            if not isinstance(given, dict) or key not in given:
                raise ValueError(f"{name} of a recipe needs {key!r}; got {given}")

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some fields changed; unknown fields suggest the near match."""
        known = asdict(self)
        for key in changes:
            if key not in known:
                raise unknown("field of a recipe", key, known)
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the header of a checkpoint."""
        return asdict(self)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_FEW_STEPS = {
    "sampler": "dpmpp",
    "steps": 8,
    "scale": 2.0,
    "spacing": "karras",
    "lam_range": (-2.9957, 3.912),
}

_VP1000 = {"name": "linear", "T": 1000}

_CODES = {"name": "diffusion_lab.discrete.transformer:CodeTransformer", "vocabulary": 1185}
_MOVED = {"shift": 2.0, "scale": 0.15, "turn": 15.0}


def _embedding(
    which: str, seed: int, fold: int, lam_range: tuple[float, float] = (5.0, 5.0)
) -> Recipe:
    """A joint embedding of emoji and words; those of two letters hide different tenths of train."""
    noisy = lam_range[0] < 5
    return Recipe(
        f"emoji-embedding-{which}",
        "a joint embedding of emoji and words, " + ("at all noise" if noisy else "of clean ones"),
        task="diffusion_lab.words.contrastive:Contrastive",
        options={"fold": fold, "moved": _MOVED} | ({"clean": 0.3} if noisy else {}),
        data="emoji",
        net={"name": "diffusion_lab.words.embedding:JointEmbedding", "lam_range": lam_range},
        conditional=False,
        batch=128,
        steps=1_100 if noisy else 700,  # longer, they learn the training emoji by heart
        lr=1e-3,
        weight_decay=5e-2,
        decay=0.2,
        ema=0.995,
        seed=seed,
    )


RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        Recipe(
            "fashion",
            "class-conditional Fashion-MNIST with a null class, EDM preconditioning, few steps",
            net={"name": "unet", "fine": 16},
            steps=24_000,
            sampler=_FEW_STEPS | {"steps": 6, "scale": 1.6},
        ),
        Recipe(
            "fashion-1min",
            "the same at what one minute of two cores allows (lesson 03 trains it live)",
            steps=1_000,
            sampler=_FEW_STEPS,
        ),
        Recipe(
            "fashion-vp1000",
            "Fashion-MNIST on the linear schedule of 1000 steps, with learned variance",
            schedule=_VP1000,
            lam_range=None,
            hybrid=True,
            conditional=False,
            net={"name": "unet", "out_channels": 2, "fine": 16, "stripes": True},
            steps=40_000,
            sampler={"sampler": "dpmpp", "steps": 10, "spacing": "karras"},
        ),
        Recipe(
            "digits",
            "class-conditional 8x8 digits with a null class",
            data="digits",
            net={"name": "unet", "patch": 1, "widths": (32, 64)},
            steps=6_000,
            batch=64,
            lr=2e-3,
            sampler=_FEW_STEPS | {"scale": 1.0},  # guidance 2 makes digits worse (FD)
        ),
        Recipe(
            "fashion-features",
            "the frozen classifier in whose 64 features Fashion-MNIST pictures are compared",
            task="classifier",
            full=True,
            net={"name": "classifier", "width": 16},
            conditional=False,
            batch=128,
            steps=2_400,
            lr=2e-3,
            weight_decay=1e-2,
            decay=0.2,
            ema=0.995,
        ),
        Recipe(
            "digits-features",
            "the frozen classifier in whose 64 features digits are compared",
            task="classifier",
            data="digits",
            net={"name": "classifier", "width": 16, "pools": 1},
            conditional=False,
            batch=64,
            steps=1_200,
            lr=2e-3,
            weight_decay=1e-2,
            decay=0.2,
            ema=0.99,
        ),
        Recipe(
            "emoji-features",
            "the frozen classifier in whose 64 features emoji are compared",
            task="classifier",
            options={"moved": _MOVED},
            data="emoji",
            net={"name": "classifier", "width": 16, "pools": 3},
            conditional=False,
            batch=64,
            steps=1_600,
            lr=2e-3,
            weight_decay=5e-2,
            decay=0.2,
            ema=0.995,
        ),
        Recipe(
            "emoji-judge",
            "a second classifier of emoji, to judge what was guided or chosen by another",
            task="classifier",
            options={"moved": _MOVED},
            data="emoji",
            net={"name": "classifier", "width": 12, "pools": 3, "features": 96},
            conditional=False,
            batch=64,
            steps=1_400,
            lr=2e-3,
            weight_decay=5e-2,
            decay=0.2,
            ema=0.995,
            seed=1,
        ),
        _embedding("a", 0, 0),
        _embedding("b", 1, 1),
        _embedding("a-noisy", 2, 0, (-3.0, 5.0)),
        _embedding("b-noisy", 3, 1, (-3.0, 5.0)),
        Recipe(
            "emoji-kl",
            "autoencoder of the emoji with a Gaussian latent, 32x32x3 to 8x8x4",
            task="diffusion_lab.latent.autoencoder:Autoencoding",
            options={"kl": 1e-6, "gradient": 0.5},
            data="emoji",
            net={"name": "diffusion_lab.latent.autoencoder:KLAutoencoder", "widths": (32, 64)},
            conditional=False,
            steps=20_000,
            lr=2e-3,
        ),
        Recipe(
            "emoji-kl8",
            "the same to 4x4x4, an eighth of the resolution",
            task="diffusion_lab.latent.autoencoder:Autoencoding",
            options={"kl": 1e-6, "gradient": 0.5},
            data="emoji",
            net={"name": "diffusion_lab.latent.autoencoder:KLAutoencoder", "widths": (32, 64, 64)},
            conditional=False,
            steps=16_000,
            lr=2e-3,
        ),
        Recipe(
            "emoji-vq",
            "autoencoder of the emoji with two levels of 128 codes, 8x8 and 4x4",
            task="diffusion_lab.latent.vq:VQAutoencoding",
            data="emoji",
            net={"name": "diffusion_lab.latent.vq:VQAutoencoder", "widths": (32, 64)},
            conditional=False,
            steps=14_000,
            lr=2e-3,
        ),
        Recipe(
            "emoji-ldm",
            "emoji from words, in the latents of emoji-kl",
            task="diffusion_lab.latent.ldm:LatentDiffusion",
            options={"autoencoder": "emoji-kl", "captions": True},
            data="emoji",
            net={"name": "text_unet", "vocabulary": 1185, "patch": 1, "widths": (64, 96)},
            conditional=("tokens",),
            null={"tokens": 0.1},
            batch=64,
            steps=16_000,
            lr=2e-3,
            sampler=_FEW_STEPS | {"steps": 20, "scale": 3.0},
        ),
        Recipe(
            "phantoms-kl",
            "autoencoder of the phantoms with a Gaussian latent, 32x32 to 8x8x4",
            task="diffusion_lab.latent.autoencoder:Autoencoding",
            options={"kl": 1e-6, "gradient": 0.5, "fill": -1.0},
            data="phantoms",
            net={"name": "diffusion_lab.latent.autoencoder:KLAutoencoder", "widths": (16, 32)},
            conditional=False,
            steps=4_000,
            lr=2e-3,
        ),
        Recipe(
            "phantoms-ldm",
            "phantoms from four numbers, in the latents of phantoms-kl, 1000 steps",
            task="diffusion_lab.latent.ldm:LatentDiffusion",
            options={"autoencoder": "phantoms-kl"},
            data="phantoms",
            net={
                "name": "diffusion_lab.latent.covariates:CovariateUNet",
                "patch": 1,
                "widths": (32, 64),
                "emb": 64,
            },
            schedule={"name": "linear", "T": 1000},
            lam_range=None,
            conditional=("covariates",),
            steps=6_000,
            lr=2e-3,
            sampler={"sampler": "ddim", "steps": 50},
        ),
        Recipe(
            "emoji-text",
            "emoji from words, in pixels",
            task="diffusion_lab.latent.ldm:LatentDiffusion",
            options={"autoencoder": None, "captions": True},
            data="emoji",
            net={"name": "text_unet", "vocabulary": 1185, "fine": 16},
            conditional=("tokens",),
            null={"tokens": 0.1},
            batch=32,
            steps=16_000,
            lr=2e-3,
            sampler=_FEW_STEPS | {"steps": 20, "scale": 3.0},
        ),
        Recipe(
            "fashion-diffae",
            "a diffusion autoencoder of Fashion-MNIST: z of 16 numbers, the rest in x_T",
            task="diffusion_lab.latent.diffae:DiffAE",
            options={"widths": (32, 64)},
            net={
                "name": "diffusion_lab.latent.diffae:Decoder",
                "z_dim": 16,
                "widths": (32, 64),
                "fine": 16,
            },
            schedule={"name": "linear"},
            conditional=False,
            steps=18_000,
            sampler={"sampler": "ddim", "steps": 20},
        ),
        Recipe(
            "fashion-diffae-z",
            "the prior of its z, a small MLP",
            task="diffusion_lab.latent.prior:Prior",
            options={"autoencoder": "fashion-diffae"},
            net={"name": "diffusion_lab.latent.prior:LatentMLP", "width": 128, "depth": 4},
            schedule={"name": "linear"},
            conditional=False,
            batch=256,
            steps=6_000,
            lr=2e-3,
            sampler={"sampler": "ddim", "steps": 50},
        ),
        Recipe(
            "fashion-vq",
            "autoencoder of Fashion-MNIST with 64 codes on one level, 28x28 to 7x7",
            task="diffusion_lab.latent.vq:VQAutoencoding",
            options={"fill": -1.0},
            net={
                "name": "diffusion_lab.latent.vq:VQAutoencoder",
                "widths": (32, 64),
                "size": 64,
                "levels": 1,
            },
            conditional=False,
            steps=6_000,
            lr=2e-3,
        ),
        Recipe(
            "fashion-divae",
            "a diffusion decoder of the 7x7 codes of Fashion-MNIST",
            task="diffusion_lab.latent.divae:DiVAE",
            options={"autoencoder": "fashion-vq"},
            net={"name": "diffusion_lab.latent.divae:CodeUNet", "code_channels": 4, "fine": 16},
            conditional=("codes",),
            null=0.0,
            steps=10_000,
            sampler={k: v for k, v in _FEW_STEPS.items() if k != "scale"},
        ),
        Recipe(
            "emoji-vqdiffusion",
            "emoji from words, by diffusion of the codes of emoji-vq",
            task="diffusion_lab.discrete.vqdiffusion:VQDiffusion",
            options={
                "autoencoder": "emoji-vq",
                "captions": True,
                "process": {"schedule": "release", "T": 100},
            },
            data="emoji",
            net=_CODES,
            conditional=("tokens",),
            null={"tokens": 0.1},
            steps=10_000,
            lr=1e-3,
            sampler={"steps": 25, "scale": 2.0},
        ),
        Recipe(
            "emoji-ar",
            "emoji from words, one code of emoji-vq after another",
            task="diffusion_lab.discrete.autoregressive:Autoregression",
            options={"autoencoder": "emoji-vq", "captions": True},
            data="emoji",
            net=_CODES,
            conditional=("tokens",),
            null={"tokens": 0.1},
            steps=5_000,
            lr=1e-3,
            sampler={"scale": 1.0},
        ),
    )
}


def get(name: str) -> Recipe:
    """A recipe by name; unknown names suggest the near match."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
