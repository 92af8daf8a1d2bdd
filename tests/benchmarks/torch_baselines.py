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


class Layer(nn.Module):
    """Of a crossmodal transformer: norms before, residual connections behind them, as in MulT's equations."""

    def __init__(self, width, heads, dropout, crossmodal):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.source_norm = nn.LayerNorm(width) if crossmodal else None
        self.query, self.key_value, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, source, mask):
        x = self.norm(x)
        source = x if self.source_norm is None else self.source_norm(source)
        q, (k, v) = self.query(x), self.key_value(source).chunk(2, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = self.mlp_norm(functional.dropout(self.out(found.transpose(1, 2).flatten(2)), self.dropout) + x)
        return functional.dropout(self.mlp_out(functional.relu(self.mlp_in(x))), self.dropout) + x


class MulT(nn.Module):
    """x: Float[batch, time, feat] by modality, mask: Bool[batch, time] by modality -> logits."""

    def __init__(self, widths, width, heads, layers, kernel, dropout, outputs):
        super().__init__()
        self.dropout, names = dropout, list(widths)
        self.convolutions = nn.ModuleDict(
            {m: nn.Conv1d(feat, width, kernel, padding=kernel // 2) for m, feat in widths.items()}
        )

        def transformer(size, crossmodal):
            return nn.ModuleList([Layer(size, heads, dropout, crossmodal) for _ in range(layers)])

        self.crossmodal = nn.ModuleDict(
            {a: nn.ModuleDict({b: transformer(width, True) for b in names if b != a}) for a in names}
        )
        heard = width * (len(names) - 1)
        self.own = nn.ModuleDict({m: transformer(heard, False) for m in names})
        joined = heard * len(names)
        self.hidden, self.mix, self.out = (
            nn.Linear(joined, joined),
            nn.Linear(joined, joined),
            nn.Linear(joined, outputs),
        )

    def forward(self, x, mask):
        start = {}
        for m, y in x.items():
            y = self.convolutions[m](y.transpose(1, 2)).transpose(1, 2)
            width = y.shape[-1]
            angle = torch.arange(y.shape[1])[:, None] / 10000 ** (torch.arange(0, width, 2)[None] / width)
            start[m] = y + torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        ends = []
        for a, sources in self.crossmodal.items():
            heard = []
            for b, layers in sources.items():
                y = start[a]
                for layer in layers:
                    y = layer(y, start[b], mask[b])
                heard.append(y)
            y = torch.cat(heard, -1)
            for layer in self.own[a]:
                y = layer(y, y, mask[a])
            last = mask[a].sum(1).sub(1).clamp(min=0)
            ends.append(y[torch.arange(len(y)), last])
        joined = torch.cat(ends, -1)
        hidden = functional.dropout(functional.relu(self.hidden(joined)), self.dropout)
        return self.out(functional.dropout(joined + self.mix(hidden), self.dropout))
