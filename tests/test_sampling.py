"""How the next token is drawn from logits."""

from __future__ import annotations

import pytest
import torch

from nextstate import InputError
from nextstate.networks import Sampling


class TestSampling:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, -torch.inf]])

    def test_what_is_left_is_scaled(self):
        q = self.logits.softmax(-1)[0]
        for sampling, kept in (
            (Sampling(), [0, 1, 2, 3]),
            (Sampling(top_k=2), [1, 3]),
            (Sampling(top_k=9), [0, 1, 2, 3]),
            (Sampling(top_p=0.5), [1]),
            (Sampling(top_p=float(q[1]) + 0.01), [1, 3]),
            (Sampling(top_k=3, top_p=1.0), [1, 2, 3]),
        ):
            wanted = torch.zeros(5)
            wanted[kept] = q[kept] / q[kept].sum()
            torch.testing.assert_close(sampling.probabilities(self.logits)[0], wanted)

    def test_temperature_is_a_power(self):
        q = self.logits.softmax(-1)[0]
        cold = Sampling(temperature=0.5).probabilities(self.logits)[0]
        torch.testing.assert_close(cold, q**2 / (q**2).sum())
        for temperature in (1e-20, 1e-45, 1e-300):
            assert Sampling(temperature).probabilities(1e9 * self.logits).tolist() == [[0, 1, 0, 0, 0]]

    @pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}])
    def test_refusals(self, bad):
        with pytest.raises(InputError, match=next(iter(bad))):
            Sampling(**bad)
