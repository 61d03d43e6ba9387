"""Pictures and words in one space: what text finds, guides and judges pictures by.

``embedding``    the two encoders, clean and noise-aware
``contrastive``  how they are trained together
``finding``      how well words find pictures: recall and precision among held-out emoji
"""

from diffusion_lab.words.embedding import JointEmbedding
from diffusion_lab.words.finding import found, precision, recall

__all__ = ["JointEmbedding", "found", "precision", "recall"]
