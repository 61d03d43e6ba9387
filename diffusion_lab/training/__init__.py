"""Training: recipes, tasks, one loop on Hugging Face Accelerate, and states to resume from."""

from diffusion_lab.training.fitting import fit, load_or_train
from diffusion_lab.training.loop import EMA, Progress, build, learning_rate, train
from diffusion_lab.training.recipes import RECIPES, Recipe, get
from diffusion_lab.training.tasks import Task, fold

__all__ = [
    "EMA",
    "RECIPES",
    "Progress",
    "Recipe",
    "Task",
    "build",
    "fit",
    "fold",
    "get",
    "learning_rate",
    "load_or_train",
    "train",
]
