"""DeepMSI-MER as its official code computes it, in PyTorch, written from the formulas; the parts are called as ours are. What
torch does unasked (initial values, BatchNorm, how Adam treats a parameter without a gradient) is torch's own here."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

DEPTHS, SIDES = (2, 2, 6, 2), (14, 12, 10)  # blocks of each stage; what VSC leaves in the third


def cut(x, w):
    """[n, side, side, d] -> [n * windows, w * w, d]"""
    n, side, _, d = x.shape
    return x.view(n, side // w, w, side // w, w, d).transpose(2, 3).reshape(-1, w * w, d)


def joined(x, w, side):
    n = side // w
    return x.view(-1, n, n, w, w, x.shape[-1]).transpose(2, 3).reshape(-1, side, side, x.shape[-1])


def shift_mask(side, w, shift):
    """What is added to the scores of a grid's windows: -100 for pairs of which one has come round the grid's edge."""
    at = torch.arange(side)
    part = (at >= side - w).long() + (at >= side - shift).long()
    region = cut((3 * part[:, None] + part[None])[None, :, :, None], w)[..., 0]
    return torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)


def compressed(x, guide, keep):
    """VSC: the tokens as they are that are most like mean + guide, the likest first."""
    centre = F.normalize(x.mean(1) + guide, dim=-1)
    score = torch.softmax((F.normalize(x, dim=-1) @ centre[:, :, None])[..., 0], dim=-1)
    place = score.topk(keep, dim=1).indices
    return torch.gather(x, 1, place[..., None].expand(-1, -1, x.shape[-1]))


class Attention(nn.Module):
    def __init__(self, width, heads, w):
        super().__init__()
        self.heads, self.w = heads, w
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(10)))
        self.bias_in, self.bias_out = nn.Linear(2, 512), nn.Linear(512, heads, bias=False)

    def forward(self, x, mask):
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scale = self.log_scale.clamp(max=math.log(100)).exp()[:, None, None]
        score = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * scale
        at = torch.cartesian_prod(*[torch.arange(self.w, dtype=self.log_scale.dtype, device=x.device)] * 2)
        apart = (at[:, None] - at[None]) / (self.w - 1) * self.w
        apart = torch.sign(apart) * torch.log2(apart.abs() + 1) / math.log2(8)
        score = score + 16 * torch.sigmoid(self.bias_out(F.relu(self.bias_in(apart)))).permute(2, 0, 1)
        if mask is not None:
            score = (score.unflatten(0, (-1, len(mask))) + mask[:, None].to(score)).flatten(0, 1)
        return self.out((score.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """side, w: of the grid and of its windows. keep: the side of the grid that VSC leaves, 0 = no VSC. own_mask: whether every
    window is masked as if it were the whole grid, as in the third stage."""

    def __init__(self, width, heads, side, w, shift, keep=0, own_mask=False):
        super().__init__()
        self.w, self.shift, self.keep = w, shift, keep
        self.mask = None
        if shift:
            self.mask = (
                shift_mask(w, w, shift).repeat((side // w) ** 2, 1, 1) if own_mask else shift_mask(side, w, shift)
            )
        self.attention, self.attention_norm = Attention(width, heads, w), nn.LayerNorm(width)
        self.mlp_in, self.mlp_out, self.mlp_norm = (
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
            nn.LayerNorm(width),
        )
        if keep:
            self.compression_norm = nn.LayerNorm(width)

    def forward(self, x, guide):
        side, s = x.shape[1], self.shift
        a = joined(self.attention(cut(torch.roll(x, (-s, -s), (1, 2)), self.w), self.mask), self.w, side)
        a = torch.roll(a, (s, s), (1, 2))
        x = (a if self.keep else x) + self.attention_norm(a)
        if self.keep:
            x = compressed(x.flatten(1, 2), guide, self.keep**2).unflatten(1, (self.keep, self.keep))
            x = self.compression_norm(x)
        return x + self.mlp_norm(self.mlp_out(F.gelu(self.mlp_in(x))))


def official_blocks():
    """(stage, side of the grid, window, shift, side that VSC leaves) of the twelve, for 256 pixels."""
    found, side = [], 64
    for stage, depth in enumerate(DEPTHS):
        for j in range(depth):
            w = {16: 8, 14: 7, 12: 6, 10: 5, 5: 5}.get(side, 8)
            keep = SIDES[j // 2] if stage == 2 and j % 2 == 0 else 0
            found.append((stage, side, w, 4 * (j % 2) * (side > w), keep))
            side = keep or side
        side //= 2
    return found


class Merge(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        return self.reduce(self.norm(torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)))


class Backbone(nn.Module):
    """width, heads: of the first stage. skip: so many stages are left out at the beginning, so that a quarter of the pixels, or a
    sixteenth, makes the third stage's grid."""

    def __init__(self, width, heads, skip=0):
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleList() for _ in DEPTHS[skip:])
        for stage, side, w, shift, keep in official_blocks():
            if (i := stage - skip) >= 0:
                block = Block(width * 2**i, heads * 2**i, side, w, shift, keep, own_mask=stage == 2)
                self.stages[i].append(block)
        self.merges = nn.ModuleList(Merge(width * 2**i) for i in range(3 - skip))
        self.embed_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width * 2 ** (3 - skip))
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        self.embed = nn.Conv2d(3, width, 4, 4)

    def forward(self, images, guide):
        """[n, 256, 256, 3] -> [n, 8 * width], without skipped stages"""
        x = self.embed_norm(self.embed(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        for i, blocks in enumerate(self.stages):
            for block in blocks:
                x = block(x, guide)
            x = self.merges[i](x) if i < len(self.merges) else x
        return self.norm(x).mean((1, 2))


class TemporalBlock(nn.Module):
    def __init__(self, inputs, outputs, dilation):
        super().__init__()
        self.back = 2 * dilation
        # Kaiming values that the official code draws go to a copy of the weight: weight norm holds other arrays.
        self.first = weight_norm(nn.Conv1d(inputs, outputs, 3, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(outputs, outputs, 3, dilation=dilation))
        if inputs != outputs:
            self.shortcut = nn.Conv1d(inputs, outputs, 1)
            nn.init.normal_(self.shortcut.weight, 0, 0.01)

    def forward(self, x):
        y = F.relu(self.second(F.pad(F.relu(self.first(F.pad(x, (self.back, 0)))), (self.back, 0))))
        return F.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class TCN(nn.Module):
    def __init__(self, inputs, widths):
        super().__init__()
        sizes = zip((inputs, *widths), widths, strict=False)
        self.blocks = nn.ModuleList(TemporalBlock(a, b, 2**i) for i, (a, b) in enumerate(sizes))

    def forward(self, x):
        """[batch, time, feat] -> the last step"""
        x = x.mT
        for block in self.blocks:
            x = block(x)
        return x[..., -1]


class Fused(nn.Module):
    """Dense, BatchNorm, LeakyReLU; dropout is left out."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.dense, self.norm = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)

    def forward(self, x):
        return F.leaky_relu(self.norm(self.dense(x)), 0.01)


class Early(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.hidden, self.out = Fused(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.out(self.hidden(x))


class Head(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.project, self.mix, self.norm = (
            nn.Linear(inputs, outputs),
            nn.Linear(outputs, outputs),
            nn.LayerNorm(outputs),
        )

    def forward(self, x):
        p = self.project(x)
        return self.norm(p + self.mix(F.gelu(p)))


class DeepMSI(nn.Module):
    def __init__(self, widths, width, heads, early, tcn, projection, late, classes, skip=0):
        """widths: of text and audio; width, heads, skip: see `Backbone`."""
        super().__init__()
        self.early = Early(sum(widths), early, width * 2 ** (2 - skip))
        self.backbone, self.tcn = Backbone(width, heads, skip), TCN(width * 2 ** (3 - skip), tcn)
        sizes = {"visual": tcn[-1], "text": widths[0], "audio": widths[1]}
        self.heads = nn.ModuleDict({m: Head(size, projection) for m, size in sizes.items()})
        steps = zip((3 * projection, *late), late, strict=False)
        self.late = nn.ModuleList(Fused(a, b) for a, b in steps)
        self.classifier = nn.Linear(late[-1], classes)

    def forward(self, text, audio, frames):
        """frames: [batch, time, 256, 256, 3] without skipped stages. Logits and projections."""
        guide = self.early(torch.cat([text, audio], -1))
        seen = torch.stack([self.backbone(frames[:, t], guide) for t in range(frames.shape[1])], 1)
        found = {"visual": self.tcn(seen), "text": text, "audio": audio}
        found = {m: self.heads[m](x) for m, x in found.items()}
        x = torch.cat(list(found.values()), -1)
        for block in self.late:
            x = block(x)
        return self.classifier(x), found


def loss(logits, projections, label):
    """Cross entropy and half of the contrastive loss, which is the mean of video-text and video-audio, sample by sample."""
    unit = {m: F.normalize(p, dim=-1) for m, p in projections.items()}
    total = F.cross_entropy(logits, label)
    for other in ("text", "audio"):
        s = unit["visual"] @ unit[other].T / 0.5
        each = []
        for i in range(len(label)):
            below = sum(s[i, k].exp() for k in range(len(label)) if label[k] != label[i])
            same = [j for j in range(len(label)) if j != i and label[j] == label[i]]
            terms = [-torch.log(s[i, j].exp() / (s[i, j].exp() + below)) for j in same]
            each.append(sum(terms) / (len(label) - 1))
        total = total + 0.5 * 0.5 * sum(each) / len(label)
    return total


def as_ours(named):
    """{torch's name: tensor}, of parameters, their gradients or buffers -> {our path: float64 array}"""
    found = {}
    for name, value in named.items():
        *path, kind = name.split(".")
        if kind == "num_batches_tracked":
            continue
        if "parametrizations" in path:  # of weight norm: a torch kernel's last tap is the present
            path, kind = path[: path.index("parametrizations")], "magnitude" if kind == "original0" else "direction"
            value = value.flatten() if kind == "magnitude" else value.permute(2, 1, 0).flip(0)
        elif kind == "weight":
            kind = "scale" if value.ndim == 1 else "kernel"
            value = {1: lambda x: x, 2: lambda x: x.T, 3: lambda x: x[..., 0].T, 4: lambda x: x.permute(2, 3, 1, 0)}[
                value.ndim
            ](value)
        kind = {"running_mean": "mean", "running_var": "var"}.get(kind, kind)
        found["/".join((*path, kind))] = value.detach().double().numpy()
    return found
