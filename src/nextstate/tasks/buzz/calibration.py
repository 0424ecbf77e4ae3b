"""Whether a stated probability means what it says, and the temperature that makes it so."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nextstate.checks import describe, refuse


class Temperature(NamedTuple):
    """A temperature that depends on how long a text is.

        T(n) = exp(constant + slope * log(1 + n / 10))          n = the number of words

    >>> Temperature(0.0, 0.0).of(torch.tensor([3.0, 500.0])).tolist()
    [1.0, 1.0]
    """

    constant: float = 0.0
    slope: float = 0.0

    def of(self, lengths: Tensor) -> Tensor:
        return torch.exp(self.constant + self.slope * torch.log1p(lengths / 10))


def fit_temperature(logits: Tensor, lengths: Tensor, labels: Tensor) -> Temperature:
    """The temperature of the least cross-entropy on held-back texts.

        the least of  mean cross-entropy + (constant^2 + 10 slope^2) / 2N + slope^2 / 1000

    The second term, a normal prior, keeps few texts from saying more than they can know: that all of them
    are right, say, does not make the next one certain. Beside thousands of texts it is next to nothing.

    Shapes: logits [N, C], lengths [N] in words, labels [N] integers. The labels it is fitted to must not be
    those that calibration is then measured on. Source: Guo et al. 2017 (arXiv 1706.04599).

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch...>
    >>> logits = torch.randn(2000, 3)
    >>> labels = torch.distributions.Categorical(logits=logits).sample()
    >>> fitted = fit_temperature(5 * logits, torch.full((2000,), 20.0), labels)
    >>> 4.5 < fitted.of(torch.tensor(20.0)) < 5.5
    tensor(True)
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or lengths.shape != labels.shape:
        refuse("fit_temperature", f"{describe(logits)}, {describe(lengths)}, {describe(labels)} do not match")
    if not len(labels):
        refuse("fit_temperature", "there are no texts to fit it to")
    wanted = torch.zeros(2, requires_grad=True)
    search = torch.optim.LBFGS([wanted], max_iter=100, line_search_fn="strong_wolfe")
    stretch = torch.log1p(lengths.float() / 10)

    def closure() -> Tensor:
        search.zero_grad()
        scaled = logits.float() / torch.exp(wanted[0] + wanted[1] * stretch).unsqueeze(-1)
        loss = F.cross_entropy(scaled, labels) + 1e-3 * wanted[1].square()
        loss = loss + (wanted[0].square() + 10 * wanted[1].square()) / (2 * len(labels))
        loss.backward()
        return loss

    search.step(closure)
    constant, slope = wanted.tolist()
    return Temperature(constant, slope)


class Mixture(NamedTuple):
    """How the logits of two models make the probabilities of one, as `fit_share` says. Shapes: bias [C]."""

    share: float
    bias: Tensor
    temperature: Temperature


def fit_share(
    logits: Tensor, others: Tensor, lengths: Tensor, labels: Tensor, *, biased: bool = False
) -> Mixture:
    """The share of a second model in the logits, and the temperature of both: least cross-entropy.

        p = softmax((logits + share others + bias) / T(n)),   share > 0

    The logarithm of the share has a normal prior, as the temperature has: where the texts say nothing of the
    share, it is 1. The bias is 0 unless `biased`, and then has such a prior too: it makes every class about
    as frequent as it is among the texts.
    Shapes and labels as in `fit_temperature`, others [N, C], bias [C].

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch...>
    >>> one, two, bias = torch.randn(4000, 2), torch.randn(4000, 2), torch.tensor([0.5, -0.5])
    >>> labels = torch.distributions.Categorical(logits=one + 2 * two + bias).sample()
    >>> found = fit_share(one, two, torch.full((4000,), 20.0), labels, biased=True)
    >>> 1.6 < found.share < 2.4, bool(0.8 < found.bias[0] - found.bias[1] < 1.2)
    (True, True)
    """
    lengths = lengths.float()
    wanted = torch.zeros(3 + logits.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([wanted], max_iter=100, line_search_fn="strong_wolfe")

    def mixed() -> Tensor:
        return logits.float() + wanted[0].exp() * others.float() + (wanted[3:] if biased else 0)

    def closure() -> Tensor:
        search.zero_grad()
        heat = torch.exp(wanted[1] + wanted[2] * torch.log1p(lengths / 10))
        loss = F.cross_entropy(mixed() / heat.unsqueeze(-1), labels)
        loss = loss + 1e-3 * (wanted[0].square() + wanted[2].square())
        prior = wanted[:2].square().sum() + 10 * wanted[2].square() + wanted[3:].square().sum()
        loss = loss + prior / (2 * len(labels))
        loss.backward()
        return loss

    search.step(closure)
    with torch.no_grad():
        heat = fit_temperature(mixed(), lengths, labels)
        return Mixture(float(wanted[0].exp()), wanted[3:].clone(), heat)


class Bin(NamedTuple):
    """Answers of about the same stated probability: how many, what they said, how many were right."""

    answers: int
    stated: float
    right: float


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> list[Bin]:
    """Answers sorted into `bins` equal ranges of the probability of the label given; empty ones left out.

    Shapes: probabilities [N, C], labels [N].

    >>> probabilities = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.0, 1.0]])
    >>> reliability(probabilities, torch.tensor([0, 1, 1]), bins=4)
    [Bin(answers=3, stated=0.8333333333333334, right=0.6666666666666666)]
    """
    stated, given = probabilities.double().max(-1)
    right = (given == labels).double()
    place = (stated * bins).long().clamp(max=bins - 1)
    found = []
    for number in range(bins):
        chosen = place == number
        if chosen.any():
            found.append(Bin(int(chosen.sum()), float(stated[chosen].mean()), float(right[chosen].mean())))
    return found


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: the mean over all answers of |share right - stated| of their bin.

        ECE = sum over bins b of  n_b / N  |right_b - stated_b|

    Source: Naeini et al. 2015; 15 equal bins as in Guo et al. 2017.

    >>> round(calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1])), 6)
    0.0
    >>> round(calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([1, 1, 1, 1])), 6)
    0.75
    """
    found = reliability(probabilities, labels, bins)
    total = sum(part.answers for part in found)
    return sum(part.answers * abs(part.right - part.stated) for part in found) / max(1, total)
