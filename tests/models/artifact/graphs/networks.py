"""Twenty-one kinds of networks that people publish, written anew from their descriptions.

Each is as its author would write it: what it returns, in which order its axes are, where its state is made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SineLSTM(nn.Module):
    """The textbook's: an answer for every step, no state returned."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 12, batch_first=True)
        self.fc = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.fc(out)


class PriceLSTM(nn.Module):
    """Stock prices: zeros made in forward, two layers, the last step's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 10, 2, batch_first=True, dropout=0.2)
        self.fc = nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(2, x.size(0), 10)
        c0 = torch.zeros(2, x.size(0), 10)
        out, _ = self.lstm(x, (h0, c0))
        return self.fc(out[:, -1, :])


class GRUWithHead(nn.Module):
    """Sensors: a GRU and a head of three layers, the state given and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 8, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        out, hidden = self.gru(x, hidden)
        return self.head(out), hidden


class GRUClassifier(nn.Module):
    """Gestures: probabilities of the sequence so far, from the last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, 2, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, hidden = self.gru(x)
        return torch.softmax(self.fc(hidden[-1]), dim=-1)


class WordLanguageModel(nn.Module):
    """Words: embedding, LSTM, decoder; time first, the state a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(30, 8)
        self.rnn = nn.LSTM(8, 8, 2, dropout=0.2)
        self.decoder = nn.Linear(8, 30)

    def forward(self, tokens: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, hidden = self.rnn(self.drop(self.encoder(tokens)), hidden)
        return torch.log_softmax(self.decoder(self.drop(out)), dim=-1), hidden


class NameRNN(nn.Module):
    """Names by nationality: a cell of linear layers over the input and the state, one letter a call."""

    def __init__(self) -> None:
        super().__init__()
        self.to_hidden = nn.Linear(7 + 9, 9)
        self.to_output = nn.Linear(9, 4)

    def forward(self, letter: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.to_hidden(torch.cat((letter, hidden), 1)))
        return torch.log_softmax(self.to_output(hidden), dim=1), hidden


class ElmanRNN(nn.Module):
    """The vanilla network with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 6, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, hidden = self.rnn(x)
        return self.out(out), hidden


class RecurrentQNetwork(nn.Module):
    """A player's eyes and memory: convolutions over each frame, an LSTM, advantage and value."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.lstm = nn.LSTM(36, 8, batch_first=True)
        self.advantage, self.value = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, frames: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, steps = frames.shape[:2]
        seen = self.eyes(frames.reshape(batch * steps, *frames.shape[2:])).reshape(batch, steps, -1)
        out, state = self.lstm(seen, state)
        advantage = self.advantage(out)
        return self.value(out) + advantage - advantage.mean(-1, keepdim=True), state


class RecurrentActorCritic(nn.Module):
    """A policy: two inputs, of which one ends an episode, and two answers; one step a call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 8)
        self.cell = nn.GRUCell(8, 8)
        self.actor, self.critic = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, seen: Tensor, alive: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.cell(torch.relu(self.body(seen)), hidden * alive)
        return self.actor(hidden), self.critic(hidden), hidden


class DeepForecaster(nn.Module):
    """Probabilistic forecasts: the series' number embedded, mean and spread answered."""

    def __init__(self) -> None:
        super().__init__()
        self.series = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(1 + 4, 8, 2, batch_first=True)
        self.mean, self.spread = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, value: Tensor, series: Tensor) -> tuple[Tensor, Tensor]:
        out, _ = self.lstm(torch.cat([value, self.series(series)], dim=-1))
        return self.mean(out), nn.functional.softplus(self.spread(out))


class NoiseSuppressor(nn.Module):
    """A mask for every frequency: dense, two GRUs, dense."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(17, 12)
        self.first, self.second = nn.GRU(12, 12, batch_first=True), nn.GRU(12, 12, batch_first=True)
        self.after = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 17), nn.Sigmoid())

    def forward(self, spectrum: Tensor) -> Tensor:
        x = torch.relu(self.before(spectrum))
        x, _ = self.first(x)
        x, _ = self.second(x)
        return self.after(x)


class GainsAndVoice(nn.Module):
    """Noise reduction with three GRUs that see each other's outputs; band gains and a voice probability."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(14, 6)
        self.voice_gru = nn.GRU(6, 6, batch_first=True)
        self.noise_gru = nn.GRU(6 + 6 + 14, 8, batch_first=True)
        self.gain_gru = nn.GRU(8 + 6 + 14, 8, batch_first=True)
        self.voice, self.gains = nn.Linear(6, 1), nn.Linear(8, 7)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        dense = torch.tanh(self.dense(features))
        voice, _ = self.voice_gru(dense)
        noise, _ = self.noise_gru(torch.cat([dense, voice, features], -1))
        gains, _ = self.gain_gru(torch.cat([voice, noise, features], -1))
        return torch.sigmoid(self.gains(gains)), torch.sigmoid(self.voice(voice))


class ResidualLSTM(nn.Module):
    """Layer norm before, a residual behind, each layer with its own LSTM; initial states are learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(6) for _ in range(2)])
        self.layers = nn.ModuleList([nn.LSTM(6, 6, batch_first=True) for _ in range(2)])
        self.h0 = nn.Parameter(torch.linspace(-1, 1, 6).reshape(1, 1, 6))
        self.c0 = nn.Parameter(torch.linspace(0, 2, 6).reshape(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        start = (
            self.h0.expand(-1, x.shape[0], -1).contiguous(),
            self.c0.expand(-1, x.shape[0], -1).contiguous(),
        )
        for norm, layer in zip(self.norms, self.layers, strict=True):
            out, _ = layer(norm(x), start)
            x = x + out
        return x


class CausalConvolution(nn.Module):
    """A dilated convolution over time whose past is a cache; channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, dilation=2)
        self.mix = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([cache, x], dim=2)
        return self.mix(torch.relu(self.conv(x))), x[:, :, -4:]


class SequentialMemory(nn.Module):
    """A feed-forward network with a memory of the steps before, as in small voice detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.affine, self.out = nn.Linear(10, 8), nn.Linear(8, 3)
        self.memory = nn.Conv2d(8, 8, (5, 1), groups=8, bias=False)

    def forward(self, feats: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.affine(feats))
        stacked = torch.cat([cache, x.transpose(1, 2).unsqueeze(-1)], dim=2)
        x = x + self.memory(stacked).squeeze(-1).transpose(1, 2)
        return torch.softmax(self.out(x), dim=-1), stacked[:, :, -4:, :]


class StateSpaceStep(nn.Module):
    """A diagonal state-space model, one step a call: real and imaginary part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.rate, self.angle = nn.Parameter(torch.rand(4, 6) * 0.3 + 0.6), nn.Parameter(torch.rand(4, 6))
        self.into, self.out = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4, 12))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        real, imaginary = state
        cos, sin = self.rate * torch.cos(self.angle), self.rate * torch.sin(self.angle)
        driven = x.unsqueeze(-1) * self.into
        real, imaginary = cos * real - sin * imaginary + driven, sin * real + cos * imaginary
        return (torch.cat([real, imaginary], -1) * self.out).sum(-1), (real, imaginary)


class SimpleRecurrentUnit(nn.Module):
    """A unit whose state is only multiplied by gates of the input, two layers, one step a call."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList([nn.Linear(6, 18) for _ in range(2)])

    def forward(self, x: Tensor, cells: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        after = []
        for gate, cell in zip(self.gates, cells, strict=True):
            value, forget, highway = gate(x).chunk(3, dim=-1)
            forget, highway = torch.sigmoid(forget), torch.sigmoid(highway)
            cell = forget * cell + (1 - forget) * value
            x = highway * torch.tanh(cell) + (1 - highway) * x
            after.append(cell)
        return x, after


class DecoderGRU(nn.Module):
    """The decoder of a translator: a token in, the odds of the next token out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, 13)

    def forward(self, token: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        out, hidden = self.gru(torch.relu(self.embedding(token)), hidden)
        return torch.log_softmax(self.out(out), dim=-1), hidden


class SineCells(nn.Module):
    """Waves by two cells in a loop over the steps, whose states are made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm1, self.lstm2 = nn.LSTMCell(1, 9), nn.LSTMCell(9, 9)
        self.linear = nn.Linear(9, 1)

    def forward(self, wave: Tensor) -> Tensor:
        h1 = c1 = h2 = c2 = torch.zeros(wave.size(0), 9)
        outputs = []
        for value in wave.split(1, dim=1):
            h1, c1 = self.lstm1(value, (h1, c1))
            h2, c2 = self.lstm2(h1, (h2, c2))
            outputs.append(self.linear(h2))
        return torch.cat(outputs, dim=1)


class WindowAttention(nn.Module):
    """An LSTM over a window of steps, and attention over its outputs: an answer for each window."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True)
        self.score = nn.Linear(8, 1)
        self.fc = nn.Linear(8, 1)

    def forward(self, window: Tensor) -> Tensor:
        out, _ = self.lstm(window)
        weights = torch.softmax(self.score(out), dim=1)
        return self.fc((weights * out).sum(1))


class BiLSTMTagger(nn.Module):
    """Reads a whole sentence in both directions: no stream can be served with it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 6, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.lstm(self.embedding(tokens))
        return self.tags(out)
