"""Wrong answers to lesson 03, and words that each refusal must hold."""

import torch

silu = torch.nn.functional.silu


def _branch(block, x, emb, plus=1.0, act=silu):
    h = block.conv1(act(block.norm1(x)))
    scale, shift = block.told(emb)[:, :, None, None].chunk(2, dim=1)
    return block.conv2(act(block.norm2(h) * (plus + scale) + shift))


def _no_skip(block, x, emb):
    return _branch(block, x, emb)


def _plain_scale(block, x, emb):
    return block.skip(x) + _branch(block, x, emb, plus=0.0)


def _no_silu(block, x, emb):
    return block.skip(x) + _branch(block, x, emb, act=lambda h: h)


def _level_first(block, x, emb):
    h = block.conv1(silu(block.norm1(x)))
    scale, shift = block.told(emb)[:, :, None, None].chunk(2, dim=1)
    return block.skip(x) + block.conv2(silu(block.norm2(h * (1 + scale) + shift)))


def _no_axes(block, x, emb):
    h = block.norm2(block.conv1(silu(block.norm1(x))))
    scale, shift = block.told(emb).chunk(2, dim=1)
    return block.skip(x) + block.conv2(silu(h * (1 + scale) + shift))


def _loop(
    zero=True,
    back=True,
    weigh=True,
    total=False,
    batch=32,
    levels=lambda c: c[:, None, None, None],
    noise=torch.randn_like,
    follow=lambda n: min(0.99, (1 + n) / (10 + n)),
    keep=lambda loss: loss.item(),
    places=lambda n, count, batch: torch.randint(count, (batch,)),
):
    """A learner's training loop, with one thing wrong."""

    def training(model, average, optimiser, pictures, draw, steps):
        losses = []
        for n in range(steps):
            x0 = pictures[places(n, len(pictures), batch)]
            t, *others = draw(batch)
            alpha, sigma, weight = (levels(c) for c in others)
            x_t = alpha * x0 + sigma * noise(x0)
            squares = (model(x_t, t).x0 - x0).square()
            loss = (weight * squares if weigh else squares).mean()
            loss = loss * squares.numel() if total else loss
            if zero:
                optimiser.zero_grad()
            if back:
                loss.backward()
            optimiser.step()
            with torch.no_grad():
                for a, w in zip(average.parameters(), model.parameters(), strict=True):
                    a.lerp_(w, 1 - follow(n))
            losses.append(keep(loss))
        return losses

    return training


WRONG = {
    "residual_block": [
        (_no_skip, "the skip is missing"),
        (_plain_scale, "1 + scale"),
        (_level_first, "after the second normalisation"),
        (_no_silu, "no SiLU at all"),
        (lambda block, x, emb: block.skip(x), "largest error"),
        (lambda block, x, emb: block.told(emb), "shape"),
        (_no_axes, "RuntimeError"),
    ],
    "training_loop": [
        (_loop(zero=False), "add up"),
        (_loop(levels=lambda c: c[:, None, None]), "(B, 1, 1, 1)"),
        (_loop(levels=lambda c: c.mean()), "own t"),
        (_loop(weigh=False), "weight is missing"),
        (_loop(total=True), "summed"),
        (_loop(back=False), "without a gradient"),
        (_loop(follow=lambda n: 1.0), "never moved"),
        (_loop(follow=lambda n: 0.0), "the model itself"),
        (_loop(follow=lambda n: 0.99), "no warm-up"),
        (_loop(follow=lambda n: 1 - min(0.99, (1 + n) / (10 + n))), "exchanged in the average"),
        (_loop(noise=lambda x0: torch.randn(1, *x0.shape[1:])), "same noise"),
        (_loop(batch=16), "16 pictures"),
        (_loop(places=lambda n, count, batch: torch.arange(batch)), "inside the loop"),
        (_loop(places=lambda n, count, batch: torch.randperm(batch)), "inside the loop"),
        (_loop(places=lambda n, count, batch: torch.zeros(batch).long()), "the same one"),
        (_loop(places=lambda n, count, batch: torch.tensor([n] * batch)), "the same one"),
        (
            _loop(places=lambda n, count, batch: torch.randint(5, (batch,)) + n),
            "many times",
        ),
        (
            _loop(places=lambda n, count, batch: (torch.arange(batch) + n * batch) % count),
            "side by side",
        ),
        (_loop(places=lambda n, count, batch: torch.randint(64, (batch,))), "ever used"),
        (_loop(keep=lambda loss: loss), "graphs"),
        (lambda model, average, optimiser, pictures, draw, steps: [0.0] * steps, "asked 0 times"),
        (3.0, "a function is expected"),
    ],
    "edm_scalings": [
        (
            lambda s, sd: (
                s**2 / (s**2 + sd**2),
                s * sd / (s**2 + sd**2) ** 0.5,
                (s**2 + sd**2) ** -0.5,
            ),
            "share of the noise",
        ),
        (
            lambda s, sd: (1 / (s**2 + 1), s / (s**2 + 1) ** 0.5, (s**2 + 1) ** -0.5),
            "taken as 1",
        ),
        (
            lambda s, sd: (
                sd**2 / (s**2 + sd**2),
                (s * sd) ** 2 / (s**2 + sd**2),
                (s**2 + sd**2) ** -0.5,
            ),
            "c_out squared",
        ),
        (lambda s, sd: sd**2 / (s**2 + sd**2), "shape"),
    ],
    "p2_on_v": [
        (lambda a, s, k, g: (k + (a / s) ** 2) ** -g, "weight on eps"),
        (lambda a, s, k, g: a**2 / (k + a / s) ** g, "its root"),
        (lambda a, s, k, g: s**-2 / (k + (a / s) ** 2) ** g, "|d x0|^2 / sigma^2"),
        (lambda a, s, k, g: 2 * a**2 / (k + (a / s) ** 2) ** g, "2 times"),
    ],
    "small_net": [
        ({"widths": (32, 64)}, "budget"),
        ({"widths": (16, 32)}, "asked for"),
        ({"widths": (16, 32), "emb": 1024}, "leave `emb`"),
        ((16, 48), "as a dict"),
        ({"width": (16, 48)}, "did you mean 'widths'"),
    ],
}
