"""Public architectures rebuilt on torch.nn alone, as their authors would write them; n times as wide."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LENGTHS = torch.tensor([9, 4, 12, 1])


class Tagger(nn.Module):
    """Words and characters into a BiLSTM, a score for every tag (Lample et al. 2016, without the CRF)."""

    def __init__(self, n: int = 1) -> None:
        super().__init__()
        self.words, self.letters = nn.Embedding(50, 12), nn.Embedding(20, 6)
        self.spelling = nn.LSTM(6, 8 * n, bidirectional=True, batch_first=True)
        self.context = nn.LSTM(12 + 16 * n, 16 * n, num_layers=2, bidirectional=True, dropout=0.3)
        self.tags = nn.Linear(32 * n, 7)

    def forward(self, words: Tensor, letters: Tensor, lengths: Tensor) -> Tensor:
        steps, batch, length = letters.shape
        _, (last, _) = self.spelling(self.letters(letters.view(-1, length)))
        spelled = last.transpose(0, 1).reshape(steps, batch, -1)
        u = torch.cat([self.words(words), spelled], -1)
        packed = pack_padded_sequence(u, lengths, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.context(packed)[0], total_length=steps)
        return self.tags(read)

    @staticmethod
    def example() -> tuple[Tensor, ...]:
        return torch.randint(0, 50, (12, 4)), torch.randint(0, 20, (12, 4, 5)), LENGTHS


class Enhancer(nn.Module):
    """A mask for every band of a noisy spectrum from three GRUs (RNNoise, Valin 2018)."""

    def __init__(self, n: int = 1) -> None:
        super().__init__()
        self.dense = nn.Linear(22, 16 * n)
        self.voice = nn.GRU(16 * n, 16 * n, batch_first=True)
        self.noise = nn.GRU(32 * n + 22, 24 * n, batch_first=True)
        self.clean = nn.GRU(40 * n + 22, 32 * n, batch_first=True)
        self.mask = nn.Linear(32 * n, 22)

    def forward(self, bands: Tensor) -> Tensor:
        seen = torch.tanh(self.dense(bands))
        voice, _ = self.voice(seen)
        noise, _ = self.noise(torch.cat([seen, voice, bands], -1))
        clean, _ = self.clean(torch.cat([voice, noise, bands], -1))
        return bands * torch.sigmoid(self.mask(clean))

    @staticmethod
    def example() -> tuple[Tensor, ...]:
        return (torch.randn(4, 30, 22),)


class Translator(nn.Module):
    """A bidirectional reader, a decoder cell, additive attention (Bahdanau et al. 2015)."""

    def __init__(self, n: int = 1) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(30, 10), nn.Embedding(25, 10)
        self.reader = nn.GRU(10, 12 * n, bidirectional=True)
        self.start, self.writer = nn.Linear(12 * n, 16 * n), nn.GRUCell(10 + 24 * n, 16 * n)
        self.keys, self.query, self.score = nn.Linear(24 * n, 8), nn.Linear(16 * n, 8), nn.Linear(8, 1)
        self.words = nn.Linear(40 * n, 25)

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.source(source), lengths, enforce_sorted=False)
        read, last = self.reader(packed)
        read, _ = pad_packed_sequence(read, total_length=len(source))
        padding = torch.arange(len(source))[:, None] >= lengths
        h, found = torch.tanh(self.start(last[1])), []
        for word in self.target(target):
            scores = self.score(torch.tanh(self.keys(read) + self.query(h)))[..., 0]
            weights = scores.masked_fill(padding, float("-inf")).softmax(0)
            context = (weights[..., None] * read).sum(0)
            h = self.writer(torch.cat([word, context], -1), h)
            found.append(self.words(torch.cat([h, context], -1)))
        return torch.stack(found)

    @staticmethod
    def example() -> tuple[Tensor, ...]:
        return torch.randint(0, 30, (12, 4)), torch.randint(0, 25, (6, 4)), LENGTHS


class Forecaster(nn.Module):
    """Mean and spread of the next value of a series, drawn on for a horizon (DeepAR, Salinas et al. 2020)."""

    def __init__(self, n: int = 1) -> None:
        super().__init__()
        self.series = nn.Embedding(5, 4)
        self.lstm = nn.LSTM(1 + 3 + 4, 20 * n, num_layers=3, dropout=0.1)
        self.mean, self.spread = nn.Linear(60 * n, 1), nn.Linear(60 * n, 1)

    def forward(self, values: Tensor, covariates: Tensor, series: Tensor) -> Tensor:
        steps, state, found = len(values), None, []
        kind = self.series(series)
        value = values[0]
        for t in range(len(covariates)):
            value = values[t] if t < steps else found[-1][..., :1]
            u = torch.cat([value, covariates[t], kind], -1)[None]
            _, state = self.lstm(u, state)
            flat = state[0].permute(1, 2, 0).reshape(len(series), -1)
            found.append(torch.cat([self.mean(flat), nn.functional.softplus(self.spread(flat))], -1))
        return torch.stack(found)

    @staticmethod
    def example() -> tuple[Tensor, ...]:
        return torch.randn(8, 4, 1), torch.randn(12, 4, 3), torch.tensor([0, 4, 2, 2])


class Classifier(nn.Module):
    """Two tanh layers over a sequence, the last state read (Elman 1990)."""

    def __init__(self, n: int = 1) -> None:
        super().__init__()
        self.network = nn.RNN(5, 14 * n, num_layers=2, batch_first=True)
        self.read = nn.Linear(14 * n, 3)

    def forward(self, us: Tensor) -> Tensor:
        return self.read(self.network(us)[1][-1])

    @staticmethod
    def example() -> tuple[Tensor, ...]:
        return (torch.randn(4, 11, 5),)


MODELS = (Tagger, Enhancer, Translator, Forecaster, Classifier)
