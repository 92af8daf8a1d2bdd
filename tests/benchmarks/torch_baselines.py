"""DialogueRNN and MulT as one would write them in PyTorch, for comparisons of speed: batches of padded dialogues or
sequences, a Python loop over the turns, `F.scaled_dot_product_attention`."""

import torch
from torch import nn
from torch.nn import functional


class DialogueRNN(nn.Module):
    """x: Float[turns, dialogues, dim], speaker: Long[turns, dialogues], real: Bool[turns, dialogues] -> logits."""

    def __init__(self, inputs, width, hidden, speakers, outputs, dropout):
        super().__init__()
        self.width, self.speakers, self.dropout = width, speakers, dropout
        for way in ("forward", "backward"):
            cells = {
                "dialogue": nn.GRUCell(inputs + width, width),
                "speaker": nn.GRUCell(inputs + width, width),
                "emotion": nn.GRUCell(width, width),
                "query": nn.Linear(inputs, width, bias=False),
            }
            setattr(self, f"{way}_cells", nn.ModuleDict(cells))
        self.query, self.last = nn.Linear(2 * width, 2 * width, bias=False), nn.Linear(2 * width, hidden)
        self.classifier = nn.Linear(hidden, outputs)

    def direction(self, cells, x, speaker):
        count = x.shape[1]
        g = e = x.new_zeros(count, self.width)
        q = x.new_zeros(count, self.speakers, self.width)
        rows, said, found = torch.arange(count), [], []
        query = cells["query"](x)
        for t in range(len(x)):
            who, own = speaker[t], q[rows, speaker[t]]
            if said:
                before = torch.stack(said)
                weight = (before * query[t]).sum(-1).softmax(0)
                context = (weight[..., None] * before).sum(0)
            else:
                context = torch.zeros_like(g)
            g = cells["dialogue"](torch.cat([x[t], own], -1), g)
            own = cells["speaker"](torch.cat([x[t], context], -1), own)
            e = cells["emotion"](own, e)
            q = q.index_put((rows, who), own)
            said.append(g)
            found.append(e)
        return torch.stack(found)

    def forward(self, x, speaker, real):
        at, lengths = torch.arange(len(x))[:, None], real.sum(0)[None]
        back = torch.where(at < lengths, lengths - 1 - at, at)  # every dialogue by itself the other way round

        def turned(x):
            return x.gather(0, back.reshape(*back.shape, *[1] * (x.ndim - 2)).expand_as(x))

        forward = self.direction(self.forward_cells, x, speaker)
        backward = turned(self.direction(self.backward_cells, turned(x), turned(speaker)))
        e = functional.dropout(torch.cat([forward, backward], -1), self.dropout).transpose(0, 1)
        score = (self.query(e) @ e.transpose(1, 2)).masked_fill(~real.T[:, None], -1e9)
        last = functional.dropout(functional.relu(self.last(score.softmax(-1) @ e)), self.dropout)
        return self.classifier(last).transpose(0, 1)
