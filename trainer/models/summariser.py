"""From a text to a shorter one: a bidirectional LSTM reads it, an LSTM with attention writes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iolaus.trainer.sampled_softmax import SampledSoftmax

__all__ = ["END", "PAD", "START", "UNKNOWN", "BidirectionalLSTM", "Summariser"]

# Words that every vocabulary begins with.
PAD, UNKNOWN, START, END = range(4)


class BidirectionalLSTM(nn.Module):
    """One layer of LSTM that reads each text from its first word on, and another from its last.

    Direction 0 is forwards; weight_ih [2, n_inputs, 4 n_hidden], weight_hh [2, n_hidden,
    4 n_hidden], bias [2, 1, 4 n_hidden], with blocks for input gate, forget gate, candidate, output
    gate. Both directions are one product per word, and written out, since torch's fused recurrences
    cannot be stacked by vmap. Weights begin evenly in +-0.1, biases at 0, those of the forget gate
    at 1, as in TensorFlow's LSTMCell.
    """

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(2, n_inputs, 4 * n_hidden).uniform_(-0.1, 0.1))
        self.weight_hh = nn.Parameter(torch.empty(2, n_hidden, 4 * n_hidden).uniform_(-0.1, 0.1))
        self.bias = nn.Parameter(_forget_bias(n_hidden).repeat(2, 1, 1))

    def forward(self, inputs: Tensor, is_word: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(h of both directions side by side at each word, last h and last cell of direction 0).

        inputs: [length, n_examples, n_inputs]. is_word: bool [length, n_examples, 1]; where it is
        False, behind the end of a shorter text, the h given is 0 and the state stays what it was.
        Returns [length, n_examples, 2 n_hidden] and twice [n_examples, n_hidden].
        """
        length, n_examples, _ = inputs.shape
        both = torch.stack([inputs, inputs.flip(0)])
        there = torch.stack([is_word, is_word.flip(0)]).to(inputs.dtype).unbind(1)
        from_inputs = both.reshape(2, length * n_examples, -1) @ self.weight_ih + self.bias
        steps = from_inputs.reshape(2, length, n_examples, -1).unbind(1)
        hidden = cell = inputs.new_zeros(())
        outputs: list[Tensor] = []
        for step, own in zip(steps, there, strict=True):
            gates = step + hidden @ self.weight_hh if outputs else step
            new_hidden, new_cell = _lstm(gates, cell)
            hidden = hidden + own * (new_hidden - hidden)
            cell = cell + own * (new_cell - cell)
            outputs.append(own * new_hidden)
        of_both = torch.stack(outputs, 1)
        return torch.cat([of_both[0], of_both[1].flip(0)], -1), hidden[0], cell[0]


class Summariser(nn.Module):
    """Embedding, n_layers of `BidirectionalLSTM`, and one LSTM that attends to the last of them.

    The writer begins with the state in which direction 0 of the last layer ends. Before each word
    it sees the word before and what it last attended to, and after each it looks again: over the
    words of the text, padding left out, `softmax(v tanh(K e + Q state))` with e the reader's h.
    n_symbols: size of the vocabulary, words by falling frequency behind `PAD`, `UNKNOWN`, `START`
    and `END`. n_sampled: of them, drawn for the loss in training (`SampledSoftmax`); 0 for all.
    n_written: words in a summary, `END` included. embedding_std: of the first embeddings and output
    weights. Sources: Bahdanau et al., arXiv 1409.0473; Nallapati et al., arXiv 1602.06023;
    TensorFlow's TextSum (seq2seq_attention_model.py), but that its attention sees the padding too.
    """

    def __init__(
        self,
        n_symbols: int,
        n_written: int,
        n_embedding: int = 128,
        n_hidden: int = 256,
        n_layers: int = 4,
        n_sampled: int = 4096,
        embedding_std: float = 1e-4,
    ) -> None:
        if n_layers < 1 or n_written < 1:
            raise ValueError(
                "model.n_layers and model.n_written must be from 1 up; "
                f"got {n_layers} and {n_written}"
            )
        super().__init__()
        self.n_written = n_written
        self.embedding = nn.Parameter(embedding_std * torch.randn(n_symbols, n_embedding))
        widths = [n_embedding] + [2 * n_hidden] * (n_layers - 1)
        self.reader = nn.ModuleList(BidirectionalLSTM(width, n_hidden) for width in widths)
        self.keys = nn.Linear(2 * n_hidden, 2 * n_hidden, bias=False)
        self.query = nn.Linear(2 * n_hidden, 2 * n_hidden)
        self.v = nn.Parameter(torch.empty(2 * n_hidden).uniform_(-0.1, 0.1))
        self.input = nn.Linear(n_embedding + 2 * n_hidden, n_embedding)
        self.writer = nn.Linear(n_embedding + n_hidden, 4 * n_hidden)
        self.output = nn.Linear(3 * n_hidden, n_hidden)
        self.words = SampledSoftmax(n_hidden, n_symbols, n_sampled, embedding_std)
        nn.init.uniform_(self.writer.weight, -0.1, 0.1)
        with torch.no_grad():
            self.writer.bias.copy_(_forget_bias(n_hidden)[0])

    def forward(
        self, texts: Tensor, summaries: Tensor | None = None, sampled: bool = False
    ) -> Tensor:
        """Without summaries what it writes, int64 [n_examples, n_written], the likeliest words.

        With summaries, int64 [n_examples, length], the loss at each of their words, given those
        before, [n_examples, length]; at padding it means nothing. texts: int64 [n_examples,
        length], padded behind their end. sampled: as of `SampledSoftmax`. What comes after a
        written `END` means nothing.
        """
        read, state = self._read(texts)
        if summaries is None:
            return self._written(read, state, len(texts))
        start = torch.full_like(summaries[:, :1], START)
        before = torch.cat([start, summaries[:, :-1]], 1)
        attended = torch.zeros_like(read[0][0])
        outputs = []
        for x in F.embedding(before.t(), self.embedding).unbind(0):
            out, attended, state = self._step(x, attended, state, read)
            outputs.append(out)
        losses: Tensor = self.words(torch.stack(outputs, 1), summaries, sampled)
        return losses

    def _read(self, texts: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(h at each word, their keys, what padding adds to a score), and the last state."""
        is_word = (texts != PAD).t()[..., None]
        states = F.embedding(texts.t(), self.embedding)
        hidden = cell = states
        for layer in self.reader:
            states, hidden, cell = layer(states, is_word)
        hides = torch.where(is_word[..., 0], 0.0, -1e9).to(states.dtype)
        return (states, self.keys(states), hides), (hidden, cell)

    def _step(
        self,
        x: Tensor,
        attended: Tensor,
        state: tuple[Tensor, Tensor],
        read: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """What is to become a word [n_examples, n_hidden], what was attended to, the state."""
        seen = self.input(torch.cat([x, attended], -1))
        hidden, cell = _lstm(self.writer(torch.cat([seen, state[0]], -1)), state[1])
        states, keys, hides = read
        scores = torch.tanh(keys + self.query(torch.cat([hidden, cell], -1))) @ self.v + hides
        attended = (torch.softmax(scores, 0)[..., None] * states).sum(0)
        return self.output(torch.cat([hidden, attended], -1)), attended, (hidden, cell)

    def _written(
        self,
        read: tuple[Tensor, Tensor, Tensor],
        state: tuple[Tensor, Tensor],
        n_examples: int,
    ) -> Tensor:
        attended = torch.zeros_like(read[0][0])
        word = torch.full((n_examples,), START, device=attended.device)
        words = []
        for _ in range(self.n_written):
            x = F.embedding(word, self.embedding)
            out, attended, state = self._step(x, attended, state, read)
            word = self.words.logits(out).argmax(-1)
            words.append(word)
        return torch.stack(words, 1)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """(h, cell) after one word."""
    write, keep, candidate, show = gates.chunk(4, -1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(candidate)
    return torch.sigmoid(show) * torch.tanh(cell), cell


def _forget_bias(n_hidden: int) -> Tensor:
    """[1, 4 n_hidden]."""
    bias = torch.zeros(1, 4 * n_hidden)
    bias[:, n_hidden : 2 * n_hidden] = 1.0
    return bias
