"""The formulas in float64 NumPy, written from the papers and not from our code."""

import numpy as np


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(p, x):
    y = x @ np.asarray(p["kernel"], np.float64)
    return y + np.asarray(p["bias"], np.float64) if "bias" in p else y


def layer_norm(p, x, epsilon=1e-6):
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return unit * np.asarray(p["scale"], np.float64) + np.asarray(p["bias"], np.float64)


def gelu(x):
    """The tanh approximation, which is flax's default."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention_one(query, memory_key, memory_value, heads):
    """One sample, no padding: query [q, d], memory [t, d]; heads are consecutive slices of d."""
    out = np.zeros((len(query), query.shape[1]))
    size = query.shape[1] // heads
    for h in range(heads):
        s = slice(h * size, (h + 1) * size)
        for i in range(len(query)):
            score = np.array([query[i, s] @ k[s] for k in memory_key]) / np.sqrt(size)
            weight = softmax(score)
            out[i, s] = sum(w * v[s] for w, v in zip(weight, memory_value, strict=True))
    return out


def multi_head_attention(p, query, memory, heads):
    mixed = attention_one(linear(p["query"], query), linear(p["key"], memory), linear(p["value"], memory), heads)
    return linear(p["out"], mixed)


def transformer_layer(p, x, heads):
    y = layer_norm(p["attention_norm"], x)
    x = x + multi_head_attention(p["attention"], y, y, heads)
    return x + linear(p["mlp_out"], gelu(linear(p["mlp_in"], layer_norm(p["mlp_norm"], x))))


def gru(inputs, recurrent, x, reverse):
    """One direction over one sample; gates in the order reset, update, new."""
    half = np.asarray(recurrent["kernel"]).shape[0]
    state, out = np.zeros(half), np.zeros((len(x), half))
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        a, b = linear(inputs, x[t]), linear(recurrent, state)
        reset, update = sigmoid(a[:half] + b[:half]), sigmoid(a[half : 2 * half] + b[half : 2 * half])
        new = np.tanh(a[2 * half :] + reset * b[2 * half :])
        state = update * state + (1 - update) * new
        out[t] = state
    return out


def encoder(p, x, kind, heads):
    if kind == "transformer":
        return transformer_layer(p, x, heads)
    both = [gru(p["inputs"][str(i)], p["recurrent"][str(i)], x, reverse=bool(i)) for i in (0, 1)]
    return np.concatenate(both, axis=-1)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def lsgmer(
    p,
    sample,
    *,
    heads,
    encoder_kind="transformer",
    lse=True,
    gate=True,
    reduce="mean",
    fusion="concat",
    temperature=0.1,
):
    """LSGMER on one sample {modality: [time, feat]}; returns (logits, cosines to the labels)."""
    labels = np.asarray(p["labels"], np.float64)
    rows = []
    for m, x in sample.items():
        q = p["branches"][m]
        base = layer_norm(q["norm"], linear(q["project"], np.asarray(x, np.float64)))
        h0, h1 = base.mean(0), encoder(q["encoder"], base, encoder_kind, heads)
        if not lse:
            rows.append(h1.mean(0)[None])
            continue
        h2 = multi_head_attention(q["lse"], labels, h1, heads)
        h = (sigmoid(h2) if gate else 1.0) * h0 + h2
        if reduce == "mean":
            h = h.mean(0)[None]
        elif reduce == "max":
            h = h.max(0)[None]
        elif reduce == "attention":
            h = (softmax(linear(p["pool"], h)[:, 0]) @ h)[None]
        elif reduce == "cosine":
            h = (softmax(np.array([cosine(a, b) for a, b in zip(h, labels, strict=True)]) / temperature) @ h)[None]
        rows.append(h)
    joined = np.concatenate(rows, axis=-1)
    if fusion == "gated":
        gates = softmax(np.stack(np.split(linear(p["fusion_gate"], joined), len(rows), axis=-1)), axis=0)
        joined = sum(g * r for g, r in zip(gates, rows, strict=True))
    fused = layer_norm(p["fuse_norm"], gelu(linear(p["fuse"], joined)))
    scores = linear(p["classifier"], fused)
    if reduce == "rows":
        similarity = np.array([cosine(h, label) for h, label in zip(fused, labels, strict=True)])
        return scores[:, 0] + np.asarray(p["row_bias"], np.float64), similarity
    return scores[0], np.array([cosine(fused[0], label) for label in labels])


def kl(p, q):
    kept = p > 0
    return float((p[kept] * np.log(p[kept] / q[kept])).sum())


def apc(logits, similarity, temperature):
    p, q = softmax(np.asarray(logits, np.float64)), softmax(np.asarray(similarity, np.float64) / temperature)
    m = (p + q) / 2
    return kl(p, m) / 2 + kl(q, m) / 2


# ---- DeepMSI-MER ----


def causal_conv(p, x, dilation):
    """Weight-normed causal convolution of one sequence [time, feat], written tap by tap."""
    v, g = np.asarray(p["direction"], np.float64), np.asarray(p["magnitude"], np.float64)
    y = np.tile(np.asarray(p["bias"], np.float64), (len(x), 1))
    for out in range(v.shape[2]):
        w = g[out] * v[:, :, out] / np.sqrt((v[:, :, out] ** 2).sum())
        for t in range(len(x)):
            for j in range(len(v)):
                if t - j * dilation >= 0:
                    y[t, out] += x[t - j * dilation] @ w[j]
    return y


def tcn(p, x):
    """Every step of one sequence [time, feat]."""
    for i in range(len(p["blocks"])):
        q = p["blocks"][str(i)]
        y = np.maximum(causal_conv(q["first"], x, 2**i), 0)
        y = np.maximum(causal_conv(q["second"], y, 2**i), 0)
        x = np.maximum(y + (linear(q["shortcut"], x) if "shortcut" in q else x), 0)
    return x


def vsc_published(x, guide, keep):
    """One sample [length, dim]: the kept tokens in order of score."""
    score = softmax(np.array([cosine(x.mean(0) + guide, token) for token in x]))
    return x[np.argsort(-score, kind="stable")[:keep]]


def vsc_fixed(x, guide, keep, threshold, alpha):
    """One sample: kept tokens in their own order, similar ones merged into them, duplicates of a target summed."""
    score = softmax(np.array([cosine(x.mean(0) + guide, token) for token in x]))
    kept = sorted(np.argsort(-score, kind="stable")[:keep])
    dropped = [i for i in range(len(x)) if i not in kept]
    out = [x[j].copy() for j in kept]
    for n, j in enumerate(kept):
        total, weight = np.zeros(x.shape[1]), 0.0
        for i in dropped:
            similar = np.array([cosine(x[i], x[r]) for r in kept])
            if similar[n] > threshold:
                theta = softmax(similar)[n]
                total, weight = total + theta * x[i], weight + theta
        if weight > 0:
            out[n] = alpha * x[j] + (1 - alpha) * total / weight
    return np.stack(out)


def exact_gelu(x):
    from math import erf

    return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def projection_head(p, x):
    y = linear(p["project"], x)
    return layer_norm(p["norm"], y + linear(p["mix"], exact_gelu(y)), 1e-5)


def mlp_block(p, x, published):
    """At evaluation; a BatchNorm that has seen nothing has mean 0 and variance 1."""
    x = linear(p["dense"], x)
    if published:
        scale, bias = (np.asarray(p["norm"][k], np.float64) for k in ("scale", "bias"))
        x = x / np.sqrt(1 + 1e-5) * scale + bias
    else:
        x = layer_norm(p["norm"], x)
    return np.where(x > 0, x, 0.01 * x)


def deepmsi(p, sample, *, keep, published, vsc=True, threshold=0.6, alpha=0.9):
    """DeepMSI-MER on one sample {modality: [time, feat]} at evaluation; returns (logits, projections of length 1)."""
    x = {m: np.asarray(v, np.float64) for m, v in sample.items()}
    pooled = {m: v.mean(0) for m, v in x.items() if m != "visual"}
    for m, query in p["queries"].items() if "queries" in p else ():
        pooled[m] = softmax(linear(query, x[m])[:, 0]) @ x[m]
    if "visual" in x:
        frames = x["visual"]
        if vsc:
            guide = p.get("guide", 0.0)
            if pooled:
                hidden = mlp_block(
                    p["early"]["hidden"],
                    np.concatenate([pooled[m] for m in ("text", "audio") if m in pooled]),
                    published,
                )
                guide = linear(p["early"]["out"], hidden)
            count = int(np.ceil(keep * len(frames) - 1e-4))
            frames = (
                vsc_published(frames, guide, count) if published else vsc_fixed(frames, guide, count, threshold, alpha)
            )
        pooled["visual"] = tcn(p["tcn"], frames)[-1]
    order = [m for m in ("visual", "text", "audio") if m in pooled]
    projections = {m: projection_head(p["heads"][m], pooled[m]) for m in order}
    y = np.concatenate([projections[m] for m in order])
    for i in range(len(p["late"])):
        y = mlp_block(p["late"][str(i)], y, published)
    return linear(p["classifier"], y), {m: v / np.linalg.norm(v) for m, v in projections.items()}


def contrastive(anchor, other, label, temperature, per_positive):
    """The published double sum, sample by sample."""
    a = anchor / np.linalg.norm(anchor, axis=1, keepdims=True)
    b = other / np.linalg.norm(other, axis=1, keepdims=True)
    each = []
    for i in range(len(label)):
        positives = [j for j in range(len(label)) if j != i and label[j] == label[i]]
        negatives = [k for k in range(len(label)) if label[k] != label[i]]
        below = sum(np.exp(a[i] @ b[k] / temperature) for k in negatives)
        terms = [
            -np.log(np.exp(a[i] @ b[j] / temperature) / (np.exp(a[i] @ b[j] / temperature) + below)) for j in positives
        ]
        if per_positive:
            each += [np.mean(terms)] if terms else []
        else:
            each.append(sum(terms) / (len(label) - 1))
    return np.mean(each) if each else 0.0


def window_attention(x, p, heads, window, shift, published):
    """One frame [height, width, dim]. Tokens of a window see each other if they also are neighbours in the frame; `published`, in
    the stage that compresses: if they are on the same side of where the only window's edge would be, others lose 100."""
    height, width, dim = x.shape
    tiles = [-(-side // window) for side in (height, width)]
    size = [-(-side // n) for side, n in zip((height, width), tiles, strict=True)]
    out = np.zeros((height, width, dim))
    shift = [shift * ((window if published else w) // 2) * (n > 1) for w, n in zip(size, tiles, strict=True)]
    where = {}
    for r in range(size[0] * tiles[0]):
        for c in range(size[1] * tiles[1]):
            at = (r + shift[0]) % (size[0] * tiles[0]), (c + shift[1]) % (size[1] * tiles[1])
            where.setdefault((r // size[0], c // size[1]), []).append((at, (r % size[0], c % size[1])))
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    scale = np.exp(np.minimum(p["log_scale"], np.log(100)))
    q, k, v = (linear(p[name], x).reshape(height, width, heads, -1) for name in ("query", "key", "value"))

    def bias(a, b):
        most = size if published else [8, 8]
        d = np.array([m * (i - j) / max(1, w - 1) for i, j, w, m in zip(a, b, size, most, strict=True)])
        hidden = np.maximum(linear(p["bias_in"], np.sign(d) * np.log2(np.abs(d) + 1) / np.log2(8)), 0)
        return 16 * sigmoid(linear(p["bias_out"], hidden))

    def sees(a, b):
        (at, inside), (other, inside_other) = a, b
        if published:
            edges = [w - s for w, s in zip(size, shift, strict=True)]
            return all((i >= e) == (j >= e) for i, j, e in zip(inside, inside_other, edges, strict=True))
        return all(abs(i - j) < w for i, j, w in zip(at, other, size, strict=True))

    for tokens in where.values():
        real = [t for t in tokens if t[0][0] < height and t[0][1] < width]
        for me in real:
            others = [t for t in real if published or sees(me, t)]
            score = np.array([[scale[h] * unit(q[me[0]][h]) @ unit(k[t[0]][h]) for h in range(heads)] for t in others])
            score += np.array([bias(me[1], t[1]) - 100 * (not sees(me, t)) for t in others])
            share = softmax(score, 0)
            mixed = sum(share[i][:, None] * v[t[0]] for i, t in enumerate(others))
            out[me[0]] = linear(p["out"], mixed.reshape(-1))
    return out


def patch_merging(x, p, norm_first):
    """One frame [height, width, dim]: of every 2 x 2 tokens the left two, upper and lower, then the right two; outside are zeros."""
    height, width, dim = x.shape
    out = np.zeros((-(-height // 2), -(-width // 2), 2 * dim))
    for r in range(len(out)):
        for c in range(len(out[0])):
            four = [(2 * r, 2 * c), (2 * r + 1, 2 * c), (2 * r, 2 * c + 1), (2 * r + 1, 2 * c + 1)]
            y = np.concatenate([x[i, j] if i < height and j < width else np.zeros(dim) for i, j in four])
            if norm_first:
                out[r, c] = linear(p["reduce"], layer_norm(p["norm"], y, 1e-5))
            else:
                out[r, c] = layer_norm(p["norm"], linear(p["reduce"], y), 1e-5)
    return out


def swin_block(x, p, heads, window, shift, side=None, guide=None, published=False):
    a = window_attention(x, p["attention"], heads, window, shift, published)
    y = (a if published and side is not None else x) + layer_norm(p["attention_norm"], a, 1e-5)
    if side is not None:
        tokens = y.reshape(-1, y.shape[-1])
        found = vsc_published(tokens, guide, side**2) if published else vsc_fixed(tokens, guide, side**2, 0.6, 0.9)
        y = found.reshape(side, side, -1)
        y = layer_norm(p["compression_norm"], y, 1e-5) if published else y
    hidden = exact_gelu(linear(p["mlp_in"], y))
    return y + layer_norm(p["mlp_norm"], linear(p["mlp_out"], hidden), 1e-5)
